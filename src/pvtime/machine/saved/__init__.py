# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that was stopped and written down: the codec of its states, and its directory."""
