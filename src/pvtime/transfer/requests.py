# SPDX-License-Identifier: GPL-2.0-or-later
"""What a running machine may be asked for over its control socket."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Migrate", "Save"]


@dataclass(frozen=True)
class Save:
    """Be saved to a new directory."""

    directory: str
    """An absolute path."""
    keep_running: bool


@dataclass(frozen=True)
class Migrate:
    """Move to the process that listens at an address."""

    address: str
