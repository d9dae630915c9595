# SPDX-License-Identifier: GPL-2.0-or-later
"""What the emulated CPU finds at each physical address: a device, or nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import unicorn

from pvtime.engine.unicorn.library import LIBRARY, MMIO_READ_CALLBACK, MMIO_WRITE_CALLBACK
from pvtime.errors import EngineError
from pvtime.machine.device import MmioDevice
from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory

__all__ = ["Nothing", "ReadOnly", "fill_gaps", "map_device"]

PHYSICAL_ADDRESS_BITS: Final = 48
"""No emulated CPU's physical addresses are longer."""


class Nothing:
    """Addresses where no device answers: read as zero, writes ignored."""

    def __init__(self, region: Region) -> None:
        self.region = region

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        return


class ReadOnly:
    """Memory that the guest may read; what it writes is ignored, and it cannot run code there."""

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


def map_device(
    handle: ctypes.c_void_p, device: MmioDevice, fail: Callable[[BaseException], None]
) -> tuple[object, object]:
    """Let the CPU see a device.

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
