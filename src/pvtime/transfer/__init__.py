# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that leaves its process: to a directory, or over a socket while it runs."""
