# SPDX-License-Identifier: GPL-2.0-or-later
"""What a vCPU leaves the guest for, and what is done about it."""

from __future__ import annotations

from typing import Final, Protocol

from pvtime.abi.kvm_run import ExitReason, SystemEventType
from pvtime.engine.base import Outcome
from pvtime.engine.kvm.bus import Bus
from pvtime.engine.kvm.page import ADDRESS, DATA, EXIT_REASON, IS_WRITE, LENGTH, RunPage
from pvtime.engine.kvm.vcpu import Vcpu
from pvtime.errors import EngineError, PvtimeError

__all__ = ["MMIO", "Exits", "Owner"]

# Plain ints: looking a member up in its enum costs as much as the comparison.
MMIO: Final = int(ExitReason.MMIO)
_NOTHING: Final = frozenset({int(ExitReason.DEBUG), int(ExitReason.INTR)})


class Owner(Protocol):
    """What a vCPU's thread tells the engine."""

    def end(self, outcome: Outcome) -> None:
        """The guest asked for the end."""

    def restart(self) -> None:
        """The guest asked for a restart."""

    def fail(self, error: PvtimeError) -> None:
        """The vCPU cannot go on."""


class Exits:
    """Serves one vCPU's exits, on its thread."""

    def __init__(self, vcpu: Vcpu, page: RunPage, bus: Bus, owner: Owner) -> None:
        self._vcpu = vcpu
        self._page = page
        self._bus = bus
        self._owner = owner

    def serve(self) -> None:
        """Do what the guest left for.

        :raises EngineError: nothing handles it; the message names the exit, the vCPU and its PC.
        """
        page = self._page
        reason = page.words[EXIT_REASON]
        if reason == MMIO:
            if page.bytes[IS_WRITE]:
                self._bus.write(*page.written())
            else:
                page.quads[DATA] = self._bus.read(page.quads[ADDRESS], page.words[LENGTH])
        elif reason == ExitReason.SYSTEM_EVENT:
            self._system_event(self._vcpu.run_page.system_event.type)
        elif reason == ExitReason.ARM_NISV:
            # An access to no memory by an instruction that the CPU does not describe (a pair, a vector): on
            # a real bus with nothing there it is an external abort.
            self._vcpu.inject_external_abort()
        elif reason not in _NOTHING:
            raise EngineError(self._vcpu.describe_exit())

    def _system_event(self, kind: int) -> None:
        if kind == SystemEventType.SHUTDOWN:
            self._owner.end(Outcome.POWER_OFF)
        elif kind == SystemEventType.RESET:
            self._owner.restart()
        else:
            raise EngineError(f"{self._vcpu.describe_exit()} (system event {kind})")
