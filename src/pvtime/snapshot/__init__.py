# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that leaves its process: saved to a directory, restored from it, sent and received."""
