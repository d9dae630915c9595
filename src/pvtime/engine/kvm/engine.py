# SPDX-License-Identifier: GPL-2.0-or-later
"""The kvm engine: a machine on an arm64 host's own CPUs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum, auto
from typing import Final

from pvtime.engine.base import BREAK, COUNTER_FREQUENCY, Engine, Outcome, VcpuSample, VcpuTimes
from pvtime.engine.call_queue import CallQueue
from pvtime.engine.kvm.dirty import KvmDirtyTracker
from pvtime.engine.kvm.injector import StealInjector
from pvtime.engine.kvm.kvm_vm import KvmVm
from pvtime.engine.kvm.pvtime_fd import is_loaded
from pvtime.engine.kvm.state import KvmState
from pvtime.engine.kvm.system import Kvm
from pvtime.engine.kvm.thread_times import ProcessStops
from pvtime.engine.kvm.vcpu_thread import install_kick
from pvtime.engine.kvm.vgic import refuse_unsavable
from pvtime.engine.kvm.vm_fd import VmFd
from pvtime.errors import EngineError, PvtimeError, UsageError
from pvtime.inject.schedule import NOTHING, Schedule
from pvtime.machine.dirty import DirtyTracker
from pvtime.machine.layout import Region
from pvtime.machine.machine import Machine
from pvtime.machine.memory_map import Access
from pvtime.steal.placement import PlacementName

__all__ = ["HOST_CPU", "KvmEngine", "obstacle"]

HOST_CPU: Final = "host"

SINCE_START: Final = ("loads", "starts", *(column.name for column in fields(VcpuTimes)))
"""Figures of a sample that a reset does not clear."""

FLUSH_INTERVAL_S: Final = 0.1
"""Time between two looks for coalesced writes where no vCPU leaves the guest. A driver that waits for its
characters to be sent leaves it by itself."""


def obstacle() -> str | None:
    """Return why this host cannot use the kvm engine; None where it can."""
    try:
        with Kvm() as kvm:
            kvm.refuse_incapable()
    except EngineError as error:
        return str(error)
    return None


def _hides_pv_time(options: Mapping[str, str]) -> bool:
    """Return whether the options hide PV time from the guest.

    :raises UsageError: there is another option, or another value.
    """
    for key, value in options.items():
        if key != PV_TIME:
            raise UsageError(f"engine option {key!r}: the kvm engine has only {PV_TIME}")
        if value not in PV_TIME_VALUES:
            raise UsageError(f"engine option {key}={value}: choose {' or '.join(PV_TIME_VALUES)}")
    return options.get(PV_TIME) == HIDDEN


def _refuse_placement(name: PlacementName) -> None:
    """Check that this host's KVM has a placement.

    :raises UsageError: it has not.
    """
    if name is not PlacementName.USERSPACE and not is_loaded():
        raise UsageError(
            f"placement {name.value!r}: KVM on arm64 has the placement userspace alone, and all three where "
            "pvtime's kernel module is loaded (pvtime lab --module); the unicorn engine has them everywhere"
        )


class Phase(Enum):
    """Phase of a run. A reset does not change it: the next VM is paused where the last one was."""

    NEW = auto()
    """The vCPUs have not started, and will run when they do."""
    RUNNING = auto()
    PAUSED = auto()
    """The vCPUs are paused, or have not started and will be paused when they do."""
    ENDED = auto()
    """Nothing executes any more."""


class IrqLines:
    """Levels of the devices' interrupt lines, from the machine's start to its end. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: dict[int, bool] = {}
        self._vm: VmFd | None = None

    def set(self, spi: int, level: bool) -> None:
        """Set the level of a line."""
        with self._lock:
            self._levels[spi] = level
            if self._vm is not None:
                self._vm.set_irq(spi, level)

    def connect(self, vm: VmFd | None) -> None:
        """Connect all lines to ``vm``, and to none before."""
        with self._lock:
            self._vm = vm
            if vm is not None:
                for spi, level in self._levels.items():
                    vm.set_irq(spi, level)


PV_TIME: Final = "pv-time"
HIDDEN: Final = "hidden"
PV_TIME_VALUES: Final = ("offered", HIDDEN)


class KvmEngine(Engine):
    """Runs a machine's vCPUs on KVM, each on a thread of its own.

    The engine's own thread owns the VM from start to end, and makes a new one at each reset. What other
    threads ask of it runs there, in order.

    :param options: ``pv-time`` = ``offered``, or ``hidden``: the guest finds no PV-time calls.
    :raises UsageError: an option that the engine does not have, or a CPU model other than the host's.
    """

    name = "kvm"
    state_type = KvmState

    def __init__(
        self, machine: Machine, options: Mapping[str, str] | None = None, steal: Schedule = NOTHING
    ) -> None:
        super().__init__()
        if options and COUNTER_FREQUENCY in options:
            raise UsageError(
                "--counter-frequency: on the kvm engine the guest has this host's counter; leave out the "
                "option, or give --engine unicorn"
            )
        if options and BREAK in options:
            raise UsageError(
                "--break: on the kvm engine the kernel counts stolen time; give --engine unicorn (pvtime's "
                "kernel module can break a lab's KVM: its parameter mistakes)"
            )
        self._hide_pv_time = _hides_pv_time(options or {})
        if machine.config.lpt is not None:
            raise UsageError(
                "the kvm engine has no Live Physical Time, which was never merged into Linux: leave out "
                "--lpt, or give --engine unicorn"
            )
        if machine.config.cpu not in (None, HOST_CPU):
            raise UsageError(
                f"CPU model {machine.config.cpu!r}: the kvm engine has the host's CPU alone; name no model"
            )
        _refuse_placement(machine.placement.name)
        vcpus = machine.config.vcpus
        steal.check_vcpus(vcpus)
        self._machine = machine
        self._injector = StealInjector(steal, vcpus)
        self._stops = ProcessStops()
        self._lines = IrqLines()
        self._limits: dict[Region, Access] = {}
        """Regions that the guest may not write, across resets."""
        self._log: KvmDirtyTracker | None = None
        self._vm: KvmVm | None = None
        self._phase = Phase.NEW
        self._restart_requested = False
        self._last = [VcpuSample(index, 0, 0, None, enabled=False, loads=0) for index in range(vcpus)]
        self._carried_over = self._last
        """The figures at the last reset, or those that were saved."""
        self._thread = threading.Thread(target=self._main, name="pvtime-kvm", daemon=True)
        self._calls = CallQueue(self._thread.is_alive)
        machine.connect(self.set_irq)

    # The interface, for any thread: each call runs on the engine's thread.

    def start(self) -> None:
        install_kick()
        self._thread.start()
        self._calls.call(self._start)

    def restore(self, state: KvmState) -> None:
        """Restore a state; one that this host refuses is refused here, before :meth:`start`."""
        self._calls.call(lambda: self._restore(state))

    def stop(self) -> None:
        if self._thread.ident is None:
            self._close_vm()
            return
        self.end(Outcome.STOPPED)
        self._thread.join()

    def sample(self) -> list[VcpuSample]:
        return self._calls.call(self._sample)

    def pause(self) -> None:
        self._calls.call(self._pause)

    def resume(self) -> None:
        self._calls.call(self._resume)

    def reset(self) -> None:
        self._calls.call(self._reset)

    def set_steal(self, schedule: Schedule) -> None:
        schedule.check_vcpus(self._machine.config.vcpus)
        self._calls.call(lambda: self._set_steal(schedule))

    def check_savable(self) -> None:
        self._machine.refuse_unsavable()
        with Kvm() as kvm, contextlib.closing(kvm.create_vm()) as vm:
            refuse_unsavable(vm)

    def state(self) -> KvmState:
        return self._calls.call(self._state)

    def protect(self, region: Region, access: Access) -> None:
        """Set the guest's access to a whole memory slot."""
        self._calls.call(lambda: self._protect(region, access))

    def start_dirty_log(self) -> DirtyTracker:
        """Track writes by the kernel's dirty log."""
        return self._calls.call(self._start_dirty_log)

    def set_irq(self, spi: int, level: bool) -> None:
        self._lines.set(spi, level)

    # MachineEvents, from the vCPUs' threads, which must not wait for the engine's: it may wait for them.

    def end(self, outcome: Outcome) -> None:
        self._ending.end(outcome)
        self._calls.submit(self._end_or_restart)

    def restart(self) -> None:
        self._restart_requested = True
        self._calls.submit(self._end_or_restart)

    def fail(self, error: PvtimeError) -> None:
        self._ending.fail(error)
        self._calls.submit(self._end_or_restart)

    # The engine's thread. Before its start and after its end, the callers' own.

    def _main(self) -> None:
        try:
            self._stops.clock.attach()
            while self._phase is not Phase.ENDED:
                self._stops.watch(self._calls.wait, FLUSH_INTERVAL_S)
                if self._vm is not None:
                    self._vm.bus.flush()
                self._calls.run_pending()
        except Exception as error:
            fault = EngineError(f"the kvm engine failed: {type(error).__name__}: {error}")
            fault.__cause__ = error
            self._ending.fail(error if isinstance(error, PvtimeError) else fault)
        finally:
            self._phase = Phase.ENDED
            self._stops.clock.close()
            self._injector.close()
            self._ending.conclude()

    def _start(self) -> None:
        try:
            if self._vm is None:
                self._open_vm(None)
            self._injector.start()
            self._start_vm()
        except PvtimeError:
            self._phase = Phase.ENDED
            self._close_vm()
            raise

    def _restore(self, state: KvmState) -> None:
        if self._vm is not None or self._phase in (Phase.RUNNING, Phase.ENDED):
            raise EngineError("a machine that has started cannot be restored")
        self._open_vm(state)
        self._carried_over = [
            VcpuSample(
                index,
                vcpu.ran_ns,
                0,
                None,
                enabled=False,
                loads=vcpu.loads,
                stolen_ns=vcpu.stolen_ns,
                idle_ns=vcpu.idle_ns,
                stopped_ns=vcpu.stopped_ns,
                host_ns=vcpu.host_ns,
            )
            for index, vcpu in enumerate(state.vcpus)
        ]

    def _sample(self) -> list[VcpuSample]:
        if self._vm is not None:
            self._last = self._since_start(self._vm.sample())
        return self._last

    def _pause(self) -> None:
        if self._phase is not Phase.ENDED:
            self._phase = Phase.PAUSED
            if self._vm is not None:
                self._vm.pause()
                if self._ends_or_restarts:
                    self._vm.resume()  # the vCPUs are off, and their last figures are not those of a pause
            self._end_or_restart()  # a reset that the guest has just requested is done: the caller sees it

    def _resume(self) -> None:
        if self._phase is Phase.PAUSED:
            self._phase = Phase.NEW if self._thread.ident is None else Phase.RUNNING
            if self._vm is not None:
                self._vm.resume()

    def _reset(self) -> None:
        if self._phase in (Phase.NEW, Phase.PAUSED):
            raise EngineError("the machine does not run: resume it to reset it")
        self._restart_requested = True
        self._end_or_restart()

    def _set_steal(self, schedule: Schedule) -> None:
        if self._vm is None:
            for vcpu in self._injector.vcpus:
                vcpu.replace(schedule, time.monotonic_ns())
        else:
            self._vm.set_steal(schedule)
        self._injector.inject(bool(schedule))

    def _state(self) -> KvmState:
        if self._vm is None or self._ending.outcome is not None:
            raise EngineError("a machine that has not started, or has ended, has no state")
        if self._phase is not Phase.PAUSED:
            raise EngineError("the machine runs: pause it to get its state")
        if self._limits:
            raise EngineError(f"{min(self._limits, key=str)} is taken away: give it back to save the guest")
        return self._vm.state(self._sample())

    def _protect(self, region: Region, access: Access) -> None:
        if self._vm is None:
            self._machine.map.protect(region, access)
        else:
            self._vm.pause()
            try:
                self._vm.protect(region, access)
            finally:
                if self._phase is not Phase.PAUSED:
                    self._vm.resume()
        self._limits.pop(region, None)
        if access is not Access.WRITE:
            self._limits[region] = access

    def _start_dirty_log(self) -> DirtyTracker:
        if self._log is not None:
            raise EngineError("the guest's writes are being logged already: end that log first")
        self._log = KvmDirtyTracker(
            self._machine.memories,
            lambda: self._calls.call(self._written),
            lambda: self._calls.call(self._end_dirty_log),
        )
        if self._vm is not None:
            self._vm.slots.log_writes(True)
        return self._log

    def _written(self) -> list[tuple[int, int]]:
        return [] if self._vm is None else self._vm.slots.written()

    def _end_dirty_log(self) -> None:
        if self._log is not None and self._vm is not None:
            self._vm.slots.log_writes(False)
        self._log = None

    @property
    def _ends_or_restarts(self) -> bool:
        return self._ending.outcome is not None or self._restart_requested

    def _end_or_restart(self) -> None:
        """End the run, or restart the machine, where that was requested."""
        if self._phase is Phase.ENDED or not self._ends_or_restarts:
            return
        self._close_vm()
        self._restart_requested = False  # after the end of all threads that may set it
        if self._ending.outcome is None:
            self._carried_over = self._last
            if self._log is not None:
                self._log.restart()
            try:
                self._open_vm(None)
                self._start_vm()
            except PvtimeError as error:
                self._close_vm()
                self._ending.fail(error)
        if self._ending.outcome is not None:
            self._phase = Phase.ENDED

    def _open_vm(self, state: KvmState | None) -> None:
        """Make the VM, which boots, or resumes from a saved state.

        :raises SavedStateError: no such machine on such a host can be in this state.
        :raises EngineError: this host cannot run it.
        """
        for region in self._limits:
            self._machine.map.protect(
                region, Access.WRITE
            )  # the structures are set up in memory that is there
        vm = KvmVm(self._machine, self, self._injector, self._stops, state, hide_pv_time=self._hide_pv_time)
        try:
            for region, access in self._limits.items():
                vm.protect(region, access)
            if self._log is not None:
                vm.slots.log_writes(True)
        except EngineError:
            vm.close()
            raise
        self._vm = vm
        self._lines.connect(vm.vm)

    def _start_vm(self) -> None:
        """Start the vCPUs.

        :raises EngineError: this host has no room for their threads.
        """
        assert self._vm is not None, "it has been opened"
        self._vm.start(paused=self._phase is Phase.PAUSED)
        if self._phase is Phase.NEW:
            self._phase = Phase.RUNNING

    def _close_vm(self) -> None:
        """End the vCPUs' threads, take the last figures, and give the VM back to the host."""
        if self._vm is not None:
            vm, self._vm = self._vm, None
            self._last = self._since_start(vm.finish())
            self._lines.connect(None)
            vm.close()

    def _since_start(self, samples: list[VcpuSample]) -> list[VcpuSample]:
        """Add the figures of before the last reset."""
        return [
            replace(sample, **{name: getattr(before, name) + getattr(sample, name) for name in SINCE_START})
            for before, sample in zip(self._carried_over, samples, strict=True)
        ]
