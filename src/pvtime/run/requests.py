# SPDX-License-Identifier: GPL-2.0-or-later
"""What a running machine may be asked for over its control socket, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.snapshot.send import Moved

__all__ = ["Migrate", "Moved", "Progress", "Save", "Saved"]


@dataclass(frozen=True)
class Save:
    """Be saved to a new directory; the answer is :class:`Saved`."""

    directory: str
    """An absolute path."""
    keep_running: bool


@dataclass(frozen=True)
class Migrate:
    """Move to the process that listens at an address; the answer is :class:`Moved`."""

    address: str


@dataclass(frozen=True)
class Saved:
    """A machine that was saved."""

    bytes: int
    """Of the files, holes not counted."""
    pause_ns: int
    """For how long the machine did not run, or has not run when it ended."""


@dataclass(frozen=True)
class Progress:
    """Memory was sent once more while the machine ran; told before :class:`Moved`."""

    round: int
    bytes: int
