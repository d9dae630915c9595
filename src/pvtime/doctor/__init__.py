# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands between this machine and stolen time: as a host of guests, and as a guest."""
