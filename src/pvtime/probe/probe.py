# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side of the probe (guests/probe.S): tells its vCPUs what to do and returns their answers."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.abi.arm64 import SysReg
from pvtime.abi.psci import Affinity, Psci, PsciReturn
from pvtime.engine.base import Engine
from pvtime.machine.layout import RAM_BASE
from pvtime.machine.machine import Machine
from pvtime.probe.instruction import mrs, msr
from pvtime.probe.mailbox import ALIGN, ANOTHER, CODE, SIZE, Command
from pvtime.probe.post import Post, ProbeError
from pvtime.probe.wakeup import enable_wakeup

__all__ = ["Difference", "Probe"]


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
        self.engine = engine
        self.base = base
        self._post = Post(machine.memory, engine, base)

    # Hypervisor calls and memory.

    def call(self, vcpu: int, function: int, *arguments: int) -> tuple[int, ...]:
        """Make an HVC with ``function`` and arguments in X0 to X3; return X0 to X3."""
        return self._post.ask(vcpu, Command.CALL, function, *arguments)

    def load(self, vcpu: int, address: int, size: int = 8) -> int:
        """Return 1, 4 or 8 bytes at an aligned address."""
        return self._post.ask(vcpu, Command.LOAD, address, size)[0]

    def store(self, vcpu: int, address: int, value: int, size: int = 8) -> None:
        """Store 1, 4 or 8 bytes at an aligned address."""
        self._post.ask(vcpu, Command.STORE, address, size, value)

    def fill(self, vcpu: int, address: int, size: int, word: int) -> None:
        """Make every 8-byte word of ``size`` bytes of RAM ``word``."""
        self._post.ask(vcpu, Command.FILL, address, size, word)

    def copy(self, vcpu: int, to: int, source: int, size: int) -> None:
        """Copy RAM, in words of 8 bytes from the first on."""
        self._post.ask(vcpu, Command.COPY, to, source, size)

    def differences(self, vcpu: int, address: int, size: int, word: int) -> list[Difference]:
        """Return the 8-byte words of ``size`` bytes of RAM that are not ``word``."""
        found, end = [], address + size
        while address < end:
            at, value, *_ = self._post.ask(vcpu, Command.COMPARE, address, end - address, word)
            if not at:
                break
            found.append(Difference(at, value))
            address = at + 8
        return found

    # The CPU.

    def execute(self, vcpu: int, instruction: int, *arguments: int) -> tuple[int, ...]:
        """Execute an instruction with arguments in X0 to X3, which alone it may change; return them."""
        x = arguments + (0,) * (4 - len(arguments))
        return self._post.ask(vcpu, Command.EXECUTE, *x, instruction)

    def read_register(self, vcpu: int, register: SysReg) -> int:
        """Return a system register."""
        return self.execute(vcpu, mrs(register))[0]

    def write_register(self, vcpu: int, register: SysReg, value: int) -> None:
        """Set a system register."""
        self.execute(vcpu, msr(register), value)

    def spin(self, vcpu: int, rounds: int) -> None:
        """Execute a loop of two instructions ``rounds`` times."""
        self._post.ask(vcpu, Command.SPIN, rounds)

    def rest(self, vcpu: int) -> None:
        """Idle in WFI until the next command; a vCPU that does not rest polls for one, and is busy."""
        enable_wakeup(self, vcpu)
        self._post.ask(vcpu, Command.REST)

    def context(self, vcpu: int) -> int:
        """Return what a vCPU found in X0 when it started: the device tree's address, or CPU_ON's argument."""
        return self._post.context(vcpu)

    # Power.

    def start_vcpu(self, vcpu: int, by: int = 0, context: int = 0) -> None:
        """Have vCPU ``by`` switch another one on; it starts polling."""
        target = self.machine.mpidrs[vcpu]
        answer = self.call(by, Psci.CPU_ON_64, target, self.base + ANOTHER, context)[0]
        if answer != PsciReturn.SUCCESS:
            raise ProbeError(f"vCPU {vcpu} cannot be switched on: PSCI answers {answer - (1 << 64)}")
        self.await_start(vcpu)

    def stop_vcpu(self, vcpu: int, by: int = 0) -> None:
        """Have a vCPU switch itself off; vCPU ``by``, another one, sees that it is."""
        self._post.tell(vcpu, Command.CALL, Psci.CPU_OFF)
        target = self.machine.mpidrs[vcpu]
        self._post.wait(
            f"vCPU {vcpu}: CPU_OFF",
            lambda: self.call(by, Psci.AFFINITY_INFO_64, target)[0] == Affinity.OFF,
        )
        self._post.settle(vcpu)

    def power_off(self, vcpu: int = 0) -> None:
        """Switch the machine off. :meth:`Engine.wait` says when it is."""
        self._post.tell(vcpu, Command.CALL, Psci.SYSTEM_OFF)

    def reset(self, vcpu: int = 0) -> Probe:
        """Reset the machine, which clears its memory; return the probe that it boots, on vCPU 0 alone."""
        self._post.tell(vcpu, Command.CALL, Psci.SYSTEM_RESET)
        self._post.wait(f"vCPU {vcpu}: SYSTEM_RESET", lambda: not self._post.asked(vcpu))
        self._post.settle(vcpu)
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
        self._post.ask(0, Command.JUMP, to, SIZE, argument)
        second.await_start(0)
        return second

    def await_start(self, vcpu: int) -> None:
        """Wait until a vCPU is there to be told something."""
        self._post.wait(f"vCPU {vcpu} starts", lambda: self._post.ready(vcpu))
