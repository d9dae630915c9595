# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run shows and leaves: the joined figures, the tables, the JSON report."""
