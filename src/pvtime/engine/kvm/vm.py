# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM: memory slots, interrupt wires, collected writes, and what is made in it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from mmap import PAGESIZE
from typing import Final

from pvtime.abi.kvm import KvmCap, KvmIoctl
from pvtime.abi.kvm_device import DeviceType
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
from pvtime.engine.kvm.device import Device
from pvtime.engine.kvm.ioctl import KvmError, call, close
from pvtime.engine.kvm.vcpu import Vcpu
from pvtime.errors import EngineError
from pvtime.machine.layout import Region

__all__ = ["FIRST_SPI", "WRITABLE", "Vm"]

FIRST_SPI: Final = 32
"""INTID of SPI 0."""

CREATE_DEVICE_TEST: Final = 1
"""Flag of KVM_CREATE_DEVICE: say whether, and make none."""

WRITABLE: Final = MemoryFlag(0)


@dataclass(frozen=True)
class Slot:
    """A memory slot."""

    region: Region
    address: int
    """Where its memory is in this process."""
    flags: MemoryFlag


class Vm:
    """A VM's descriptor.

    :param ring_page: the page of a vCPU's mapping that holds the ring of collected writes; 0: KVM has none.
    """

    def __init__(self, fd: int, map_size: int, ring_page: int = 0) -> None:
        self.fd = fd
        self.ring_page = ring_page
        self._map_size = map_size
        self._slots: dict[int, Slot] = {}
        self._target: VcpuInit | None = None

    def set_memory(self, region: Region, address: int, flags: MemoryFlag = WRITABLE) -> int:
        """Let the guest see the host's memory at ``address`` in ``region``; return the slot.

        :raises EngineError: it overlaps a region that is there; the message names both.
        :raises KvmError: KVM refuses; EINVAL: not whole pages.
        """
        for other in self._slots.values():
            if region.overlaps(other.region):
                raise EngineError(f"{region} overlaps {other.region}: a guest address has one meaning")
        number = next(number for number in range(len(self._slots) + 1) if number not in self._slots)
        self._set(number, Slot(region, address, flags), region.size)
        return number

    def delete_memory(self, slot: int) -> None:
        """Take a slot's memory away from the guest.

        :raises KeyError: there is no such slot.
        """
        self._set(slot, replace(self._slots[slot], flags=WRITABLE), 0)
        del self._slots[slot]

    def log_writes(self, slot: int, on: bool) -> None:
        """Have the pages that are written from now on remembered for :meth:`written_pages`, or no longer.

        :raises KeyError: there is no such slot.
        """
        old = self._slots[slot]
        log = MemoryFlag.LOG_DIRTY_PAGES
        self._set(slot, replace(old, flags=old.flags | log if on else old.flags & ~log), old.region.size)

    def written_pages(self, slot: int) -> bytes:
        """Return a bitmap of the slot's pages, of the host's size, that were written since the last call.

        Written by the guest, or by the kernel for it; not by this process.

        :raises KeyError: there is no such slot.
        :raises KvmError: ENOENT: nobody asked for it, see :meth:`log_writes`.
        """
        words = -(-self._slots[slot].region.size // PAGESIZE // 64)
        bitmap = (ctypes.c_uint64 * words)()
        argument = KvmDirtyLog(slot=slot, dirty_bitmap=ctypes.addressof(bitmap))
        call(self.fd, KvmIoctl.GET_DIRTY_LOG, argument, str(self._slots[slot].region))
        return bytes(bitmap)

    def _set(self, number: int, slot: Slot, size: int) -> None:
        argument = MemoryRegion(
            slot=number,
            flags=slot.flags,
            guest_phys_addr=slot.region.base,
            memory_size=size,
            userspace_addr=slot.address,
        )
        call(self.fd, KvmIoctl.SET_USER_MEMORY_REGION, argument, str(slot.region))
        self._slots[number] = slot

    def create_vcpu(self, index: int) -> Vcpu:
        """Make a vCPU. Its owner is the thread that runs it first.

        :raises KvmError: KVM refuses; EEXIST: it is there already.
        """
        fd = call(self.fd, KvmIoctl.CREATE_VCPU, index, f"vCPU {index}")
        return Vcpu(fd, index, self._map_size, self.ring_page)

    def preferred_target(self) -> VcpuInit:
        """Return what KVM_ARM_VCPU_INIT wants to hear about the host's CPU, without features."""
        if self._target is None:
            self._target = VcpuInit()
            call(self.fd, KvmIoctl.ARM_PREFERRED_TARGET, self._target)
        return VcpuInit(target=self._target.target)

    def create_device(self, kind: DeviceType) -> Device:
        """Make a device that the kernel emulates.

        :raises KvmError: KVM refuses; ENODEV: this host cannot.
        """
        argument = CreateDevice(type=kind)
        call(self.fd, KvmIoctl.CREATE_DEVICE, argument, kind.name)
        return Device(argument.fd, kind.name)

    def can_create(self, kind: DeviceType) -> bool:
        """Return whether :meth:`create_device` would make one."""
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

    def collect_writes(self, zone: Region) -> None:
        """Have the guest's writes to ``zone`` collected in the ring, without an exit for each.

        :raises KvmError: KVM refuses; ENXIO: it has no such ring, see :attr:`ring_page`.
        """
        call(
            self.fd,
            KvmIoctl.REGISTER_COALESCED_MMIO,
            CoalescedZone(addr=zone.base, size=zone.size),
            str(zone),
        )

    def enable(self, capability: KvmCap) -> None:
        """Switch on a capability that is off until it is asked for.

        :raises KvmError: KVM does not have it.
        """
        call(self.fd, KvmIoctl.ENABLE_CAP, EnableCap(cap=capability), capability.name)

    def close(self) -> None:
        """Give the descriptor back; the VM ends when its vCPUs and devices are closed too."""
        close(self.fd)
        self.fd = -1
