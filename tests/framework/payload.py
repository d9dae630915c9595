# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of a few instructions: a payload takes the kernel's place and leaves its results in RAM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar, cast

import pytest

from framework.engines import Choice
from framework.evidence import guest_evidence, witness
from framework.wait import DEADLINE, wait_until
from pvtime.abi.psci import Psci
from pvtime.engine.base import Engine, Outcome, VcpuSample
from pvtime.inject.schedule import NOTHING, Schedule
from pvtime.machine.gic import GicVersion
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import RAM_BASE
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.probe.assembler import ELR_EL1, ESR_EL1, FAR_EL1, MPIDR_EL1, VBAR_EL1, Program
from pvtime.probe.guest import machine_with_engine

if TYPE_CHECKING:
    from pvtime.engine.unicorn.engine import UnicornEngine

__all__ = [
    "RESULTS",
    "Finished",
    "Guest",
    "Payload",
    "boot",
    "boot_on",
    "both_cores",
    "run",
    "run_on",
]

E = TypeVar("E", bound=Engine)

RESULTS: Final = RAM_BASE + (1 << 20)
"""Address of the 64-bit words that a payload stores; zero at the start."""

_SLOTS: Final = 512
_SIZE: Final = 2 << 20
_MEMORY: Final = 64 << 20


class Payload(Program):
    """A program with the phrases that payloads are made of. X26 to X28 are theirs."""

    def __init__(self) -> None:
        super().__init__(RAM_BASE)

    def call(self, function: int, *args: int) -> Self:
        """Make a hypervisor call; X0 to X3 have its answer."""
        for register, value in enumerate([function, *args]):
            self.mov(register, value)
        return self.hvc()

    def keep(self, rt: int, slot: int) -> Self:
        """Store a register as result number ``slot``."""
        return self.mov(28, RESULTS + 8 * slot).store(rt, 28)

    def await_result(self, slot: int) -> Self:
        """Spin until result number ``slot`` is not zero."""
        name = f"await {self.here:#x}"
        return self.mov(28, RESULTS + 8 * slot).label(name).load(27, 28).cbz(27, name)

    def power_off(self) -> Self:
        """End the run, and have something to execute behind it: the kvm engine's last measurement steps."""
        return self.call(Psci.SYSTEM_OFF).halt()

    def cpu_off(self) -> Self:
        """Switch the vCPU off. The same holds."""
        return self.call(Psci.CPU_OFF).halt()

    def cpu_on(self, target: int, entry: str, context: int = 0) -> Self:
        """Start another vCPU at a label."""
        return self.mov(0, Psci.CPU_ON_64).mov(1, target).adr(2, entry).mov(3, context).hvc()

    def spin(self, count: int) -> Self:
        """Execute twice as many instructions as ``count`` says."""
        name = f"spin {self.here:#x}"
        return self.mov(28, count).label(name).sub(28, 28, 1).cbnz(28, name)

    def own_index(self, rd: int) -> Self:
        """Get the vCPU's index: the lowest byte of MPIDR_EL1."""
        return self.mrs(rd, MPIDR_EL1).low_bits(rd, rd, 8)

    def vectors(self, sync: str = "stuck", irq: str = "stuck") -> Self:
        """Emit a vector table, label ``vectors``: exceptions from EL1 with its own stack go to the labels."""
        self.align(0x800).label("vectors")
        for offset in range(0, 0x800, 0x80):
            self.b({0x200: sync, 0x280: irq}.get(offset, "stuck")).align(0x80)
        return self.label("stuck").call(Psci.SYSTEM_OFF).b("stuck")

    def use_vectors(self) -> Self:
        """Point VBAR_EL1 to the vector table."""
        return self.adr(26, "vectors").msr(VBAR_EL1, 26)

    def keep_fault(self, slot: int) -> Self:
        """Store ESR_EL1, FAR_EL1 and ELR_EL1 as three results; X25 is lost."""
        for offset, register in enumerate([ESR_EL1, FAR_EL1, ELR_EL1]):
            self.mrs(25, register).keep(25, slot + offset)
        return self


both_cores = pytest.mark.parametrize("internals", ["on", "off"])
"""A test of the embedded engine by either way to drive its CPU."""


@dataclass
class Guest(Generic[E]):
    """A payload's machine with its engine."""

    machine: Machine
    engine: E
    console: bytearray = field(default_factory=bytearray)

    def result(self, slot: int) -> int:
        """Return what the payload has stored there."""
        return self.machine.memory.load_u64(RESULTS + 8 * slot)

    def tell(self, slot: int, value: int = 1) -> None:
        """Store a result in the payload's place: what it awaits."""
        self.machine.memory.store_u64(RESULTS + 8 * slot, value)

    def until(self, happened: Callable[[], object]) -> None:
        """Wait for something that the payload does."""
        wait_until(happened, self.engine)

    def finish(self) -> Self:
        """Start, and wait until the payload powers off."""
        self.engine.start()
        return self.end()

    def end(self) -> Self:
        """Wait until the payload powers off."""
        assert self.engine.wait(DEADLINE) is Outcome.POWER_OFF, self.engine.sample()
        return self


@contextmanager
def _boot(
    code: Program,
    build: Callable[[Machine, Schedule], E],
    vcpus: int,
    cpu: str | None,
    steal: Schedule,
    gic: GicVersion = GicVersion.AUTO,
) -> Iterator[Guest[E]]:
    kernel = KernelImage(code.assemble(), 0, _SIZE, None)
    console = bytearray()
    config = MachineConfig(vcpus, _MEMORY, kernel, cpu=cpu, gic=gic)
    with (
        machine_with_engine(lambda machine: build(machine, steal), config, console.extend) as (
            machine,
            engine,
        ),
        witness(partial(guest_evidence, partial(console.decode, "ascii", "replace"), engine)),
    ):
        yield Guest(machine, engine, console)


@contextmanager
def boot_on(
    engine: Choice,
    payload: Program,
    vcpus: int = 1,
    steal: tuple[str, ...] = (),
    *,
    pauses: bool = False,
    gic: GicVersion = GicVersion.AUTO,
) -> Iterator[Guest[Engine]]:
    """Make a machine whose kernel is the payload, with that engine; it is stopped at the end."""
    with _boot(payload, engine.build, vcpus, None, Schedule.parse(steal, pauses=pauses), gic) as guest:
        yield guest


@contextmanager
def boot(
    payload: Program,
    internals: str,
    vcpus: int = 1,
    cpu: str | None = None,
    gic: GicVersion = GicVersion.AUTO,
) -> Iterator[Guest[UnicornEngine]]:
    """Do so with the embedded engine, and have all that it has."""
    options = {"internals": internals} | ({"allow-abort": "on"} if cpu == "max" else {})
    build = cast("Callable[[Machine, Schedule], UnicornEngine]", Choice("unicorn", options).build)
    with _boot(payload, build, vcpus, cpu, NOTHING, gic) as guest:
        yield guest


@dataclass(frozen=True)
class Finished:
    """The results of a payload that powered off."""

    results: tuple[int, ...]
    samples: list[VcpuSample]
    console: bytes


def _finish(guest: Guest[E]) -> Finished:
    guest.finish()
    results = tuple(guest.result(slot) for slot in range(_SLOTS))
    return Finished(results, guest.engine.sample(), bytes(guest.console))


def run_on(engine: Choice, payload: Program, vcpus: int = 1) -> Finished:
    """Run a payload to its power-off."""
    with boot_on(engine, payload, vcpus) as guest:
        return _finish(guest)


def run(
    payload: Program,
    internals: str,
    vcpus: int = 1,
    cpu: str | None = None,
    gic: GicVersion = GicVersion.AUTO,
) -> Finished:
    """Run a payload to its power-off on the embedded engine."""
    with boot(payload, internals, vcpus, cpu, gic) as guest:
        return _finish(guest)
