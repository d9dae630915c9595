# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side of the probe (guests/probe.S): commands to its vCPUs, and their results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pvtime.abi.arm64 import ID_AA64PFR0_EL1, IdAa64Pfr0, SysReg
from pvtime.abi.gicv2 import SPI_BASE, Gicc, GiccCtlr, Gicd, GicdCtlr
from pvtime.abi.gicv3 import GICD_IROUTER, ICC_IGRPEN1_EL1, ICC_PMR_EL1
from pvtime.abi.psci import Affinity, Psci, PsciReturn
from pvtime.engine.base import Engine
from pvtime.machine.layout import GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, RAM_BASE
from pvtime.machine.machine import Machine
from pvtime.machine.psci import MPIDR_AFFINITY
from pvtime.probe.assembler import MPIDR_EL1
from pvtime.probe.encoding import mrs, msr
from pvtime.probe.mailbox import ALIGN, CODE, FIRST_SPI, SECONDARY_ENTRY, SIZE, Command
from pvtime.probe.mailbox_client import ANSWER_TIMEOUT_S, MailboxClient, ProbeError

__all__ = ["Difference", "LptReading", "LptWatch", "Probe"]

_ANY_PRIORITY: Final = 0xFF
_WORD: Final = 4


@dataclass(frozen=True)
class LptReading:
    """One reading of Live Physical Time."""

    ticks: int
    """The time."""
    counter: int
    """CNTVCT_EL0, which it comes from."""
    retries: int
    """Readings repeated since the sequence number had changed."""
    unchecked: int
    """The first result, whether or not the sequence number had changed."""


@dataclass(frozen=True)
class LptWatch:
    """The last of many readings of Live Physical Time."""

    ticks: int
    counter: int
    retries: int
    """Of all readings."""
    backwards: int
    """Number of readings that were less than the one before."""


@dataclass(frozen=True)
class Difference:
    """A word in guest memory that differs from the expected value."""

    address: int
    value: int


class Probe:
    """The vCPUs of a machine that runs the probe at ``base``. One thread uses it.

    Each method waits until the vCPU is done. Medians, embedded engine, nothing else busy: 0.08 ms for a
    load, 0.21 ms for a hypervisor call, 0.24 ms for a load by a vCPU that rests.

    :param timeout_s: longest wait for an answer.
    :raises ProbeFaultError: of each method: the guest took an exception.
    :raises ProbeError: of each method: the guest ended, or does not answer.
    """

    def __init__(
        self,
        machine: Machine,
        engine: Engine,
        base: int = RAM_BASE,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self.machine = machine
        self.engine = engine
        self.base = base
        self._mailboxes = MailboxClient(machine.memory, engine, base, timeout_s)

    # Hypervisor calls and memory.

    def call(self, vcpu: int, function: int, *arguments: int) -> tuple[int, ...]:
        """Make an HVC with ``function`` and arguments in X0 to X3; return X0 to X3."""
        return self._mailboxes.request(vcpu, Command.CALL, function, *arguments)

    def repeat_call(self, vcpu: int, function: int, times: int) -> tuple[int, ...]:
        """Make an HVC without arguments once or more in a row; return the last one's X0 to X3."""
        return self._mailboxes.request(vcpu, Command.CALLS, function, times)

    def load(self, vcpu: int, address: int, size: int = 8) -> int:
        """Return 1, 4 or 8 bytes at an aligned address."""
        return self._mailboxes.request(vcpu, Command.LOAD, address, size)[0]

    def store(self, vcpu: int, address: int, value: int, size: int = 8) -> None:
        """Store 1, 4 or 8 bytes at an aligned address."""
        self._mailboxes.request(vcpu, Command.STORE, address, size, value)

    def fill(self, vcpu: int, address: int, size: int, word: int) -> None:
        """Make every 8-byte word of ``size`` bytes of RAM ``word``."""
        self._mailboxes.request(vcpu, Command.FILL, address, size, word)

    def copy(self, vcpu: int, to: int, source: int, size: int) -> None:
        """Copy RAM, in words of 8 bytes from the first on."""
        self._mailboxes.request(vcpu, Command.COPY, to, source, size)

    def differences(self, vcpu: int, address: int, size: int, word: int) -> list[Difference]:
        """Return the 8-byte words of ``size`` bytes of RAM that are not ``word``."""
        different, end = [], address + size
        while address < end:
            changed, value, *_ = self._mailboxes.request(vcpu, Command.COMPARE, address, end - address, word)
            if not changed:
                break
            different.append(Difference(changed, value))
            address = changed + 8
        return different

    # The CPU.

    def execute(self, vcpu: int, instruction: int, *arguments: int) -> tuple[int, ...]:
        """Execute an instruction with arguments in X0 to X3; return them. It may change no others."""
        x = arguments + (0,) * (4 - len(arguments))
        return self._mailboxes.request(vcpu, Command.EXECUTE, *x, instruction)

    def read_register(self, vcpu: int, register: SysReg) -> int:
        """Return a system register."""
        return self.execute(vcpu, mrs(0, register))[0]

    def write_register(self, vcpu: int, register: SysReg, value: int) -> None:
        """Set a system register."""
        self.execute(vcpu, msr(register, 0), value)

    def spin(self, vcpu: int, rounds: int) -> None:
        """Execute a loop of two instructions ``rounds`` times."""
        self._mailboxes.request(vcpu, Command.SPIN, rounds)

    def rest(self, vcpu: int) -> None:
        """Idle in WFI until the next command; a vCPU that does not rest polls for one, and is busy."""
        self._enable_wakeup(vcpu)
        self._mailboxes.request(vcpu, Command.REST)

    def _enable_wakeup(self, vcpu: int) -> None:
        """Have the GICv2 or GICv3 signal the interrupt that ends a vCPU's WFI; repeating it is harmless."""
        intid = SPI_BASE + FIRST_SPI + vcpu
        distributor = GIC_DISTRIBUTOR.base
        if IdAa64Pfr0(self.read_register(vcpu, ID_AA64PFR0_EL1)).gic:
            affinity = self.read_register(vcpu, MPIDR_EL1) & MPIDR_AFFINITY
            self.store(vcpu, distributor + GICD_IROUTER + 8 * intid, affinity)
            self.write_register(vcpu, ICC_PMR_EL1, _ANY_PRIORITY)
            self.write_register(vcpu, ICC_IGRPEN1_EL1, 1)
        else:
            self.store(vcpu, distributor + Gicd.ITARGETSR + intid, 1 << vcpu, size=1)
            self.store(vcpu, GIC_CPU_INTERFACE.base + Gicc.PMR, _ANY_PRIORITY, _WORD)
            on = GiccCtlr.of(enable_group0=1, enable_group1=1)
            self.store(vcpu, GIC_CPU_INTERFACE.base + Gicc.CTLR, on, _WORD)
        # KVM's are edge-triggered at reset; nobody else has one of these sixteen.
        self.store(vcpu, distributor + Gicd.ICFGR + intid // 16 * _WORD, 0, _WORD)
        enabled = Gicd.ISENABLER + intid // 32 * _WORD
        self.store(vcpu, distributor + enabled, 1 << intid % 32, _WORD)
        self.store(vcpu, distributor + Gicd.CTLR, GicdCtlr.of(enable_group0=1, enable_group1=1), _WORD)

    # Live Physical Time. The guest may be moved between the beginning and the end of a command.

    def begin_lpt_read(self, vcpu: int, structure: int, gate: int) -> None:
        """Begin to read the time; wait until the counter has been read, with the scale still to come.

        :param gate: address of a word of RAM; the reading goes on when it becomes 2.
        """
        self.machine.memory.store_u64(gate, 0)
        self._mailboxes.send(vcpu, Command.LPT_READ, structure, gate)
        self._mailboxes.wait(f"vCPU {vcpu}: LPT", lambda: self.machine.memory.load_u64(gate) == 1)

    def end_lpt_read(self, vcpu: int, gate: int) -> LptReading:
        """Return the reading that was begun, here or before a move."""
        self.machine.memory.store_u64(gate, 2)
        return LptReading(*self._mailboxes.results(vcpu, f"vCPU {vcpu}: LPT"))

    def read_lpt(self, vcpu: int, structure: int, gate: int) -> LptReading:
        """Read the time."""
        self.begin_lpt_read(vcpu, structure, gate)
        return self.end_lpt_read(vcpu, gate)

    def begin_lpt_watch(self, vcpu: int, structure: int, sequence_number: int) -> None:
        """Have a vCPU read the time over and over until a reading has that sequence number."""
        self._mailboxes.send(vcpu, Command.LPT_WATCH, structure, sequence_number)

    def end_lpt_watch(self, vcpu: int) -> LptWatch:
        """Return the last reading of a watch that was begun, here or before a move."""
        return LptWatch(*self._mailboxes.results(vcpu, f"vCPU {vcpu}: LPT until the next run"))

    def context(self, vcpu: int) -> int:
        """Return X0 of a vCPU at its start: the device tree's address, or CPU_ON's argument."""
        return self._mailboxes.context(vcpu)

    # Power.

    def start_vcpu(self, vcpu: int, by: int = 0, context: int = 0) -> None:
        """Have vCPU ``by`` switch another one on; it starts polling."""
        target = self.machine.mpidrs[vcpu]
        answer = self.call(by, Psci.CPU_ON_64, target, self.base + SECONDARY_ENTRY, context)[0]
        if answer != PsciReturn.SUCCESS:
            raise ProbeError(f"vCPU {vcpu} cannot be switched on: PSCI answers {answer - (1 << 64)}")
        self.await_start(vcpu)

    def stop_vcpu(self, vcpu: int, by: int = 0) -> None:
        """Have a vCPU switch itself off; vCPU ``by``, another one, sees that it is."""
        self._mailboxes.send(vcpu, Command.CALL, Psci.CPU_OFF)
        target = self.machine.mpidrs[vcpu]
        self._mailboxes.wait(
            f"vCPU {vcpu}: CPU_OFF",
            lambda: self.call(by, Psci.AFFINITY_INFO_64, target)[0] == Affinity.OFF,
        )
        self._mailboxes.lower_wakeup(vcpu)

    def power_off(self, vcpu: int = 0) -> None:
        """Switch the machine off. :meth:`Engine.wait` says when it is."""
        self._mailboxes.send(vcpu, Command.CALL, Psci.SYSTEM_OFF)

    def reset(self, vcpu: int = 0) -> Probe:
        """Reset the machine, which clears its memory; return the probe that it boots, on vCPU 0 alone."""
        self._mailboxes.send(vcpu, Command.CALL, Psci.SYSTEM_RESET)
        self._mailboxes.wait(f"vCPU {vcpu}: SYSTEM_RESET", lambda: not self._mailboxes.asked(vcpu))
        self._mailboxes.lower_wakeup(vcpu)
        rebooted = Probe(self.machine, self.engine)
        rebooted.await_start(0)
        return rebooted

    def take_over(self, to: int, argument: int = 0) -> Probe:
        """Have a second kernel, a copy of the first, take over as kexec does: on vCPU 0, with the MMU off.

        The other vCPUs must be off. Memory of the first kernel stays as it is.

        :param to: the second kernel's base.
        :param argument: its X0.
        """
        if to % ALIGN:
            raise ValueError(f"{to:#x} is not a multiple of {ALIGN:#x}")
        second = Probe(self.machine, self.engine, to)
        self.copy(0, to, self.base, CODE)
        self.fill(0, to + CODE, SIZE - CODE, 0)
        self._mailboxes.request(0, Command.JUMP, to, SIZE, argument)
        second.await_start(0)
        return second

    def await_start(self, vcpu: int) -> None:
        """Wait until a vCPU has started and takes commands."""
        self._mailboxes.wait(f"vCPU {vcpu} starts", lambda: self._mailboxes.ready(vcpu))
