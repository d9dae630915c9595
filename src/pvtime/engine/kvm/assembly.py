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
from pvtime.engine.kvm.counter import counter_frequency
from pvtime.engine.kvm.device import Device
from pvtime.engine.kvm.exits import Owner
from pvtime.engine.kvm.injector import StealInjector
from pvtime.engine.kvm.meter import PARKING
from pvtime.engine.kvm.pvtime import StolenTimeIpas
from pvtime.engine.kvm.registers import read_counters, read_cpu, write_counters, write_cpu
from pvtime.engine.kvm.ring import Ring
from pvtime.engine.kvm.runner import VcpuRunner
from pvtime.engine.kvm.slots import Slots
from pvtime.engine.kvm.state import KvmState, VcpuState
from pvtime.engine.kvm.system import System
from pvtime.engine.kvm.vcpu import Vcpu
from pvtime.engine.kvm.vgic import create_vgic, initialise_vgic
from pvtime.engine.kvm.vgic_state import read_vgic, write_vgic
from pvtime.engine.kvm.window import Window
from pvtime.errors import EngineError
from pvtime.machine.device import MmioDevice
from pvtime.machine.devicetree import KVM_TIMER_PPIS, GicFlavour
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
from pvtime.machine.memory_map import Access
from pvtime.steal.kvm_truth import KvmTruth
from pvtime.steal.placement import UserspacePlacement

__all__ = ["Assembly"]

TIMERS: Final = KVM_TIMER_PPIS[:3]
"""A guest at EL1 has the physical and the virtual timer."""


class Assembly:
    """A VM that is ready to start.

    :param state: what to go on from, with the guest's memory as it was; None: boot.
    :param injector: steals from the vCPUs on purpose.
    :raises UsageError: memory overlaps a device, or the device tree is too large.
    :raises SavedStateError: the state is none of such a machine's on such a host.
    :raises EngineError: this host's KVM refuses something; what was made is given back.
    """

    def __init__(
        self,
        machine: Machine,
        owner: Owner,
        state: KvmState | None = None,
        injector: StealInjector | None = None,
    ) -> None:
        self._machine = machine
        self._injector = injector
        self._counters: dict[str, bytes] = {}
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
            self.slots = Slots(self.vm, memories)
            self._vcpus = vcpus = self._make_vcpus(stack)
            self._vgic, self._flavour = self._make_vgic(stack)
            if state is None:
                self._boot()
            self._truths = self._give_stolen_time()
            if state is not None:
                self._restore(state)
            self.bus = Bus(
                [self._make_window(system, stack), machine.agent], self._make_ring(vcpus[0], stack)
            )
            parking = self._write_parking()
            self._runners = [
                VcpuRunner(
                    vcpu, self.bus, truth, owner, parking, injector.victims[vcpu.index] if injector else None
                )
                for vcpu, truth in zip(vcpus, self._truths, strict=True)
            ]
            for runner in self._runners:
                stack.callback(runner.close)
            self._stack = stack.pop_all()

    def _make_vcpus(self, stack: contextlib.ExitStack) -> list[Vcpu]:
        vcpus = []
        for index in range(self._machine.config.vcpus):
            vcpus.append(self.vm.create_vcpu(index))
            stack.callback(vcpus[-1].close)
        return vcpus

    def _make_vgic(self, stack: contextlib.ExitStack) -> tuple[Device, GicFlavour]:
        """Make the interrupt controller, and initialise the vCPUs and then itself."""
        vgic, flavour = create_vgic(self.vm)
        stack.callback(vgic.close)
        for vcpu in self._vcpus:
            off = [VcpuFeature.POWER_OFF] if vcpu.index else []
            vcpu.init(self.vm.preferred_target(), VcpuFeature.PSCI_0_2, *off)
        initialise_vgic(vgic)
        return vgic, flavour

    def _boot(self) -> None:
        """Load the guest, and point the first vCPU at it."""
        entry = self._machine.load(self._flavour, TIMERS)
        self._vcpus[0].set_reg(PC, entry.pc)
        self._vcpus[0].set_reg(x(0), entry.x0)

    def _give_stolen_time(self) -> list[KvmTruth]:
        placement = self._machine.placement
        assert isinstance(placement, UserspacePlacement), "the engine refuses the others"
        ipas = StolenTimeIpas()
        truths = []
        for vcpu in self._vcpus:
            has = vcpu.index not in self._machine.config.no_pvtime
            truth = KvmTruth(placement.own_structure(vcpu.index) if has else None)
            if truth.ipa is not None:
                ipas.set(vcpu, truth.ipa)
            truths.append(truth)
        return truths

    def _write_parking(self) -> int:
        """Write what a vCPU may be stepped through after the guest's end; return its IPA."""
        region = self._machine.stolen_time
        region.write(region.end - len(PARKING), PARKING)
        return region.end - len(PARKING)

    def state(self, samples: list[VcpuSample]) -> KvmState:
        """Return what is to be saved, while all is paused.

        :param samples: each vCPU's figures since the machine's start.
        :raises EngineError: the interrupt controller is a GICv2, whose state pvtime does not know.
        """
        self._refuse_gicv2()
        return KvmState(
            counter_frequency=counter_frequency(),
            counters=read_counters(self._vcpus[0]),
            vgic=read_vgic(self._vgic, self._machine.mpidrs),
            vcpus=[
                VcpuState(read_cpu(vcpu), runner.stolen, sample.ran_ns, sample.loads)
                for vcpu, runner, sample in zip(self._vcpus, self._runners, samples, strict=True)
            ],
        )

    def _restore(self, state: KvmState) -> None:
        self._refuse_gicv2()
        state.check(len(self._vcpus), counter_frequency())
        for vcpu, truth, saved in zip(self._vcpus, self._truths, state.vcpus, strict=True):
            write_cpu(vcpu, saved.cpu)
            truth.restore(saved.stolen)
        write_vgic(self._vgic, self._machine.mpidrs, state.vgic)
        self._counters = state.counters
        write_counters(self._vcpus[0], self._counters)

    def _refuse_gicv2(self) -> None:
        if self._flavour is not GicFlavour.GICV3:
            raise EngineError("this host has a GICv2, and the kvm engine saves and restores a GICv3 alone")

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

    def start(self, *, paused: bool) -> None:
        """Start every vCPU's thread.

        :raises EngineError: the host has no room for a thread.
        """
        write_counters(self._vcpus[0], self._counters)  # once more: from here on the guest's time passes
        for runner in self._runners:
            runner.start(paused=paused)
        if self._injector is not None:
            self._injector.watch([(runner.tid, runner.rob) for runner in self._runners])

    def sample(self) -> list[VcpuSample]:
        """Measure every vCPU."""
        return [runner.sample() for runner in self._runners]

    def pause(self) -> None:
        """Bring every vCPU out of the guest with its figures up to date, and keep it out."""
        for wait in [runner.pause() for runner in self._runners]:
            wait()
        self.bus.flush()

    def resume(self) -> None:
        """Let the vCPUs go on."""
        for runner in self._runners:
            runner.resume()

    def protect(self, region: Region, access: Access) -> None:
        """Take memory away, make it read-only or give it back, while all is paused or nothing has started.

        :raises EngineError: the region is not a memory slot.
        """
        self.slots.protect(region, access)
        self._machine.map.protect(region, access)
        for runner in self._runners:
            runner.refresh()

    def conclude(self) -> list[VcpuSample]:
        """End every vCPU's thread; return the last measurements."""
        if self._injector is not None:
            self._injector.watch([])
        for runner in self._runners:
            runner.leave()
        for runner in self._runners:
            runner.join()
        self.bus.flush()
        return [runner.sample() for runner in self._runners]

    def close(self) -> None:
        """Give everything back to the host, after :meth:`conclude`."""
        self._stack.close()
