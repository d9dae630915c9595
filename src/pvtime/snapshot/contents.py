# SPDX-License-Identifier: GPL-2.0-or-later
"""What a saved machine is, apart from its memory and from where it is kept or sent."""

from __future__ import annotations

from dataclasses import dataclass, field

from pvtime.machine.codec import JsonObject

__all__ = ["SavedMachine"]


@dataclass(frozen=True)
class SavedMachine:
    """A machine but for its memory."""

    engine: str
    """The engine that it ran on."""
    config: JsonObject
    """What it was configured to."""
    state: JsonObject
    """Everything that changed since."""
    kernel: bytes = field(repr=False)
    """With the initrd, what a reset needs."""
    initrd: bytes = field(repr=False)
