# SPDX-License-Identifier: GPL-2.0-or-later
"""The course of a run: where a machine comes from, the session, the terminal, the control socket."""
