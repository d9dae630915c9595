# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine on KVM from one reset to the next: VM, vCPUs and their threads, interrupt controller."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from mmap import PAGESIZE
from typing import Final

from pvtime.abi.kvm import KvmCap
from pvtime.abi.kvm_reg import PC, STD_HYP_BMAP, x
from pvtime.abi.kvm_types import MemoryFlag, VcpuFeature
from pvtime.engine.base import VcpuSample
from pvtime.engine.kvm.exits import MachineEvents
from pvtime.engine.kvm.injector import StealInjector
from pvtime.engine.kvm.ioctl import DeviceFd, KvmError
from pvtime.engine.kvm.mmio import CoalescedMmioRing, MmioBus
from pvtime.engine.kvm.pvtime_fd import PvTimeFd, RegisteredCalls
from pvtime.engine.kvm.sampler import PARKING
from pvtime.engine.kvm.slots import MemorySlots
from pvtime.engine.kvm.state import (
    KvmState,
    KvmVcpuState,
    cntfrq,
    read_counters,
    read_cpu,
    write_counters,
    write_cpu,
)
from pvtime.engine.kvm.stats import StatsFd
from pvtime.engine.kvm.system import Kvm
from pvtime.engine.kvm.thread_times import ProcessStops, ThreadTimes
from pvtime.engine.kvm.uart_shadow import UartShadow
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.engine.kvm.vcpu_thread import VcpuThread
from pvtime.engine.kvm.vgic import (
    create_vgic,
    initialise_vgic,
    read_vgic,
    refuse_unsavable,
    write_vgic,
)
from pvtime.errors import EngineError
from pvtime.inject.schedule import Schedule
from pvtime.machine.device import MmioDevice
from pvtime.machine.devicetree import KVM_TIMER_PPIS, GicFlavour
from pvtime.machine.layout import (
    AGENT,
    CONSOLE,
    GIC_CPU_INTERFACE,
    GIC_DISTRIBUTOR,
    Region,
    redistributors,
    refuse_overlap,
)
from pvtime.machine.machine import Machine
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import Access
from pvtime.steal.guest import GuestPlacement
from pvtime.steal.hypervisor import HypervisorPlacement
from pvtime.steal.kvm_truth import KvmTruth, NoticedCalls
from pvtime.steal.placement import UserspacePlacement

__all__ = ["KvmVm"]

PV_TIME_BIT: Final = 1 << 0
"""KVM_REG_ARM_STD_HYP_BIT_PV_TIME"""
TIMERS: Final = KVM_TIMER_PPIS[:3]
"""A guest at EL1 has the physical and the virtual timer."""


class KvmVm:
    """A VM that is ready to start.

    :param stops: tells of stops of the whole process.
    :param hide_pv_time: offer the guest no PV-time calls; KVM writes the structures all the same.
    :param state: a saved state to resume from, with the guest's memory restored; None: boot.
    :raises UsageError: memory overlaps a device, or the device tree is too large.
    :raises SavedStateError: no such machine on such a host can be in the saved state.
    :raises EngineError: this host's KVM refuses something; nothing is left open.
    """

    def __init__(
        self,
        machine: Machine,
        events: MachineEvents,
        injector: StealInjector,
        stops: ProcessStops,
        state: KvmState | None = None,
        *,
        hide_pv_time: bool = False,
    ) -> None:
        self._machine = machine
        self._injector = injector
        self._counters: dict[str, bytes] = {}
        """The guest's counters, where they stand still."""
        memories = machine.map.memories
        refuse_overlap(
            [
                *(GIC_DISTRIBUTOR, GIC_CPU_INTERFACE, CONSOLE, AGENT),
                *redistributors(machine.config.vcpus),
                *(disk.region for disk in machine.disks),
                *(memory.region for memory in memories),
            ]
        )
        with contextlib.ExitStack() as stack:
            kvm = stack.enter_context(Kvm())
            kvm.refuse_incapable()
            kvm.check_vcpus(machine.config.vcpus)
            self.vm = kvm.create_vm()
            stack.callback(self.vm.close)
            if kvm.check(KvmCap.ARM_NISV_TO_USER) and kvm.check(KvmCap.ARM_INJECT_EXT_DABT):
                self.vm.enable(KvmCap.ARM_NISV_TO_USER)
            self._module = self._open_module(stack)
            self.slots = MemorySlots(self.vm, memories)
            self._vcpus = self._create_vcpus(stack)
            self._stats = [self._open_stats(vcpu, kvm, stack) for vcpu in self._vcpus]
            self._vgic, self._flavour = self._create_vgic(stack)
            if hide_pv_time:
                self._hide_pv_time()
            if state is None:
                self._boot()
            self._truths = self._set_stolen_time()
            if state is not None:
                self._restore(state)
            devices = [self._shadowed_console(kvm, stack), machine.agent, *machine.disks]
            self.bus = MmioBus(devices, self._coalesce_writes(stack))
            parking = self._write_parking(stack)
            self._threads = [
                VcpuThread(
                    vcpu,
                    self.bus,
                    truth,
                    events,
                    parking,
                    injector.vcpus[vcpu.index],
                    ThreadTimes(stops, self._counter_of(vcpu, "halt_wait_ns")),
                )
                for vcpu, truth in zip(self._vcpus, self._truths, strict=True)
            ]
            for thread in self._threads:
                stack.callback(thread.close)
            self._stack = stack.pop_all()

    def _create_vcpus(self, stack: contextlib.ExitStack) -> list[VcpuFd]:
        vcpus = []
        for index in range(self._machine.config.vcpus):
            vcpus.append(self.vm.create_vcpu(index))
            stack.callback(vcpus[-1].close)
        return vcpus

    def _create_vgic(self, stack: contextlib.ExitStack) -> tuple[DeviceFd, GicFlavour]:
        """Create the interrupt controller, initialise the vCPUs and then the controller."""
        config = self._machine.config
        vgic, flavour = create_vgic(self.vm, config.gic, redistributors(config.vcpus))
        stack.callback(vgic.close)
        for vcpu in self._vcpus:
            off = [VcpuFeature.POWER_OFF] if vcpu.index else []
            vcpu.init(self.vm.preferred_target(), VcpuFeature.PSCI_0_2, *off)
        initialise_vgic(vgic)
        return vgic, flavour

    def _hide_pv_time(self) -> None:
        """Take the calls from all vCPUs, before one runs."""
        vcpu = self._vcpus[0]
        try:
            vcpu.set_reg(STD_HYP_BMAP, vcpu.get_reg(STD_HYP_BMAP) & ~PV_TIME_BIT)
        except KvmError as error:
            raise EngineError(
                f"this host's KVM cannot hide PV time: it takes Linux 5.19 ({error})"
            ) from error

    def _boot(self) -> None:
        """Load the guest, and set the first vCPU's PC to its entry."""
        entry = self._machine.load(self._flavour, TIMERS)
        self._vcpus[0].set_reg(PC, entry.pc)
        self._vcpus[0].set_reg(x(0), entry.x0)

    def _open_module(self, stack: contextlib.ExitStack) -> PvTimeFd | None:
        """Open pvtime's kernel module for a placement that KVM does not have; None: it has it."""
        match self._machine.placement:
            case UserspacePlacement():
                return None
            case HypervisorPlacement():
                module = PvTimeFd(self._machine.stolen_time)
            case _:
                module = PvTimeFd()
        stack.callback(module.close)
        return module

    def _set_stolen_time(self) -> list[KvmTruth]:
        return [
            KvmTruth(None) if vcpu.index in self._machine.config.no_pvtime else self._truth(vcpu)
            for vcpu in self._vcpus
        ]

    def _truth(self, vcpu: VcpuFd) -> KvmTruth:
        """Have the kernel write a vCPU's stolen time, by the machine's placement."""
        match self._machine.placement:
            case UserspacePlacement() | HypervisorPlacement() as placement:
                structure = placement.own_structure(vcpu.index)
                if self._module is None:
                    self.vm.set_stolen_time(vcpu, structure.ipa)
                else:
                    self._module.attach(vcpu, structure.ipa)
                hypercalls = self._counter_of(vcpu, "hvc_exit_stat")
                return KvmTruth(structure, NoticedCalls(structure, hypercalls))
            case GuestPlacement() as placement:
                assert self._module is not None, "KVM does not have this placement"
                self._module.attach_guest(vcpu)
                calls = RegisteredCalls(self._module, vcpu)
                return KvmTruth(placement.own_structure(calls.registration), calls)
        raise AssertionError("there are three placements")

    def _write_parking(self, stack: contextlib.ExitStack) -> int:
        """Write the instructions that a vCPU is stepped through after the guest's end; return their IPA."""
        if isinstance(self._machine.placement, GuestPlacement):
            region = GuestMemory(self._machine.config.stolen_time.base, PAGESIZE, "parking")
            stack.callback(region.close)
            # Read-only: the guest cannot register it.
            slot = self.vm.set_memory(region.region, region.address, MemoryFlag.READONLY)
            stack.callback(self.vm.delete_memory, slot)
        else:
            region = self._machine.stolen_time
        region.write(region.end - len(PARKING), PARKING)
        return region.end - len(PARKING)

    @staticmethod
    def _open_stats(vcpu: VcpuFd, kvm: Kvm, stack: contextlib.ExitStack) -> StatsFd | None:
        """Open a vCPU's statistics; None: this KVM has none."""
        if not kvm.check(KvmCap.BINARY_STATS_FD):
            return None
        stats = StatsFd(vcpu.stats_fd())
        stack.callback(stats.close)
        return stats

    def _counter_of(self, vcpu: VcpuFd, name: str) -> Callable[[], int] | None:
        """Return a function that reads one of KVM's counters of a vCPU; None: KVM does not tell."""
        stats = self._stats[vcpu.index]
        return None if stats is None else stats.counter(name)

    def _coalesce_writes(self, stack: contextlib.ExitStack) -> CoalescedMmioRing | None:
        """Have the characters that the guest sends coalesced, where KVM can."""
        if not self.vm.coalesced_page:
            return None
        for port in (self._machine.console, self._machine.agent):
            self.vm.coalesce_writes(Region(f"{port.region.name}, data register", port.region.base, 1))
        ring = CoalescedMmioRing(self._vcpus[0].map, self._vcpus[0].coalesced_offset)
        stack.callback(ring.close)
        return ring

    def _shadowed_console(self, kvm: Kvm, stack: contextlib.ExitStack) -> MmioDevice:
        """Have the console's registers read without exits, where KVM can."""
        if not kvm.check(KvmCap.READONLY_MEM):
            return self._machine.console
        shadow = UartShadow(self.vm, self._machine.console)
        stack.callback(shadow.close)
        return shadow

    def state(self, samples: list[VcpuSample]) -> KvmState:
        """Return the state, while all vCPUs are paused.

        :param samples: each vCPU's figures since the machine's start.
        :raises EngineError: the interrupt controller is a GICv2, whose state pvtime does not know.
        """
        refuse_unsavable(self.vm)
        return KvmState(
            counter_frequency=cntfrq(),
            counters=self._counters or read_counters(self._vcpus[0]),
            vgic=read_vgic(self._vgic, self._machine.mpidrs),
            vcpus=[
                KvmVcpuState(
                    read_cpu(vcpu),
                    thread.stolen,
                    sample.ran_ns,
                    sample.stolen_ns,
                    sample.idle_ns,
                    sample.stopped_ns,
                    sample.host_ns,
                    sample.loads,
                )
                for vcpu, thread, sample in zip(self._vcpus, self._threads, samples, strict=True)
            ],
            placement=self._machine.placement.state(),
        )

    def _restore(self, state: KvmState) -> None:
        refuse_unsavable(self.vm)
        placement = self._machine.placement
        state.check(len(self._vcpus), cntfrq(), has_placement=placement.state() is not None)
        if state.placement is not None:
            placement.restore(state.placement)
        for vcpu, truth, saved in zip(self._vcpus, self._truths, state.vcpus, strict=True):
            write_cpu(vcpu, saved.cpu)
            if isinstance(placement, GuestPlacement) and self._module is not None and truth.has_structure:
                self._module.restore(vcpu, saved.stolen.registration)
            truth.restore(saved.stolen)
        write_vgic(self._vgic, self._machine.mpidrs, state.vgic)
        self._counters = state.counters
        write_counters(self._vcpus[0], self._counters)

    def start(self, *, paused: bool) -> None:
        """Start every vCPU's thread.

        :raises EngineError: the host has no room for a thread.
        """
        write_counters(self._vcpus[0], self._counters)  # once more: from here on the guest's time passes
        if not paused:
            self._counters = {}
        for thread in self._threads:
            thread.start(paused=paused)
        self._injector.watch([(thread.tid, thread.hold) for thread in self._threads])

    def sample(self) -> list[VcpuSample]:
        """Measure every vCPU."""
        return [thread.sample() for thread in self._threads]

    def pause(self) -> None:
        """Bring every vCPU out of the guest with its figures up to date, and keep it out.

        The guest's counters stand still from here on, but where a pause is stolen time.
        """
        for wait in [thread.pause() for thread in self._threads]:
            wait()
        if not self._counters:
            self._counters = read_counters(self._vcpus[0])
        self.bus.flush()

    def resume(self) -> None:
        """Let the vCPUs into the guest again."""
        if not self._injector.pauses_steal:
            write_counters(self._vcpus[0], self._counters)
        self._counters = {}
        for wait in [thread.resume() for thread in self._threads]:
            wait()

    def set_steal(self, schedule: Schedule) -> None:
        """Have every vCPU follow another schedule from now on."""
        for thread in self._threads:
            thread.set_steal(schedule)

    def protect(self, region: Region, access: Access) -> None:
        """Set the guest's access to a region, while all vCPUs are paused or have not started.

        :raises EngineError: the region is not a memory slot.
        """
        self.slots.protect(region, access)
        self._machine.map.protect(region, access)
        for thread in self._threads:
            thread.refresh()

    def finish(self) -> list[VcpuSample]:
        """End every vCPU's thread; return the last figures."""
        self._injector.watch([])
        for thread in self._threads:
            thread.leave()
        for thread in self._threads:
            thread.join()
        self.bus.flush()
        return [thread.sample() for thread in self._threads]

    def close(self) -> None:
        """Give all of it back to the host; no thread of a vCPU may run."""
        self._stack.close()
