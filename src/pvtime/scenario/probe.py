# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side of the probe (guests/probe.S): tells its vCPUs what to do and returns their answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pvtime.abi.arm64 import Esr, SysReg
from pvtime.abi.psci import Affinity, Psci, PsciReturn
from pvtime.engine.base import Engine
from pvtime.errors import PvtimeError
from pvtime.machine.layout import RAM_BASE
from pvtime.machine.machine import Machine
from pvtime.scenario.instruction import mrs, msr
from pvtime.scenario.mailbox import ALIGN, ANOTHER, ARGUMENTS, BOXES, CODE, SIZE, Command, State
from pvtime.scenario.mailbox import Mailbox as Box
from pvtime.scenario.wakeup import FIRST_SPI, enable_wakeup

__all__ = ["Difference", "Probe", "ProbeError", "ProbeFaultError"]

PATIENCE: Final = 30
"""Seconds after which a vCPU is given up."""

NAP: Final = 0.000_05
"""Seconds between two looks for an answer."""


class ProbeError(PvtimeError):
    """The probe did not do what it was told."""


class ProbeFaultError(ProbeError):
    """What it was told raised an exception in the guest."""

    def __init__(self, what: str, esr: int, far: int, elr: int) -> None:
        super().__init__(f"{what}: exception in the guest, ESR {esr:#x}, FAR {far:#x}, ELR {elr:#x}")
        self.esr = Esr(esr)
        self.far = far
        self.elr = elr


@dataclass(frozen=True)
class Difference:
    """A word in guest memory that is not what it was."""

    address: int
    value: int


class Probe:
    """The vCPUs of a machine that runs the probe at ``base``. One thread uses it.

    Each method waits until the vCPU has done it. Medians, embedded engine, nothing else busy: 0.08 ms for a
    load, 0.21 ms for a hypervisor call, 0.24 ms for a load by a vCPU that rests.

    :raises ProbeFaultError: of each method: the guest took an exception.
    :raises ProbeError: of each method: the guest ended, or does not answer.
    """

    def __init__(self, machine: Machine, engine: Engine, base: int = RAM_BASE) -> None:
        self.machine = machine
        self._memory = machine.memory
        self.engine = engine
        self._raised: set[int] = set()
        self.base = base

    # Hypervisor calls and memory.

    def call(self, vcpu: int, function: int, *arguments: int) -> tuple[int, ...]:
        """Make an HVC with ``function`` and arguments in X0 to X3; return X0 to X3."""
        return self._ask(vcpu, Command.CALL, function, *arguments)

    def load(self, vcpu: int, address: int, size: int = 8) -> int:
        """Return 1, 4 or 8 bytes at an aligned address."""
        return self._ask(vcpu, Command.LOAD, address, size)[0]

    def store(self, vcpu: int, address: int, value: int, size: int = 8) -> None:
        """Store 1, 4 or 8 bytes at an aligned address."""
        self._ask(vcpu, Command.STORE, address, size, value)

    def fill(self, vcpu: int, address: int, size: int, word: int) -> None:
        """Make every 8-byte word of ``size`` bytes of RAM ``word``."""
        self._ask(vcpu, Command.FILL, address, size, word)

    def copy(self, vcpu: int, to: int, source: int, size: int) -> None:
        """Copy RAM, in words of 8 bytes from the first on."""
        self._ask(vcpu, Command.COPY, to, source, size)

    def differences(self, vcpu: int, address: int, size: int, word: int) -> list[Difference]:
        """Return the 8-byte words of ``size`` bytes of RAM that are not ``word``."""
        found, end = [], address + size
        while address < end:
            at, value, *_ = self._ask(vcpu, Command.COMPARE, address, end - address, word)
            if not at:
                break
            found.append(Difference(at, value))
            address = at + 8
        return found

    # The CPU.

    def execute(self, vcpu: int, instruction: int, *arguments: int) -> tuple[int, ...]:
        """Execute an instruction with arguments in X0 to X3, which alone it may change; return them."""
        x = arguments + (0,) * (4 - len(arguments))
        return self._ask(vcpu, Command.EXECUTE, *x, instruction)

    def read_register(self, vcpu: int, register: SysReg) -> int:
        """Return a system register."""
        return self.execute(vcpu, mrs(register))[0]

    def write_register(self, vcpu: int, register: SysReg, value: int) -> None:
        """Set a system register."""
        self.execute(vcpu, msr(register), value)

    def spin(self, vcpu: int, rounds: int) -> None:
        """Execute a loop of two instructions ``rounds`` times."""
        self._ask(vcpu, Command.SPIN, rounds)

    def rest(self, vcpu: int) -> None:
        """Idle in WFI until the next command; a vCPU that does not rest polls for one, and is busy."""
        enable_wakeup(self, vcpu)
        self._ask(vcpu, Command.REST)

    def context(self, vcpu: int) -> int:
        """Return what a vCPU found in X0 when it started: the device tree's address, or CPU_ON's argument."""
        return self._memory.load_u64(self._field(vcpu, Box.context.offset))

    # Power.

    def start_vcpu(self, vcpu: int, by: int = 0, context: int = 0) -> None:
        """Have vCPU ``by`` switch another one on; it starts polling."""
        self._memory.store_u64(self._field(vcpu, Box.state.offset), State.ABSENT)
        target = self.machine.mpidrs[vcpu]
        answer = self.call(by, Psci.CPU_ON_64, target, self.base + ANOTHER, context)[0]
        if answer != PsciReturn.SUCCESS:
            raise ProbeError(f"vCPU {vcpu} cannot be switched on: PSCI answers {answer - (1 << 64)}")
        self.await_start(vcpu)

    def stop_vcpu(self, vcpu: int, by: int = 0) -> None:
        """Have a vCPU switch itself off; vCPU ``by``, another one, sees that it is."""
        self._tell(vcpu, Command.CALL, Psci.CPU_OFF)
        target = self.machine.mpidrs[vcpu]
        self._await(
            f"vCPU {vcpu}: CPU_OFF",
            lambda: self.call(by, Psci.AFFINITY_INFO_64, target)[0] == Affinity.OFF,
        )
        self._lower(vcpu)

    def power_off(self, vcpu: int = 0) -> None:
        """Switch the machine off. :meth:`Engine.wait` says when it is."""
        self._tell(vcpu, Command.CALL, Psci.SYSTEM_OFF)

    def reset(self, vcpu: int = 0) -> Probe:
        """Reset the machine, which clears its memory; return the probe that it boots, on vCPU 0 alone."""
        self._tell(vcpu, Command.CALL, Psci.SYSTEM_RESET)
        asked = self._field(vcpu, Box.asked.offset)
        self._await(f"vCPU {vcpu}: SYSTEM_RESET", lambda: not self._memory.load_u64(asked))
        self._lower(vcpu)
        first = Probe(self.machine, self.engine)
        first.await_start(0)
        return first

    def take_over(self, to: int, argument: int = 0) -> Probe:
        """Have a second kernel, a copy of the first, take over as kexec does: on vCPU 0, with the MMU off.

        The other vCPUs are to be switched off before. What the first one had in memory stays.

        :param to: the second kernel's base.
        :param argument: its X0.
        """
        if to % ALIGN:
            raise ValueError(f"{to:#x} is not a multiple of {ALIGN:#x}")
        second = Probe(self.machine, self.engine, to)
        self.copy(0, to, self.base, CODE)
        self.fill(0, to + CODE, SIZE - CODE, 0)
        self._ask(0, Command.JUMP, to, SIZE, argument)
        second.await_start(0)
        return second

    def await_start(self, vcpu: int) -> None:
        """Wait until a vCPU is there to be told something."""
        state = self._field(vcpu, Box.state.offset)
        self._await(f"vCPU {vcpu} starts", lambda: self._memory.load_u64(state) != State.ABSENT)

    # Mailboxes.

    def _field(self, vcpu: int, offset: int) -> int:
        return self.base + BOXES[vcpu] + offset

    def _tell(self, vcpu: int, command: Command, *arguments: int) -> int:
        """Give a vCPU a command, and wake it; return the command's number. The caller lowers the wire."""
        resting = self._memory.load_u64(self._field(vcpu, Box.state.offset)) == State.RESTING
        asked = self._field(vcpu, Box.asked.offset)
        self._memory.store_u64(self._field(vcpu, Box.command.offset), command)
        for index, argument in enumerate(arguments + (0,) * (ARGUMENTS - len(arguments))):
            self._memory.store_u64(self._field(vcpu, Box.arguments.offset + 8 * index), argument)
        # What gives up and takes the interpreter's lock keeps the stores before it and behind it in order.
        time.sleep(0)
        number = self._memory.load_u64(asked) + 1
        self._memory.store_u64(asked, number)
        if resting:
            self._raised.add(vcpu)
            self.engine.set_irq(FIRST_SPI + vcpu, True)
        return number

    def _lower(self, vcpu: int) -> None:
        """Lower a vCPU's wire, if it is raised."""
        if vcpu in self._raised:
            self._raised.remove(vcpu)
            self.engine.set_irq(FIRST_SPI + vcpu, False)

    def _ask(self, vcpu: int, command: Command, *arguments: int) -> tuple[int, ...]:
        """Give a vCPU a command and wait for the answer."""
        what = f"vCPU {vcpu}: {command.name.lower()} {' '.join(hex(argument) for argument in arguments)}"
        number = self._tell(vcpu, command, *arguments)
        answered = self._field(vcpu, Box.answered.offset)
        self._await(what, lambda: self._memory.load_u64(answered) == number)
        self._lower(vcpu)
        results = [self._field(vcpu, Box.results.offset + 8 * index) for index in range(4)]
        values = tuple(self._memory.load_u64(address) for address in results)
        if self._memory.load_u64(self._field(vcpu, Box.fault.offset)):
            raise ProbeFaultError(what, *values[:3])
        return values

    def _await(self, what: str, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not happened():
            outcome = self.engine.wait(NAP)
            if outcome is not None and not happened():
                raise ProbeError(f"{what}: the guest has ended ({outcome.value})")
            if time.monotonic() > end:
                raise ProbeError(f"{what}: no answer within {PATIENCE} s")
