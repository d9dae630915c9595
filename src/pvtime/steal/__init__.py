# SPDX-License-Identifier: GPL-2.0-or-later
"""Stolen time: where it is measured, how it is accounted, where it is written, how the guest asks for it."""
