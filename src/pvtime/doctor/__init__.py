# SPDX-License-Identifier: GPL-2.0-or-later
"""Examination of this machine for stolen time: as a host of guests, and as a guest."""
