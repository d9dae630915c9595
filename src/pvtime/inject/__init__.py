# SPDX-License-Identifier: GPL-2.0-or-later
"""Stealing on purpose: schedules, and holding a vCPU off the CPU for what one says."""
