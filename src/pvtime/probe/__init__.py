# SPDX-License-Identifier: GPL-2.0-or-later
"""The bare guest that executes commands of its host, and the host's side of it."""
