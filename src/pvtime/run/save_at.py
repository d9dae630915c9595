# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of ``--save-at`` before the machine runs: what cannot be saved then is refused now."""

from __future__ import annotations

import os
from pathlib import Path

from pvtime.engine.base import Engine
from pvtime.errors import EngineError, UsageError, oserror_context
from pvtime.files import free_bytes, try_new_file
from pvtime.machine.machine import Machine

__all__ = ["refuse_unsavable", "refuse_unwritable"]


def refuse_unwritable(directory: Path) -> None:
    """Check that a directory of this name can be created; change nothing there.

    :raises UsageError: ``directory`` exists, or its parent is not a directory, or takes no files.
    """
    parent = directory.absolute().parent
    if os.path.lexists(directory):
        raise UsageError(f"{directory} exists already, and nothing is overwritten: choose another name")
    if not parent.is_dir():
        raise UsageError(f"{parent} is not a directory: create it first")
    with oserror_context(f"{parent} cannot be written to", UsageError):
        try_new_file(parent)


def refuse_unsavable(directory: Path, machine: Machine, engine: Engine) -> None:
    """Check that the machine can be saved to ``directory`` at any later time, as far as this is known.

    The guest may come to use all its memory, so the file system must have room for that.

    :raises UsageError: the engine cannot save it, or the file system is too small.
    """
    try:
        engine.check_savable()
    except EngineError as error:
        raise UsageError(f"--save-at: {error}") from error
    parent = directory.absolute().parent
    with oserror_context(f"{parent}", UsageError):
        free = free_bytes(parent)
    config = machine.config
    size = sum(memory.size for memory in machine.memories) + len(config.kernel.data) + len(config.initrd)
    if free is not None and free < size:
        raise UsageError(
            f"--save-at: {parent} has {free >> 20} MiB free, and the machine may need "
            f"{(size >> 20) + 1} MiB: make room there, choose another place, or save a smaller guest"
        )
