# SPDX-License-Identifier: GPL-2.0-or-later
"""What an update of stolen time costs."""
