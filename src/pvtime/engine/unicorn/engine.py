# SPDX-License-Identifier: GPL-2.0-or-later
"""The embedded engine: one thread that runs the vCPUs of a machine in turn."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from pvtime.engine.base import BREAK, Engine, Outcome, VcpuSample
from pvtime.engine.unicorn.guest_traps import HypercallObserver
from pvtime.engine.unicorn.mistakes import broken_notice
from pvtime.engine.unicorn.run_loop import RunLoop
from pvtime.engine.unicorn.saved import UnicornState, refuse_unsavable
from pvtime.engine.unicorn.unicorn_vm import UnicornVm
from pvtime.engine.unicorn.vcpu import SchedState
from pvtime.errors import EngineError
from pvtime.inject.schedule import NOTHING, Schedule
from pvtime.machine.dirty import Comparison, DirtyTracker
from pvtime.machine.layout import Region
from pvtime.machine.machine import Machine
from pvtime.machine.memory_map import Access

__all__ = ["UnicornEngine"]

T = TypeVar("T")


class UnicornEngine(Engine):
    """Runs a machine on the emulated CPU.

    :param options: ``internals`` = ``auto`` (use the library's internals where they are known), ``on``
        (or refuse), ``off`` (the public interface alone).
    :param steal: the steal to inject.
    :raises UsageError: an unknown CPU model or option, or a schedule for vCPUs that the machine lacks.
    :raises EngineError: the internals were asked for and cannot be used.
    """

    name = "unicorn"
    state_type = UnicornState

    def __init__(
        self, machine: Machine, options: Mapping[str, str] | None = None, steal: Schedule = NOTHING
    ) -> None:
        super().__init__()
        self.mistake = (options or {}).get(BREAK)
        self.notice = self.mistake and broken_notice(self.mistake)
        self._machine = machine
        self._loop = RunLoop(machine, options or {}, steal, self._ending)
        self._thread = threading.Thread(target=self._main, name="pvtime-engine", daemon=True)
        machine.connect(self.set_irq)

    def _main(self) -> None:
        # For who looks at the host: ps -L, perf, pvtime top. Python tells the kernel from 3.14 on.
        with contextlib.suppress(OSError):
            Path("/proc/thread-self/comm").write_text(self._thread.name)
        self._loop.run()

    def start(self) -> None:
        self._loop.alive = True
        self._thread.start()

    def stop(self) -> None:
        if self._thread.ident is None:
            return
        self._loop.calls.submit(partial(self._loop.end, Outcome.STOPPED))
        self._thread.join()

    def sample(self) -> list[VcpuSample]:
        return self.call(self._loop.sample)

    def pause(self) -> None:
        self.call(self._loop.pause)

    def resume(self) -> None:
        self.call(self._loop.resume)

    def reset(self) -> None:
        self.call(self._loop.reset)

    def set_steal(self, schedule: Schedule) -> None:
        schedule.check_vcpus(self._machine.config.vcpus)
        self.call(partial(self._loop.set_steal, schedule))

    def check_savable(self) -> None:
        refuse_unsavable(self.vm)

    def state(self) -> UnicornState:
        return self.call(self._loop.save)

    def restore(self, state: UnicornState) -> None:
        if self._thread.ident is not None:
            raise EngineError("the engine has started: a machine can only be restored before")
        self._loop.restore(state)
        lpt, here = self._machine.lpt, self.vm.counter.rate.hz
        if state.frequency != here and (lpt is None or not lpt.asked):
            counter = (
                f"its counter had {state.frequency} Hz, and this host's has {here}: its clocks run at "
                f"{here / state.frequency:.3g} times their speed (--counter-frequency {state.frequency} "
                "keeps it)"
            )
            self.notice = "; ".join(filter(None, [self.notice, counter]))

    def start_dirty_log(self) -> DirtyTracker:
        return Comparison(self._machine.memories)

    def protect(self, region: Region, access: Access) -> None:
        self.call(partial(self._loop.protect, region, access))

    def set_irq(self, spi: int, level: bool) -> None:
        self._loop.set_irq(spi, level)

    # What only this engine has.

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the engine's thread, between two slices, and return its result."""
        return work() if self._loop.on_thread else self._loop.calls.call(work)

    @property
    def vm(self) -> UnicornVm:
        """The parts that execute the machine; the engine's thread uses them."""
        return self._loop.vm

    @property
    def internals(self) -> bool:
        """Whether the library's internals are in use."""
        return self.vm.core.internals

    def run_states(self) -> list[SchedState]:
        """Return every vCPU's state, without a look at the engine's thread."""
        return [vcpu.state for vcpu in self.vm.vcpus]

    def run_delays(self) -> list[int]:
        """Return every vCPU's run_delay, in ns."""
        return self.call(self._loop.run_delays)

    def observe_hypercalls(self, observer: HypercallObserver) -> None:
        """Call ``observer`` with each hypervisor call of the guest from now on."""
        self._loop.traps.observer = observer
