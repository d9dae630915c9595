# SPDX-License-Identifier: GPL-2.0-or-later
"""The embedded engine: one thread that runs the vCPUs of a machine in turn, and what others ask of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial

from pvtime.engine.base import Engine, Outcome, VcpuSample
from pvtime.engine.unicorn.hypervisor import Hypervisor
from pvtime.engine.unicorn.mail import Mail
from pvtime.engine.unicorn.parts import assemble
from pvtime.engine.unicorn.shared_cpu import SharedCpu
from pvtime.engine.unicorn.state import EngineState, Keeper
from pvtime.engine.unicorn.turns import Turns
from pvtime.engine.unicorn.wakeups import Wakeups
from pvtime.errors import EngineError, PvtimeError
from pvtime.inject.schedule import NOTHING, Schedule
from pvtime.machine.dirty import Comparison, DirtyTracker
from pvtime.machine.layout import Region
from pvtime.machine.machine import Machine
from pvtime.machine.memory_map import Access
from pvtime.steal.run_delay import Schedstat

__all__ = ["UnicornEngine"]


class UnicornEngine(Engine):
    """Runs a machine on the emulated CPU.

    :param options: ``internals`` = ``auto`` (use the library's internals where they are known), ``on``
        (or refuse), ``off`` (the public interface alone).
    :param steal: the steal to inject.
    :raises UsageError: an unknown CPU model or option, or a schedule for vCPUs that the machine lacks.
    :raises EngineError: the internals were asked for and cannot be used.
    """

    name = "unicorn"
    state_type = EngineState

    def __init__(
        self, machine: Machine, options: Mapping[str, str] | None = None, steal: Schedule = NOTHING
    ) -> None:
        super().__init__()
        self._machine = machine
        self._thread = threading.Thread(target=self._run, name="pvtime-engine", daemon=True)
        # By way of a lambda, for who hears of interrupts is made of the parts.
        self.parts = assemble(
            machine, options or {}, steal, lambda *change: self._wakeups.irq_changed(*change)
        )
        self.vcpus = self.parts.vcpus
        self._mail = Mail(self._thread, self.parts.ticker.hurry)
        self._cpu = SharedCpu(self.parts)
        self._wakeups = Wakeups(self.parts, self._cpu)
        self._turns = Turns(self.parts, self._cpu, self._wakeups, self._mail, self._ending)
        self.parts.core.supervisor = Hypervisor(self.parts, self._cpu, self._wakeups, self._turns)
        self._keeper = Keeper(self.parts)
        machine.connect(self.set_irq)

    @property
    def internals(self) -> bool:
        """Whether the library's internals are in use."""
        return self.parts.core.internals

    # The interface, for any thread.

    def start(self) -> None:
        """See :meth:`Engine.start`."""
        self._thread.start()

    def stop(self) -> None:
        """See :meth:`Engine.stop`."""
        if self._thread.ident is None:
            return
        self._mail.post(lambda: self._turns.end(Outcome.STOPPED))
        self._thread.join()

    def sample(self) -> list[VcpuSample]:
        """See :meth:`Engine.sample`."""
        return self._mail.call(self._sample)

    def pause(self) -> None:
        """See :meth:`Engine.pause`."""
        self._mail.call(self._wakeups.pause)

    def resume(self) -> None:
        """See :meth:`Engine.resume`."""
        self._mail.call(self._wakeups.resume)

    def state(self) -> EngineState:
        """See :meth:`Engine.state`."""
        return self._mail.call(self._state)

    def restore(self, state: EngineState) -> None:
        """See :meth:`Engine.restore`."""
        if self._thread.ident is not None:
            raise EngineError("the engine has started: what is saved can only be restored before")
        self._mail.read()  # the levels of wires
        self._keeper.restore(state)
        self._turns.restored()

    def start_dirty_log(self) -> DirtyTracker:
        """See :meth:`Engine.start_dirty_log`."""
        return Comparison(self._machine.memories)

    def protect(self, region: Region, access: Access) -> None:
        """See :meth:`Engine.protect`."""
        self._mail.call(partial(self._limit, region, access))

    def set_irq(self, spi: int, level: bool) -> None:
        """See :meth:`Engine.set_irq`."""
        if threading.get_ident() == self._thread.ident:
            self.parts.gic.set_spi(spi, level)
        else:
            self._mail.post(lambda: self.parts.gic.set_spi(spi, level))

    # The engine's own thread.

    def _sample(self) -> list[VcpuSample]:
        now = time.monotonic_ns()
        return [vcpu.sample(now) for vcpu in self.vcpus]

    def _state(self) -> EngineState:
        if not self._wakeups.paused or self._ending.outcome is not None:
            raise EngineError("the machine is not paused: it cannot be saved")
        if limited := self._machine.map.restricted:
            raise EngineError(f"{limited[0]} is taken away: give it back to save the guest")
        return self._keeper.state()

    def _limit(self, region: Region, access: Access) -> None:
        memory = self._machine.map.find(region.base, region.size, Access.NONE)
        self.parts.core.address_space.protect(region, memory, access)
        self._machine.map.protect(region, access)

    def _run(self) -> None:
        try:
            self.parts.ticker.start()
            with closing(Schedstat(threading.get_native_id())) as clock:
                self._turns.begin()
                while self._ending.outcome is None:
                    self._turns.turn(clock)
        except PvtimeError as error:
            self._ending.fail(error)
        except Exception as error:
            where = "" if self._cpu.current is None else f" while vCPU {self._cpu.current.index} ran"
            failure = EngineError(f"the engine failed{where}: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._ending.fail(failure)
        finally:
            self._mail.read()
            self._ending.conclude()
            self.parts.ticker.close()
