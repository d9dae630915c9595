# SPDX-License-Identifier: GPL-2.0-or-later
"""The descriptor of a VM: memory slots, stolen time, interrupt wires, coalesced writes, vCPUs and devices."""

from __future__ import annotations

import ctypes
import errno
from dataclasses import replace
from mmap import PAGESIZE
from typing import Final

from pvtime.abi.kvm import KvmCap, KvmIoctl
from pvtime.abi.kvm_device import DeviceType, PvTimeAttr, VcpuGroup
from pvtime.abi.kvm_types import (
    CoalescedZone,
    CreateDevice,
    EnableCap,
    IrqLevel,
    IrqNumber,
    IrqType,
    KvmDirtyLog,
    MemoryFlag,
    MemoryRegion,
    VcpuInit,
)
from pvtime.engine.kvm.ioctl import DeviceFd, KvmError, call, close
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.errors import EngineError
from pvtime.machine.layout import Region
from pvtime.records import dataclass

__all__ = ["FIRST_SPI", "STOLEN_TIME_UNSET", "WRITABLE", "VmFd"]

FIRST_SPI: Final = 32
"""INTID of SPI 0."""

CREATE_DEVICE_TEST: Final = 1
"""Flag of KVM_CREATE_DEVICE: answer whether, and create none."""

WRITABLE: Final = MemoryFlag(0)

STOLEN_TIME_UNSET: Final = (1 << 64) - 1
"""Value of a vCPU's PVTIME_CTRL attribute before it is set."""


@dataclass(frozen=True)
class MemorySlot:
    """A memory slot."""

    region: Region
    address: int
    """Address of its memory in this process."""
    flags: MemoryFlag


class VmFd:
    """A VM's descriptor.

    :param map_size: size of a vCPU's mapping, in bytes.
    :param coalesced_page: page of that mapping which holds the ring of coalesced writes; 0: KVM has none.
    """

    def __init__(self, fd: int, map_size: int, coalesced_page: int = 0) -> None:
        self.fd = fd
        self.coalesced_page = coalesced_page
        self._map_size = map_size
        self._slots: dict[int, MemorySlot] = {}
        self._stolen_time: dict[int, int] = {}
        """The vCPU with its structure at an IPA."""
        self._target: VcpuInit | None = None

    def set_memory(self, region: Region, address: int, flags: MemoryFlag = WRITABLE) -> int:
        """Let the guest see the host's memory at ``address`` in ``region``; return the slot.

        :raises EngineError: it overlaps another slot's region; the message names both.
        :raises KvmError: KVM refuses; EINVAL: not whole pages.
        """
        for other in self._slots.values():
            if region.overlaps(other.region):
                raise EngineError(f"{region} overlaps {other.region}: a guest address has one meaning")
        number = next(number for number in range(len(self._slots) + 1) if number not in self._slots)
        self._set(number, MemorySlot(region, address, flags), region.size)
        return number

    def delete_memory(self, slot: int) -> None:
        """Take a slot's memory away from the guest.

        :raises KeyError: there is no such slot.
        """
        self._set(slot, replace(self._slots[slot], flags=WRITABLE), 0)
        del self._slots[slot]

    def log_writes(self, slot: int, on: bool) -> None:
        """Have :meth:`written_pages` know the pages that are written from now on, or stop that.

        :raises KeyError: there is no such slot.
        """
        old = self._slots[slot]
        log = MemoryFlag.LOG_DIRTY_PAGES
        self._set(slot, replace(old, flags=old.flags | log if on else old.flags & ~log), old.region.size)

    def written_pages(self, slot: int) -> bytes:
        """Return a bitmap of the slot's pages, of the host's size, that were written since the last call.

        Written by the guest, or by the kernel for it; not by this process.

        :raises KeyError: there is no such slot.
        :raises KvmError: ENOENT: writes are not logged, see :meth:`log_writes`.
        """
        words = -(-self._slots[slot].region.size // PAGESIZE // 64)
        bitmap = (ctypes.c_uint64 * words)()
        argument = KvmDirtyLog(slot=slot, dirty_bitmap=ctypes.addressof(bitmap))
        call(self.fd, KvmIoctl.GET_DIRTY_LOG, argument, str(self._slots[slot].region))
        return bytes(bitmap)

    def _set(self, number: int, slot: MemorySlot, size: int) -> None:
        argument = MemoryRegion(
            slot=number,
            flags=slot.flags,
            guest_phys_addr=slot.region.base,
            memory_size=size,
            userspace_addr=slot.address,
        )
        call(self.fd, KvmIoctl.SET_USER_MEMORY_REGION, argument, str(slot.region))
        self._slots[number] = slot

    def create_vcpu(self, index: int) -> VcpuFd:
        """Create a vCPU, which belongs to the thread that runs it first.

        :raises KvmError: KVM refuses; EEXIST: the VM has this vCPU already.
        """
        fd = call(self.fd, KvmIoctl.CREATE_VCPU, index, f"vCPU {index}")
        return VcpuFd(fd, index, self._map_size, self.coalesced_page)

    def set_stolen_time(self, vcpu: VcpuFd, ipa: int) -> None:
        """Have KVM write the vCPU's stolen time to the structure at ``ipa``.

        KVM accepts one address for two vCPUs, which then overwrite each other's count; here it is refused.
        Source: the kernel's Documentation/virt/kvm/devices/vcpu.rst, section 3.

        :raises EngineError: another vCPU has that address, or this host's KVM has no stolen time.
        :raises KvmError: EINVAL: not 64-byte aligned, or in no writable memory slot; EEXIST: the vCPU has an
            address already.
        """
        if (other := self._stolen_time.get(ipa)) is not None and other != vcpu.index:
            raise EngineError(
                f"{vcpu.name} cannot have its stolen time at {ipa:#x}: that of vCPU {other} is there"
            )
        try:
            vcpu.set_u64(VcpuGroup.PVTIME_CTRL, PvTimeAttr.IPA, ipa)
        except KvmError as error:
            if error.errno == errno.ENXIO:
                raise EngineError(
                    "this host's KVM has no stolen time: "
                    "it takes Linux 5.10 or later with scheduler statistics (CONFIG_SCHED_INFO)"
                ) from error
            raise
        self._stolen_time[ipa] = vcpu.index

    def preferred_target(self) -> VcpuInit:
        """Return the host's CPU for KVM_ARM_VCPU_INIT, without features."""
        if self._target is None:
            self._target = VcpuInit()
            call(self.fd, KvmIoctl.ARM_PREFERRED_TARGET, self._target)
        return VcpuInit(target=self._target.target)

    def create_device(self, kind: DeviceType) -> DeviceFd:
        """Create a device that the kernel emulates.

        :raises KvmError: KVM refuses; ENODEV: this host cannot.
        """
        argument = CreateDevice(type=kind)
        call(self.fd, KvmIoctl.CREATE_DEVICE, argument, kind.name)
        return DeviceFd(argument.fd, kind.name)

    def can_create(self, kind: DeviceType) -> bool:
        """Return whether :meth:`create_device` would succeed."""
        try:
            call(
                self.fd, KvmIoctl.CREATE_DEVICE, CreateDevice(type=kind, flags=CREATE_DEVICE_TEST), kind.name
            )
        except KvmError:
            return False
        return True

    def set_irq(self, spi: int, level: bool) -> None:
        """Set the level of a shared peripheral interrupt's wire; ``spi`` counts from 0.

        :raises KvmError: there is no such interrupt.
        """
        irq = IrqNumber.of(type=IrqType.SPI, number=spi + FIRST_SPI)
        call(self.fd, KvmIoctl.IRQ_LINE, IrqLevel(irq=irq, level=level), f"SPI {spi}")

    def coalesce_writes(self, zone: Region) -> None:
        """Have the guest's writes to ``zone`` put into the ring, without an exit for each.

        :raises KvmError: KVM refuses; ENXIO: KVM has no ring, see :attr:`coalesced_page`.
        """
        call(
            self.fd,
            KvmIoctl.REGISTER_COALESCED_MMIO,
            CoalescedZone(addr=zone.base, size=zone.size),
            str(zone),
        )

    def enable(self, capability: KvmCap) -> None:
        """Enable a capability that is off by default.

        :raises KvmError: KVM does not have it.
        """
        call(self.fd, KvmIoctl.ENABLE_CAP, EnableCap(cap=capability), capability.name)

    def close(self) -> None:
        """Close the descriptor; the VM ends when its vCPUs and devices are closed too."""
        close(self.fd)
        self.fd = -1
