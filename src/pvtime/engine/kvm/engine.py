# SPDX-License-Identifier: GPL-2.0-or-later
"""The kvm engine: a machine on an arm64 host's own CPUs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pvtime.engine.base import Engine, Outcome, VcpuSample
from pvtime.engine.kvm.assembly import Assembly
from pvtime.engine.kvm.kick import install_kick
from pvtime.engine.kvm.system import System
from pvtime.errors import EngineError, PvtimeError, UsageError
from pvtime.machine.layout import Region
from pvtime.machine.machine import Machine
from pvtime.machine.memory_map import Access
from pvtime.steal.placement import PlacementName

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

    def __init__(self, machine: Machine, options: Mapping[str, str] | None = None) -> None:
        if options:
            raise UsageError(f"--engine-option {min(options)}: the kvm engine has no options")
        if machine.config.cpu not in (None, HOST_CPU):
            raise UsageError(
                f"--cpu {machine.config.cpu}: the kvm engine's CPU is the host's: leave the option out"
            )
        if machine.config.placement is not PlacementName.USERSPACE:
            raise UsageError(
                f"--placement {machine.config.placement.value}: KVM on arm64 has the placement userspace "
                "alone; --engine unicorn has all three"
            )
        self._machine = machine
        self._lock = threading.Lock()
        self._wires = threading.Lock()
        self._assembly: Assembly | None = None
        self._before = self._last = [
            VcpuSample(index, 0, 0, 0, enabled=False, loads=0) for index in range(machine.config.vcpus)
        ]
        self._outcome: Outcome | None = None
        self._error: PvtimeError | None = None
        self._over = threading.Event()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._manage, name="pvtime-kvm", daemon=True)
        machine.connect(self.set_irq)

    # The interface, for any thread.

    def start(self) -> None:
        """See :meth:`Engine.start`."""
        install_kick()
        self._assembly = self._begin()
        self._thread.start()

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """See :meth:`Engine.wait`."""
        if not self._finished.wait(timeout):
            return None
        if self._error is not None:
            raise self._error
        return self._outcome

    def stop(self) -> None:
        """See :meth:`Engine.stop`."""
        if self._thread.ident is None:
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
            if self._assembly is not None:
                self._assembly.pause()

    def resume(self) -> None:
        """See :meth:`Engine.resume`."""
        with self._lock:
            if self._assembly is not None:
                self._assembly.resume()

    def limit(self, region: Region, access: Access) -> None:
        """See :meth:`Engine.limit`: whole memory slots."""
        raise EngineError(f"the kvm engine cannot take {region} away from a guest that runs")

    def set_irq(self, spi: int, level: bool) -> None:
        """See :meth:`Engine.set_irq`."""
        with self._wires:
            if self._assembly is not None:
                self._assembly.vm.set_irq(spi, level)

    # What vCPUs' threads tell.

    def end(self, outcome: Outcome) -> None:
        """See :meth:`Owner.end`."""
        if self._outcome is None:
            self._outcome = outcome
        self._over.set()

    def restart(self) -> None:
        """See :meth:`Owner.restart`."""
        self._over.set()

    def fail(self, error: PvtimeError) -> None:
        """See :meth:`Owner.fail`."""
        if self._error is None:
            self._error = error
        self.end(Outcome.FAILED)

    def _begin(self) -> Assembly:
        """Start a life of the machine.

        :raises EngineError: this host cannot run it.
        """
        assembly = Assembly(self._machine, self)
        try:
            assembly.start()
        except EngineError:
            assembly.conclude()
            assembly.close()
            raise
        return assembly

    def _since_start(self, samples: list[VcpuSample]) -> list[VcpuSample]:
        """Add what the vCPUs' threads before the last reset ran."""
        return [
            replace(now, ran_ns=before.ran_ns + now.ran_ns, loads=before.loads + now.loads)
            for before, now in zip(self._before, samples, strict=True)
        ]

    # The engine's own thread.

    def _attend(self, assembly: Assembly) -> Assembly | None:
        """Wait for the end of one life of the machine, clear it away, and return the next one."""
        while not self._over.wait(RING_LATENCY):
            assembly.bus.flush()
        with self._lock:
            self._last = self._since_start(assembly.conclude())
            with self._wires:
                self._assembly = None
            assembly.close()
            if self._outcome is not None:
                return None
            self._over.clear()
            self._before = self._last
            self._assembly = self._begin()
            return self._assembly

    def _manage(self) -> None:
        try:
            assembly = self._assembly
            while assembly is not None:
                assembly = self._attend(assembly)
        except PvtimeError as error:
            self.fail(error)
        except Exception as error:
            fault = EngineError(f"the kvm engine failed: {type(error).__name__}: {error}")
            fault.__cause__ = error
            self.fail(fault)
        finally:
            self._finished.set()
