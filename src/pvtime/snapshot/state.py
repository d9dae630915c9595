# SPDX-License-Identifier: GPL-2.0-or-later
"""State of a paused machine, but for its memory: the devices of every engine, and the engine's own part."""

from __future__ import annotations

from typing import Final, Self

from pvtime.engine.base import Engine
from pvtime.errors import SavedStateError
from pvtime.machine.machine import Machine, MachineState
from pvtime.records import dataclass
from pvtime.snapshot.codec import JsonObject, decode, encode

__all__ = ["MAX_STATE", "SavedState"]

MAX_STATE: Final = 16 << 20
"""Bytes of an encoded state: 32 KiB for each of 512 vCPUs. One takes 4 KiB on the embedded engine, 14 KiB
on KVM."""


@dataclass(frozen=True)
class SavedState:
    """A machine's state as it is saved and sent."""

    machine: MachineState
    engine: JsonObject
    """Encoded :attr:`Engine.state_type`, which is known when the engine has been built."""

    @classmethod
    def of(cls, machine: Machine, engine: Engine) -> Self:
        """Return the state of a machine that is paused.

        :raises EngineError: the engine cannot be saved; the message says why.
        """
        return cls(machine.state(), encode(engine.state()))

    def restore(self, machine: Machine, engine: Engine, name: str) -> None:
        """Restore the state into an engine that has not started. The memory must have been filled.

        :param name: name of its document, for messages.
        :raises SavedStateError: the state belongs to another machine. Stop the engine then.
        """
        state: object = decode(engine.state_type, self.engine, f"{name}.engine")
        try:
            machine.restore(self.machine)
            engine.restore(state)
        except SavedStateError as error:
            raise SavedStateError(f"{name}: {error}") from error
