# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios: what can happen to stolen time, each with a guest that makes it happen."""
