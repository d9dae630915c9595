# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of a run: live view, tables, and the JSON report."""
