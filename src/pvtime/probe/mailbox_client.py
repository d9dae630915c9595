# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side of the probe's mailboxes: one command to a vCPU, and one answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pvtime.abi.arm64 import Esr
from pvtime.engine.base import Engine
from pvtime.errors import PvtimeError
from pvtime.machine.memory import GuestMemory
from pvtime.probe.mailbox import ARGUMENTS, BOXES, FIRST_SPI, RESULTS, Command, Mailbox, ProbeState

__all__ = ["ANSWER_TIMEOUT_S", "MailboxClient", "ProbeError", "ProbeFaultError"]

ANSWER_TIMEOUT_S: Final = 120
"""Default of the longest wait for an answer, in seconds."""

POLL_INTERVAL_S: Final = 0.000_05
"""Between two checks for an answer."""


class ProbeError(PvtimeError):
    """The probe did not execute a command."""


class ProbeFaultError(ProbeError):
    """A command raised an exception in the guest."""

    def __init__(self, what: str, esr: int, far: int, elr: int) -> None:
        super().__init__(f"{what}: exception in the guest, ESR {esr:#x}, FAR {far:#x}, ELR {elr:#x}")
        self.esr = Esr(esr)
        self.far = far
        self.elr = elr


class MailboxClient:
    """The mailboxes of the probe at ``base``. One thread uses them.

    :param timeout_s: longest wait for an answer.
    """

    def __init__(self, memory: GuestMemory, engine: Engine, base: int, timeout_s: float) -> None:
        self._memory = memory
        self._engine = engine
        self._base = base
        self._timeout_s = timeout_s
        self._raised: set[int] = set()

    def _load(self, vcpu: int, offset: int) -> int:
        return self._memory.load_u64(self._base + BOXES[vcpu] + offset)

    def _store(self, vcpu: int, offset: int, value: int) -> None:
        self._memory.store_u64(self._base + BOXES[vcpu] + offset, value)

    def asked(self, vcpu: int) -> int:
        """Return how many commands a vCPU was given, over all its starts."""
        return self._load(vcpu, Mailbox.asked.offset)

    def ready(self, vcpu: int) -> bool:
        """Whether a vCPU waits for a command. The last one of a vCPU that is off is never answered."""
        started = self._load(vcpu, Mailbox.state.offset) != ProbeState.ABSENT
        return started and self._load(vcpu, Mailbox.answered.offset) == self.asked(vcpu)

    def context(self, vcpu: int) -> int:
        """Return X0 of a vCPU at its start."""
        return self._load(vcpu, Mailbox.context.offset)

    def send(self, vcpu: int, command: Command, *arguments: int) -> None:
        """Send a vCPU a command and wake it; :meth:`lower_wakeup` must follow."""
        resting = self._load(vcpu, Mailbox.state.offset) == ProbeState.RESTING
        self._store(vcpu, Mailbox.command.offset, command)
        for index, argument in enumerate(arguments + (0,) * (ARGUMENTS - len(arguments))):
            self._store(vcpu, Mailbox.arguments.offset + 8 * index, argument)
        # Releasing and taking the interpreter's lock orders the stores before and after it.
        time.sleep(0)
        self._store(vcpu, Mailbox.asked.offset, self.asked(vcpu) + 1)
        if resting:
            self._raised.add(vcpu)
            self._engine.set_irq(FIRST_SPI + vcpu, True)

    def lower_wakeup(self, vcpu: int) -> None:
        """Lower the interrupt line that woke a vCPU; call this once it is done."""
        if vcpu in self._raised:
            self._raised.remove(vcpu)
            self._engine.set_irq(FIRST_SPI + vcpu, False)

    def request(self, vcpu: int, command: Command, *arguments: int) -> tuple[int, ...]:
        """Give a vCPU a command, and return the results.

        :raises ProbeFaultError: the guest took an exception.
        :raises ProbeError: the guest ended, or does not answer.
        """
        self.send(vcpu, command, *arguments)
        words = " ".join([command.name.lower(), *map(hex, arguments)])
        return self.results(vcpu, f"vCPU {vcpu}: {words}")

    def results(self, vcpu: int, what: str) -> tuple[int, ...]:
        """Wait until a command that was sent is carried out, and return its results.

        :param what: the command, for messages.
        :raises ProbeFaultError: the guest took an exception.
        :raises ProbeError: the guest ended, or does not answer.
        """
        self.wait(what, lambda: self.ready(vcpu))
        self.lower_wakeup(vcpu)
        results = tuple(self._load(vcpu, Mailbox.results.offset + 8 * index) for index in range(RESULTS))
        if self._load(vcpu, Mailbox.fault.offset):
            raise ProbeFaultError(what, *results[:3])
        return results

    def wait(self, what: str, happened: Callable[[], bool]) -> None:
        """Wait until ``what`` has happened.

        :raises ProbeError: the guest ended, or it takes too long.
        """
        end = time.monotonic() + self._timeout_s
        while not happened():
            outcome = self._engine.wait(POLL_INTERVAL_S)
            if outcome is not None and not happened():
                raise ProbeError(f"{what}: the guest has ended ({outcome.value})")
            if time.monotonic() > end:
                raise ProbeError(f"{what}: no answer within {self._timeout_s} s")
