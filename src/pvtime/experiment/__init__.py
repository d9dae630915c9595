# SPDX-License-Identifier: GPL-2.0-or-later
"""Experiments: one run again and again, with another steal or placement, and the figures compared."""
