# SPDX-License-Identifier: GPL-2.0-or-later
"""The kvm engine: a machine on an arm64 host's own CPUs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pvtime.engine.base import Engine, Outcome, VcpuSample
from pvtime.engine.kvm.assembly import Assembly
from pvtime.engine.kvm.dirty import DirtyLog
from pvtime.engine.kvm.injector import StealInjector
from pvtime.engine.kvm.kick import install_kick
from pvtime.engine.kvm.state import KvmState
from pvtime.engine.kvm.system import System
from pvtime.errors import EngineError, PvtimeError, UsageError
from pvtime.inject.schedule import NOTHING, Schedule
from pvtime.machine.devicetree import AGENT_SPI, CONSOLE_SPI
from pvtime.machine.dirty import DirtyTracker
from pvtime.machine.layout import Region
from pvtime.machine.machine import Machine
from pvtime.machine.memory_map import Access

__all__ = ["HOST_CPU", "KvmEngine", "obstacle"]

HOST_CPU: Final = "host"

RING_LATENCY: Final = 0.1
"""Seconds after which collected writes are looked for where no vCPU leaves the guest. A driver that waits
for its characters to be sent leaves it by itself."""


def obstacle() -> str | None:
    """Return why this host cannot use the kvm engine; None where it can."""
    try:
        with System() as system:
            system.refuse_incapable()
    except EngineError as error:
        return str(error)
    return None


class KvmEngine(Engine):
    """Runs a machine's vCPUs on KVM, each on a thread of its own.

    :raises UsageError: an option or a CPU model; the engine has none but the host's CPU.
    """

    name = "kvm"
    state_type = KvmState

    def __init__(
        self, machine: Machine, options: Mapping[str, str] | None = None, steal: Schedule = NOTHING
    ) -> None:
        super().__init__()
        if options:
            raise UsageError(f"engine option {min(options)!r}: the kvm engine has no options")
        if machine.config.cpu not in (None, HOST_CPU):
            raise UsageError(
                f"CPU model {machine.config.cpu!r}: the kvm engine has the host's CPU alone; name no model"
            )
        if not machine.placement.on_kvm:
            raise UsageError(
                f"placement {machine.placement.name.value!r}: KVM on arm64 has the placement userspace "
                "alone; the unicorn engine has all three"
            )
        self._machine = machine
        steal.check_vcpus(machine.config.vcpus)
        self._injector = StealInjector(steal, machine.config.vcpus) if steal else None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        """The machine has been restarted, or has ended."""
        self._wires = threading.Lock()
        self._levels = {CONSOLE_SPI: False, AGENT_SPI: False}
        self._assembly: Assembly | None = None
        self._paused = False
        self._limits: dict[Region, Access] = {}
        self._log: DirtyLog | None = None
        self._before = self._last = [
            VcpuSample(index, 0, 0, None, enabled=False, loads=0) for index in range(machine.config.vcpus)
        ]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._manage, name="pvtime-kvm", daemon=True)
        machine.connect(self.set_irq)

    # The interface, for any thread.

    def start(self) -> None:
        """See :meth:`Engine.start`."""
        install_kick()
        with self._lock:
            if self._assembly is None:
                self._prepare(None)
            if self._injector is not None:
                self._injector.start()
            self._begin()
        self._thread.start()

    def restore(self, state: KvmState) -> None:
        """See :meth:`Engine.restore`. Whatever of the state this host refuses is refused here."""
        with self._lock:
            if self._assembly is not None:
                raise EngineError("a machine that has begun cannot be restored")
            self._prepare(state)
            self._before = [
                VcpuSample(index, vcpu.ran_ns, 0, None, enabled=False, loads=vcpu.loads)
                for index, vcpu in enumerate(state.vcpus)
            ]

    def stop(self) -> None:
        """See :meth:`Engine.stop`."""
        if self._thread.ident is None:
            with self._lock:
                self._clear_away()
            return
        self.end(Outcome.STOPPED)
        self._thread.join()

    def sample(self) -> list[VcpuSample]:
        """See :meth:`Engine.sample`."""
        with self._lock:
            if self._assembly is not None:
                self._last = self._since_start(self._assembly.sample())
            return self._last

    def pause(self) -> None:
        """See :meth:`Engine.pause`."""
        with self._lock:
            self._paused = True
            if self._assembly is not None:
                self._assembly.pause()
            # A guest that asked for a restart just before gets it: its new life begins paused.
            self._changed.wait_for(lambda: not self._over.is_set() or self._ending.outcome is not None)

    def resume(self) -> None:
        """See :meth:`Engine.resume`."""
        with self._lock:
            self._paused = False
            if self._assembly is not None:
                self._assembly.resume()

    def state(self) -> KvmState:
        """See :meth:`Engine.state`."""
        with self._lock:
            if self._assembly is None or self._ending.outcome is not None:
                raise EngineError("a machine that has not begun, or has ended, has no state")
            if not self._paused:
                raise EngineError("the machine runs: it must be paused for its state")
            if self._limits:
                raise EngineError(
                    f"{min(self._limits, key=str)} is taken away: give it back to save the guest"
                )
            return self._assembly.state(self._since_start(self._assembly.sample()))

    def protect(self, region: Region, access: Access) -> None:
        """See :meth:`Engine.protect`: whole memory slots."""
        with self._lock:
            if self._assembly is not None:
                self._assembly.pause()
                try:
                    self._assembly.protect(region, access)
                finally:
                    if not self._paused:
                        self._assembly.resume()
            self._machine.map.protect(region, access)
            self._limits.pop(region, None)
            if access is not Access.WRITE:
                self._limits[region] = access

    def start_dirty_log(self) -> DirtyTracker:
        """See :meth:`Engine.start_dirty_log`: by the kernel's dirty log."""
        with self._lock:
            if self._log is not None:
                raise EngineError("the guest's writes are tracked by somebody else: one at a time")
            self._log = DirtyLog(self._machine.memories, self._written, self._untrack)
            if self._assembly is not None:
                self._assembly.slots.log_writes(True)
            return self._log

    def _written(self) -> list[tuple[int, int]]:
        with self._lock:
            return self._assembly.slots.written() if self._assembly is not None else []

    def _untrack(self) -> None:
        with self._lock:
            if self._log is not None and self._assembly is not None:
                self._assembly.slots.log_writes(False)
            self._log = None

    def set_irq(self, spi: int, level: bool) -> None:
        """See :meth:`Engine.set_irq`."""
        with self._wires:
            self._levels[spi] = level
            if self._assembly is not None:
                self._assembly.vm.set_irq(spi, level)

    # What vCPUs' threads tell.

    def end(self, outcome: Outcome) -> None:
        """See :meth:`Owner.end`."""
        self._ending.end(outcome)
        self._over.set()

    def restart(self) -> None:
        """See :meth:`Owner.restart`."""
        self._over.set()

    def fail(self, error: PvtimeError) -> None:
        """See :meth:`Owner.fail`."""
        self._ending.fail(error)
        self._over.set()

    # A life of the machine, from reset to reset. Called with the lock held.

    def _prepare(self, state: KvmState | None) -> None:
        """Make the machine, which boots, or goes on from a state.

        :raises SavedStateError: the state is none of such a machine's on such a host.
        :raises EngineError: this host cannot run it.
        """
        assembly = Assembly(self._machine, self, state, self._injector)
        try:
            for region, access in self._limits.items():
                assembly.protect(region, access)
            if self._log is not None:
                assembly.slots.log_writes(True)
        except EngineError:
            assembly.close()
            raise
        with self._wires:
            self._assembly = assembly
            for spi, level in self._levels.items():
                assembly.vm.set_irq(spi, level)

    def _begin(self) -> None:
        """Have it run.

        :raises EngineError: this host has no room for its threads.
        """
        assert self._assembly is not None  # prepared
        try:
            self._assembly.start(paused=self._paused)
        except EngineError:
            self._assembly.conclude()
            self._clear_away()
            if self._injector is not None:
                self._injector.close()
            raise

    def _clear_away(self) -> None:
        if self._assembly is not None:
            with self._wires:
                assembly, self._assembly = self._assembly, None
            assembly.close()

    def _since_start(self, samples: list[VcpuSample]) -> list[VcpuSample]:
        """Add what the vCPUs' threads before the last reset ran."""
        return [
            replace(now, ran_ns=before.ran_ns + now.ran_ns, loads=before.loads + now.loads)
            for before, now in zip(self._before, samples, strict=True)
        ]

    # The engine's own thread.

    def _attend(self, assembly: Assembly) -> None:
        """Wait for the end of one life of the machine, clear it away, and begin the next one."""
        while not self._over.wait(RING_LATENCY):
            assembly.bus.flush()
        with self._lock:
            self._last = self._since_start(assembly.conclude())
            self._clear_away()
            self._over.clear()  # first: an end that is told from here on is seen
            if self._ending.outcome is None:
                self._before = self._last
                if self._log is not None:
                    self._log.start_anew()
                self._prepare(None)
                self._begin()
                self._changed.notify_all()

    def _manage(self) -> None:
        try:
            while (assembly := self._assembly) is not None:
                self._attend(assembly)
        except PvtimeError as error:
            self.fail(error)
        except Exception as error:
            fault = EngineError(f"the kvm engine failed: {type(error).__name__}: {error}")
            fault.__cause__ = error
            self.fail(fault)
        finally:
            with self._lock:
                self._changed.notify_all()
            if self._injector is not None:
                self._injector.close()
            self._ending.conclude()
