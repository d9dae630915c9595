# SPDX-License-Identifier: GPL-2.0-or-later
"""The embedded engine's loop on a clock that the test moves, with a core that takes the time it is told."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TypeAlias, cast

from framework.clocks import FakeClock
from pvtime.abi.gicv2 import Gicc, Gicd, GicdSgir
from pvtime.abi.psci import Psci
from pvtime.engine.base import Ending, VcpuSample
from pvtime.engine.unicorn.core import Core, Exit
from pvtime.engine.unicorn.run_loop import RunLoop
from pvtime.engine.unicorn.vcpu import SchedState
from pvtime.inject.schedule import Schedule
from pvtime.machine.gicv2 import GicV2
from pvtime.machine.image import KernelImage
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.timer import NS_PER_TICK, PHYSICAL_TIMER_PPI

__all__ = ["MS", "SGI", "TIMER_INTID", "WFI", "Bench", "Program", "bench", "busy", "stopped"]

MS = 1_000_000
WFI = "wfi"

TIMER_INTID = 16 + PHYSICAL_TIMER_PPI
SGI = 5

Action: TypeAlias = int | str | Callable[[], object]
"""A time to run, in ns; WFI; or something that the guest has its hypervisor do."""
Program: TypeAlias = Generator[Action, None, None]


@dataclass
class FakeCore:
    """Runs a program for each vCPU, by the clock."""

    clock: FakeClock
    programs: dict[int, Callable[[], Program]]
    model: str = "fake"
    page_sizes: frozenset[int] = frozenset({4096})
    irq: bool = False
    kicked: bool = False
    spinning: set[int] = field(default_factory=set)
    """vCPUs that wait for another one in all that they run."""
    loop: RunLoop = field(init=False)

    def __post_init__(self) -> None:
        self.contexts = SimpleNamespace(
            new=self._new,
            load=self._load,
            save=lambda _context: None,
            move_counter=lambda _offset, _contexts: None,
        )
        self.address_space = SimpleNamespace(forget_code=lambda: None)
        self._program: Program | None = None
        self._left: dict[int, int] = {}

    def _new(self, mpidr: int, _entry: int, _x0: int) -> Program:
        self._left.pop(mpidr, None)
        return self.programs[mpidr]()

    def _load(self, program: Program) -> None:
        self._program = program

    def set_irq(self, level: bool) -> None:
        self.irq = level

    def kick(self) -> None:
        self.kicked = True

    def spins(self) -> bool:
        return self.loop.loaded.index in self.spinning

    def run(self) -> Exit:
        index = self.loop.loaded.index
        assert self._program is not None
        while not self.kicked:
            left = self._left.pop(index, 0)
            if not left:
                action = next(self._program)
                if action == WFI:
                    if not self.irq:
                        return Exit.IDLE
                    continue
                if not isinstance(action, int):
                    assert callable(action)
                    action()
                    continue
                left = action
            end = self.clock.time + left
            deadline = self.loop.timer.deadline
            if deadline is not None and deadline < end:
                self._left[index] = end - max(deadline, self.clock.time)
                self.clock.time = max(deadline, self.clock.time)
                return Exit.STOPPED
            self.clock.time = end
            return Exit.STOPPED  # as a call of another thread has it: a busy vCPU comes back to the loop
        self.kicked = False
        return Exit.STOPPED


@dataclass
class Bench:
    """A loop with its clock and core."""

    loop: RunLoop
    clock: FakeClock
    core: FakeCore
    ending: Ending
    paused_at: int = 0

    def pause(self, ns: int) -> None:
        """Pause the machine for a while."""
        self.paused_at = self.clock.time
        self.loop.pause()
        before = self.sample()
        self.clock.block(ns)
        assert self.sample() == before
        self.loop.resume()

    def iterate(self, until: Callable[[], bool]) -> None:
        """Go round until something has happened."""
        for _ in range(10_000):
            if until():
                return
            self.loop.iterate()
        raise AssertionError(f"it did not happen: {self.sample()}")

    def run_for(self, ns: int) -> None:
        """Go round until that much time has passed."""
        end = self.clock.time + ns
        self.iterate(lambda: self.clock.time >= end)

    def sample(self) -> list[VcpuSample]:
        """Return the figures: truth is the structure, the columns add up to the time passed, to the ns."""
        samples = self.loop.sample()
        assert [sample.structure_ns for sample in samples] == [sample.truth_ns for sample in samples]
        until = self.paused_at if self.loop.paused else self.clock.time
        passed = until - self.clock.origin + self.clock.host_suspended
        assert [sample.elapsed_ns for sample in samples] == [passed for _ in samples], samples
        return samples

    def call(self, function: int, *arguments: int) -> Callable[[], object]:
        """Return what makes a hypervisor call."""
        registers = [function, *arguments, 0, 0, 0][:4]
        return lambda: self.loop.traps.hypercall(registers)

    def set_timer(self, ns: int) -> Callable[[], object]:
        """Return what has the calling vCPU's timer expire so long from then on, a multiple of a tick."""

        def write() -> None:
            timer = self.loop.loaded.timer
            self.use_gic()
            timer.write_control(0)
            timer.write_compare((self.clock.time + ns) // NS_PER_TICK)
            timer.write_control(1)
            self.loop.timer_changed()

        return write

    def _gic(self) -> GicV2:
        gic = self.loop.vm.gic
        assert isinstance(gic, GicV2)
        return gic

    def use_gic(self) -> None:
        """Enable the private interrupts of the calling vCPU."""
        gic = self._gic()
        gic.distributor.write(Gicd.CTLR, 4, 1)
        gic.distributor.write(Gicd.ISENABLER, 4, 1 << TIMER_INTID | 1 << SGI)
        gic.cpu_interface.write(Gicc.CTLR, 4, 1)
        gic.cpu_interface.write(Gicc.PMR, 4, 0xFF)

    def acknowledge(self) -> None:
        """Take the calling vCPU's interrupt and complete it."""
        gic = self._gic()
        gic.cpu_interface.write(Gicc.EOIR, 4, gic.cpu_interface.read(Gicc.IAR, 4))

    def interrupt(self, index: int) -> Callable[[], object]:
        """Return what sends another vCPU an interrupt."""
        sgi = GicdSgir.of(cpus=1 << index, intid=SGI)
        return lambda: self.loop.vm.gic.distributor.write(Gicd.SGIR, 4, sgi)

    @property
    def states(self) -> list[SchedState]:
        """What each vCPU does."""
        return [vcpu.state for vcpu in self.loop.vm.vcpus]


@contextmanager
def bench(
    *programs: Callable[[Bench], Program],
    steal: tuple[str, ...] = (),
    pauses: bool = False,
    on: int | None = None,
) -> Iterator[Bench]:
    """Make a loop that has booted; vCPU 0 has switched the first ``on`` vCPUs on (None: all)."""
    machine = Machine(
        MachineConfig(len(programs), 64 << 20, KernelImage(bytes(64), 0, 4096, None)),
        lambda _: None,
        lambda _: None,
    )
    clock, ending = FakeClock(10**12 * NS_PER_TICK), Ending()
    core = FakeCore(clock, {})
    schedule = Schedule.parse(steal, pauses=pauses)
    loop = RunLoop(machine, {}, schedule, ending, clock, core_maker=lambda *_: cast("Core", core))
    core.loop = loop
    loop.timer.preempt_now = core.kick  # type: ignore[method-assign]
    made = Bench(loop, clock, core, ending)

    def first() -> Program:
        for index in range(1, len(programs) if on is None else on):
            yield made.call(Psci.CPU_ON_64, index, 0x4000_0000, 0)
        yield from programs[0](made)

    core.programs[0] = first
    for index, program in enumerate(programs[1:], 1):
        core.programs[index] = lambda program=program: program(made)  # type: ignore[misc]

    def wait(timeout: float | None) -> None:
        assert timeout is not None, "every vCPU sleeps for ever"
        clock.block(round(timeout * 1e9))

    loop.calls.wait = wait  # type: ignore[method-assign]
    try:
        loop.boot_or_resume()
        yield made
    finally:
        machine.close()


def stopped(sample: VcpuSample, ns: int) -> VcpuSample:
    """Return the figures after a time in which nothing executed."""
    return replace(sample, stopped_ns=sample.stopped_ns + ns)


def busy(_bench: Bench) -> Program:
    """Run for ever."""
    while True:
        yield 100 * MS
