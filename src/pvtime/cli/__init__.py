# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``pvtime`` command: parse, call, print."""

from pvtime.cli.command import main

__all__ = ["main"]
