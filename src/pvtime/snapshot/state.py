# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's state, of the parts that are the same on every engine and of those that are not."""

from __future__ import annotations

from pvtime.engine.base import Engine
from pvtime.errors import SavedStateError
from pvtime.machine.codec import JsonObject
from pvtime.machine.machine import Machine

__all__ = ["restore", "state"]


def state(machine: Machine, engine: Engine) -> JsonObject:
    """Return the state of a machine that is paused."""
    return {"machine": machine.state(), "engine": engine.state()}


def restore(document: JsonObject, machine: Machine, engine: Engine) -> None:
    """Have an engine that has not started go on from a state; the memory has been filled.

    :raises SavedStateError: the state is none of such a machine's.
    """
    for part in ("machine", "engine"):
        if not isinstance(document.get(part), dict):
            raise SavedStateError(f"the machine's state has no {part}")
    machine.restore(document["machine"])
    engine.restore(document["engine"])
