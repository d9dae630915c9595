# SPDX-License-Identifier: GPL-2.0-or-later
"""The MMIO transport of a virtio device with one queue (VIRTIO 1.2, 4.2), without the legacy interface.

A notification is handled where the guest makes it, on the engine's thread: a device bounds what one request
may transfer, and :meth:`Virtqueue.available` their number. A driver that breaks the rules finds
DEVICE_NEEDS_RESET in the status (2.1.2), and its queue at rest until it resets the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from threading import Lock
from typing import Final

from pvtime.abi.virtio import MAGIC, VERSION, DeviceStatus, Feature, InterruptStatus, MmioReg
from pvtime.machine.device import IrqLine, IrqWire
from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory
from pvtime.machine.virtio.queue import Chain, RingError, Virtqueue

__all__ = ["QUEUE_SIZE", "VirtioDevice"]

VENDOR: Final = 0x7470_7670
"""``pvpt``; a driver may print it."""

QUEUE_SIZE: Final = 64
"""Descriptors: as many chains can wait."""

_LOW: Final = 0xFFFF_FFFF


class VirtioDevice(ABC):
    """A device with registers at ``region``, interrupt wire ``irq``, and buffers in ``memory``, the RAM.

    Registers are used from any thread; ``irq`` is not called with a lock held.
    """

    device_id: int

    def __init__(self, region: Region, irq: IrqLine, memory: GuestMemory, features: int) -> None:
        self.region = region
        self._wire = IrqWire(irq)
        self._features = features | 1 << Feature.VERSION_1
        self._memory = memory
        self._queue = Virtqueue(memory, QUEUE_SIZE)
        self._lock = Lock()
        self._power_on()

    @abstractmethod
    def config(self) -> bytes:
        """Return the device's configuration."""

    @abstractmethod
    def handle(self, chain: Chain) -> int:
        """Handle a request, and return the number of bytes that were written to its buffers.

        :raises RingError: the chain is no request.
        """

    def _power_on(self) -> None:
        self._queue.reset()
        self._status = DeviceStatus(0)
        self._interrupts = InterruptStatus(0)
        self._device_features_sel = self._driver_features_sel = self._queue_sel = 0
        self._driver_features = 0

    def reset(self) -> None:
        """Return to the state after power-on."""
        with self._lock:
            self._power_on()
            self._settle()
        self._wire.update()

    def read(self, offset: int, size: int) -> int:
        """Return a register, or a part of the configuration."""
        with self._lock:
            if offset >= MmioReg.CONFIG:
                at = offset - MmioReg.CONFIG
                return int.from_bytes(self.config()[at : at + size], "little")
            return self._read(offset) if size == 4 else 0

    def _read(self, offset: int) -> int:
        match offset:
            case MmioReg.MAGIC_VALUE:
                return MAGIC
            case MmioReg.VERSION:
                return VERSION
            case MmioReg.DEVICE_ID:
                return self.device_id
            case MmioReg.VENDOR_ID:
                return VENDOR
            case MmioReg.DEVICE_FEATURES:
                return _word(self._features, self._device_features_sel)
            case MmioReg.QUEUE_NUM_MAX:
                return self._queue.max_size if self._queue_sel == 0 else 0
            case MmioReg.QUEUE_READY:
                return int(self._queue.ready and self._queue_sel == 0)
            case MmioReg.INTERRUPT_STATUS:
                return self._interrupts
            case MmioReg.STATUS:
                return self._status
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Set a register."""
        if size != 4 or offset >= MmioReg.CONFIG:
            return
        with self._lock:
            try:
                self._write(offset, value & _LOW)
            except RingError:
                self._status = self._status.with_(device_needs_reset=1)
                if self._status.driver_ok:
                    self._interrupts = self._interrupts.with_(configuration=1)
            self._settle()
        self._wire.update()

    def _write(self, offset: int, value: int) -> None:
        match offset:
            case MmioReg.DEVICE_FEATURES_SEL:
                self._device_features_sel = value
            case MmioReg.DRIVER_FEATURES_SEL:
                self._driver_features_sel = value
            case MmioReg.DRIVER_FEATURES:
                if not self._status.features_ok and self._driver_features_sel <= 1:
                    shift = 32 * self._driver_features_sel
                    self._driver_features = self._driver_features & ~(_LOW << shift) | value << shift
            case MmioReg.INTERRUPT_ACK:
                self._interrupts = InterruptStatus(self._interrupts & ~value)
            case MmioReg.STATUS:
                self._set_status(value)
            case MmioReg.QUEUE_SEL:
                self._queue_sel = value
            case MmioReg.QUEUE_NOTIFY:
                if value == 0:
                    self._serve()
            case _ if self._queue_sel == 0:
                self._set_queue(offset, value)

    def _set_status(self, value: int) -> None:
        """Follow the driver's initialisation (3.1.1); features that were not offered are not agreed upon."""
        if value == 0:
            self._power_on()
            return
        status = DeviceStatus(value & 0xFF).with_(device_needs_reset=self._status.device_needs_reset)
        wanted = self._driver_features
        agreed = wanted & ~self._features == 0 and wanted & 1 << Feature.VERSION_1
        self._status = status if agreed else status.with_(features_ok=0)

    def _set_queue(self, offset: int, value: int) -> None:
        """Set up the queue, which does not change while it is in use."""
        queue = self._queue
        if offset == MmioReg.QUEUE_READY:
            if value & 1 and not queue.ready:
                queue.enable()
            elif not value & 1:
                queue.ready = False
            return
        if queue.ready:
            return
        match offset:
            case MmioReg.QUEUE_NUM:
                queue.size = value
            case MmioReg.QUEUE_DESC_LOW:
                queue.descriptors = queue.descriptors & ~_LOW | value
            case MmioReg.QUEUE_DESC_HIGH:
                queue.descriptors = queue.descriptors & _LOW | value << 32
            case MmioReg.QUEUE_DRIVER_LOW:
                queue.driver_area = queue.driver_area & ~_LOW | value
            case MmioReg.QUEUE_DRIVER_HIGH:
                queue.driver_area = queue.driver_area & _LOW | value << 32
            case MmioReg.QUEUE_DEVICE_LOW:
                queue.device_area = queue.device_area & ~_LOW | value
            case MmioReg.QUEUE_DEVICE_HIGH:
                queue.device_area = queue.device_area & _LOW | value << 32

    def _serve(self) -> None:
        """Handle the requests that wait.

        The driver makes a notification for each that it adds behind our back, since this device never
        suppresses them.
        """
        status = self._status
        if not (status.driver_ok and status.features_ok and self._queue.ready) or status.device_needs_reset:
            return
        for head in self._queue.available():
            chain = self._queue.chain(head)
            self._queue.put(chain, self.handle(chain))
            if self._queue.wants_interrupt:
                self._interrupts = self._interrupts.with_(used=1)

    def _settle(self) -> None:
        self._wire.level = self._interrupts != 0


def _word(features: int, select: int) -> int:
    """Return 32 of the feature bits."""
    return features >> 32 * select & _LOW if select <= 1 else 0
