# SPDX-License-Identifier: GPL-2.0-or-later
"""The bare guest that does what it is told, and the host's side of it."""
