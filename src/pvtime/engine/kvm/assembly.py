# SPDX-License-Identifier: GPL-2.0-or-later
"""One life of a machine on KVM, from reset to reset: VM, vCPUs and their threads, interrupt controller."""

from __future__ import annotations

import contextlib
from typing import Final

from pvtime.abi.kvm import KvmCap
from pvtime.abi.kvm_reg import PC, x
from pvtime.abi.kvm_types import VcpuFeature
from pvtime.engine.base import VcpuSample
from pvtime.engine.kvm.bus import Bus
from pvtime.engine.kvm.exits import Owner
from pvtime.engine.kvm.pvtime import StolenTimeIpas
from pvtime.engine.kvm.ring import Ring
from pvtime.engine.kvm.runner import VcpuRunner
from pvtime.engine.kvm.system import System
from pvtime.engine.kvm.truth import Truth
from pvtime.engine.kvm.vcpu import Vcpu
from pvtime.engine.kvm.vgic import create_vgic, initialise_vgic
from pvtime.engine.kvm.window import Window
from pvtime.machine.device import MmioDevice
from pvtime.machine.devicetree import KVM_TIMER_PPIS
from pvtime.machine.layout import (
    AGENT,
    CONSOLE,
    GIC_CPU_INTERFACE,
    GIC_DISTRIBUTOR,
    GIC_REDISTRIBUTORS,
    Region,
    refuse_overlap,
)
from pvtime.machine.machine import Machine

__all__ = ["Assembly"]

TIMERS: Final = KVM_TIMER_PPIS[:3]
"""A guest at EL1 has the physical and the virtual timer."""


class Assembly:
    """A VM that is ready to start.

    :raises UsageError: memory overlaps a device, or the device tree is too large.
    :raises EngineError: this host's KVM refuses something; what was made is given back.
    """

    def __init__(self, machine: Machine, owner: Owner) -> None:
        self._machine = machine
        devices = [CONSOLE, AGENT]
        fixed = [GIC_DISTRIBUTOR, GIC_CPU_INTERFACE, GIC_REDISTRIBUTORS]
        memories = machine.map.memories
        regions = [*(memory.region for memory in memories), *devices]
        refuse_overlap([*fixed, *regions])
        with contextlib.ExitStack() as stack:
            system = stack.enter_context(System())
            system.refuse_incapable()
            self.vm = system.create_vm()
            stack.callback(self.vm.close)
            if system.check(KvmCap.ARM_NISV_TO_USER) and system.check(KvmCap.ARM_INJECT_EXT_DABT):
                self.vm.enable(KvmCap.ARM_NISV_TO_USER)
            for memory in memories:
                self.vm.set_memory(memory.region, memory.address)
            vcpus = self._make_vcpus(stack)
            truths = self._give_stolen_time(vcpus)
            self.bus = Bus(
                [self._make_window(system, stack), machine.agent], self._make_ring(vcpus[0], stack)
            )
            self._runners = [
                VcpuRunner(vcpu, self.bus, truth, owner) for vcpu, truth in zip(vcpus, truths, strict=True)
            ]
            for runner in self._runners:
                stack.callback(runner.close)
            self._stack = stack.pop_all()

    def _make_vcpus(self, stack: contextlib.ExitStack) -> list[Vcpu]:
        """Make vCPUs and interrupt controller, load the guest, and point the first vCPU at it."""
        vcpus = []
        for index in range(self._machine.config.vcpus):
            vcpus.append(self.vm.create_vcpu(index))
            stack.callback(vcpus[-1].close)
        vgic, flavour = create_vgic(self.vm)
        stack.callback(vgic.close)
        for vcpu in vcpus:
            off = [VcpuFeature.POWER_OFF] if vcpu.index else []
            vcpu.init(self.vm.preferred_target(), VcpuFeature.PSCI_0_2, *off)
        initialise_vgic(vgic)
        entry = self._machine.load(flavour, TIMERS)
        vcpus[0].set_reg(PC, entry.pc)
        vcpus[0].set_reg(x(0), entry.x0)
        return vcpus

    def _give_stolen_time(self, vcpus: list[Vcpu]) -> list[Truth]:
        ipas = StolenTimeIpas()
        truths = [Truth(self._machine.stolen_time, vcpu.index) for vcpu in vcpus]
        for vcpu, truth in zip(vcpus, truths, strict=True):
            if vcpu.index in self._machine.config.without:
                continue
            ipas.set(vcpu, truth.ipa)
        return truths

    def _make_ring(self, vcpu: Vcpu, stack: contextlib.ExitStack) -> Ring | None:
        """Have the characters that the guest sends collected, where KVM can."""
        if not self.vm.ring_page:
            return None
        for port in (self._machine.console, self._machine.agent):
            self.vm.collect_writes(Region(f"{port.region.name}, data register", port.region.base, 1))
        ring = Ring(vcpu.map, vcpu.ring_offset)
        stack.callback(ring.close)
        return ring

    def _make_window(self, system: System, stack: contextlib.ExitStack) -> MmioDevice:
        """Have the console's registers read without exits, where KVM can."""
        if not system.check(KvmCap.READONLY_MEM):
            return self._machine.console
        window = Window(self.vm, self._machine.console)
        stack.callback(window.close)
        return window

    def start(self) -> None:
        """Start every vCPU's thread.

        :raises EngineError: the host has no room for a thread.
        """
        for runner in self._runners:
            runner.start()

    def sample(self) -> list[VcpuSample]:
        """Measure every vCPU."""
        return [runner.sample() for runner in self._runners]

    def pause(self) -> None:
        """Bring every vCPU out of the guest, and keep it out."""
        for runner in self._runners:
            runner.pause()
        self.bus.flush()

    def resume(self) -> None:
        """Let the vCPUs go on."""
        for runner in self._runners:
            runner.resume()

    def conclude(self) -> list[VcpuSample]:
        """End every vCPU's thread; return the last measurements."""
        for runner in self._runners:
            runner.leave()
        for runner in self._runners:
            runner.join()
        self.bus.flush()
        return [runner.sample() for runner in self._runners]

    def close(self) -> None:
        """Give everything back to the host, after :meth:`conclude`."""
        self._stack.close()
