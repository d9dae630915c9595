# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated CPU's physical address space: memory, devices, and nothing elsewhere."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import unicorn

from pvtime.engine.unicorn.uclib import LIBRARY, MMIO_READ_CALLBACK, MMIO_WRITE_CALLBACK
from pvtime.errors import EngineError
from pvtime.machine.device import MmioDevice
from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import Access

__all__ = ["AddressSpace"]

PHYSICAL_ADDRESS_BITS: Final = 48
"""No emulated CPU's physical addresses are longer."""


Fail: TypeAlias = Callable[[BaseException], None]


class AddressSpace:
    """The guest's physical addresses, of one CPU.

    :param fail: gets what a device raises, which cannot pass through the library's frames.
    :raises EngineError: the library refuses.
    """

    def __init__(
        self, uc: unicorn.Uc, memories: Sequence[GuestMemory], devices: Sequence[MmioDevice], fail: Fail
    ) -> None:
        self._uc = uc
        self._fail = fail
        self._callbacks: list[object] = []
        self._memories = list(memories)  # the library has their addresses
        for memory in self._memories:
            self._map_memory(memory.region, memory)
        for device in fill_gaps([memory.region for memory in self._memories], devices):
            self._map_device(device)

    def protect(self, region: Region, memory: GuestMemory, access: Access) -> None:
        """Take a part of the memory away from the guest, make it read-only, or give it back.

        :raises EngineError: it is not whole pages.
        """
        try:
            self._uc.mem_unmap(region.base, region.size)
            if access is Access.WRITE:
                self._map_memory(region, memory)
        except unicorn.UcError as error:
            raise EngineError(f"{region} cannot be mapped again: {error}") from error
        if access is not Access.WRITE:
            self._map_device(Nothing(region) if access is Access.NONE else ReadOnly(region, memory))
        self.forget_code()

    def forget_code(self) -> None:
        """Drop all translated code: guest memory was written from outside."""
        self._uc.ctl_flush_tb()

    def _map_memory(self, region: Region, memory: GuestMemory) -> None:
        address = memory.address + region.base - memory.base
        self._uc.mem_map_ptr(region.base, region.size, unicorn.UC_PROT_ALL, address)

    def _map_device(self, device: MmioDevice) -> None:
        self._callbacks += map_device(self._uc._uch, device, self._fail)


class Nothing:
    """Addresses without a device: reads give zero, writes are ignored."""

    def __init__(self, region: Region) -> None:
        self.region = region

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        return


class ReadOnly:
    """Memory that the guest may read but not execute; writes are ignored."""

    def __init__(self, region: Region, memory: GuestMemory) -> None:
        self.region = region
        self._memory = memory

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._memory.read(self.region.base + offset, size), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        return


def fill_gaps(memory: Sequence[Region], devices: Sequence[MmioDevice]) -> Iterator[MmioDevice]:
    """Yield the devices, and one that does nothing for each range of addresses between devices and memory.

    The alternative, a hook on accesses to nowhere, would keep every store to RAM on the library's slow path.
    """
    yield from devices
    end = Region("end", 1 << PHYSICAL_ADDRESS_BITS, 0)
    address = 0
    for region in sorted([*memory, *(device.region for device in devices), end], key=lambda each: each.base):
        if region.base > address:
            yield Nothing(Region("nothing", address, region.base - address))
        address = region.end


def map_device(handle: ctypes.c_void_p, device: MmioDevice, fail: Fail) -> tuple[object, object]:
    """Map a device for the CPU.

    :param fail: gets what the device raises, which cannot pass through the library's frames.
    :return: objects that must live as long as the CPU.
    :raises EngineError: the library refuses.
    """

    def read(_uc: int, offset: int, size: int, _data: int) -> int:
        try:
            return device.read(offset, size)
        except BaseException as error:
            fail(error)
            return 0

    def write(_uc: int, offset: int, size: int, value: int, _data: int) -> None:
        try:
            device.write(offset, size, value)
        except BaseException as error:
            fail(error)

    callbacks = MMIO_READ_CALLBACK(read), MMIO_WRITE_CALLBACK(write)
    region = device.region
    on_read, on_write = (ctypes.cast(callback, ctypes.c_void_p) for callback in callbacks)
    status = LIBRARY.uc_mmio_map(handle, region.base, region.size, on_read, None, on_write, None)
    if status:
        raise EngineError(f"{region} cannot be mapped: {unicorn.UcError(status)}")
    return callbacks
