# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers and layouts that guest and host agree on: no state, no input or output."""
