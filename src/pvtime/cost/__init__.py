# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of an update of stolen time."""
