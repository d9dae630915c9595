# SPDX-License-Identifier: GPL-2.0-or-later
"""Exits of a vCPU from the guest: their description in kvm_run, and the answer to each."""

from __future__ import annotations

import ctypes
import mmap
from typing import Final, Protocol

from pvtime.abi.kvm_run import ExitReason, KvmRun, Mmio, SystemEventType
from pvtime.engine.base import Outcome
from pvtime.engine.kvm.mmio import MmioBus
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.errors import EngineError, PvtimeError

__all__ = [
    "ADDRESS",
    "DATA",
    "EXIT_REASON",
    "IS_WRITE",
    "LENGTH",
    "MMIO",
    "ExitHandler",
    "KvmRunView",
    "MachineEvents",
]

_DETAIL: Final = KvmRun.detail.offset
_IMMEDIATE_EXIT: Final = KvmRun.immediate_exit.offset

EXIT_REASON: Final = KvmRun.exit_reason.offset // 4
"""Index into :attr:`KvmRunView.words`."""
LENGTH: Final = (_DETAIL + Mmio.len.offset) // 4
"""Index into :attr:`KvmRunView.words`: length of an MMIO access, in bytes."""
ADDRESS: Final = (_DETAIL + Mmio.phys_addr.offset) // 8
"""Index into :attr:`KvmRunView.quads`."""
DATA: Final = (_DETAIL + Mmio.data.offset) // 8
"""Index into :attr:`KvmRunView.quads`: the value that the guest writes,
or the one that it reads, which KVM takes at the next entry."""
IS_WRITE: Final = _DETAIL + Mmio.is_write.offset
"""Index into :attr:`KvmRunView.bytes`."""

_MASKS: Final = {size: (1 << 8 * size) - 1 for size in (1, 2, 4, 8)}

# Plain ints: looking a member up in its enum costs as much as the comparison.
MMIO: Final = int(ExitReason.MMIO)
_NO_WORK: Final = frozenset({int(ExitReason.DEBUG), int(ExitReason.INTR)})


class KvmRunView:
    """A vCPU's struct kvm_run as bytes, 32-bit words and 64-bit words.

    Indexing a memoryview takes a third of the time of a ctypes field (CPython 3.11), and these fields are
    read at every exit, with the interpreter's lock held. So the loop of the vCPU's thread indexes the views
    itself; what is seldom read goes through :attr:`VcpuFd.kvm_run`.
    """

    def __init__(self, mapping: mmap.mmap) -> None:
        self.bytes = memoryview(mapping)[: ctypes.sizeof(KvmRun)]
        self.words = self.bytes.cast("I")
        self.quads = self.bytes.cast("Q")

    def written(self) -> tuple[int, int, int]:
        """Return address, size in bytes and value of the guest's write."""
        length = self.words[LENGTH]
        return self.quads[ADDRESS], length, self.quads[DATA] & _MASKS[length]

    def set_immediate_exit(self, on: bool) -> None:
        """Have the next KVM_RUN return at once, or not. Called from any thread."""
        self.bytes[_IMMEDIATE_EXIT] = on

    def close(self) -> None:
        """Release the mapping."""
        self.words.release()
        self.quads.release()
        self.bytes.release()


class MachineEvents(Protocol):
    """Receiver of what happens on a vCPU's thread to the whole machine."""

    def end(self, outcome: Outcome) -> None:
        """End the run: the guest asked for it."""

    def restart(self) -> None:
        """Reset the machine: the guest asked for it."""

    def fail(self, error: PvtimeError) -> None:
        """End the run: the vCPU cannot continue."""


class ExitHandler:
    """Answers one vCPU's exits, on its thread."""

    def __init__(self, vcpu: VcpuFd, view: KvmRunView, bus: MmioBus, events: MachineEvents) -> None:
        self._vcpu = vcpu
        self._view = view
        self._bus = bus
        self._events = events

    def handle(self) -> None:
        """Answer the exit that kvm_run describes.

        :raises EngineError: it has no handler; the message names the exit, the vCPU and its PC.
        """
        view = self._view
        reason = view.words[EXIT_REASON]
        if reason == MMIO:
            if view.bytes[IS_WRITE]:
                self._bus.write(*view.written())
            else:
                view.quads[DATA] = self._bus.read(view.quads[ADDRESS], view.words[LENGTH])
        elif reason == ExitReason.SYSTEM_EVENT:
            self._handle_system_event(self._vcpu.kvm_run.system_event.type)
        elif reason == ExitReason.ARM_NISV:
            # An access to no memory by an instruction that the CPU does not describe (a pair, a vector): on
            # a real bus without a device at the address it is an external abort.
            self._vcpu.inject_external_abort()
        elif reason not in _NO_WORK:
            raise EngineError(self._vcpu.describe_exit())

    def _handle_system_event(self, kind: int) -> None:
        if kind == SystemEventType.SHUTDOWN:
            self._events.end(Outcome.POWER_OFF)
        elif kind == SystemEventType.RESET:
            self._events.restart()
        else:
            raise EngineError(f"{self._vcpu.describe_exit()} (system event {kind})")
