# SPDX-License-Identifier: GPL-2.0-or-later
"""The device's side of a split virtqueue (VIRTIO 1.2, 2.7).

The driver is hostile: the rings are in memory that the guest may change at any time, from any vCPU. Each word
is read once and checked as it was read, all addresses must be in RAM, and a chain has at most as many
descriptors as the queue. So a notification costs a bounded time, whatever the rings hold.
"""

from __future__ import annotations

import ctypes
from typing import Final, NamedTuple

from pvtime.abi.virtio import Available, Descriptor, DescriptorFlags, RingHead, Used
from pvtime.errors import GuestMemoryError
from pvtime.machine.memory import GuestMemory
from pvtime.records import dataclass

__all__ = ["Buffer", "Chain", "RingError", "Virtqueue"]

_DESCRIPTOR: Final = ctypes.sizeof(Descriptor)
_HEAD: Final = ctypes.sizeof(RingHead)
_USED: Final = ctypes.sizeof(Used)
_AVAILABLE: Final = 2
"""Bytes of an entry of the available ring."""

_INDEX: Final = 0xFFFF


class RingError(Exception):
    """The driver has broken the rules: its queue cannot be used before a reset."""


class Buffer(NamedTuple):
    """``length`` bytes of RAM at IPA ``address``; they were checked."""

    address: int
    length: int


@dataclass(frozen=True)
class Chain:
    """The buffers of one request."""

    head: int
    """Index of the first descriptor, which names the chain in the used ring."""
    readable: list[Buffer]
    writable: list[Buffer]

    @property
    def size(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.length for buffer in (*self.readable, *self.writable))


class Virtqueue:
    """A queue in ``memory``, the guest's RAM, with at most ``max_size`` descriptors, a power of 2."""

    def __init__(self, memory: GuestMemory, max_size: int) -> None:
        self._memory = memory
        self.max_size = max_size
        self.reset()

    def reset(self) -> None:
        """Return to the state after power-on."""
        self.size = self.max_size
        """Number of descriptors; the driver chooses it."""
        self.descriptors = 0
        """IPA of the descriptor table."""
        self.driver_area = 0
        """IPA of the available ring."""
        self.device_area = 0
        """IPA of the used ring."""
        self.ready = False
        self._taken = 0
        """Chains taken from the available ring so far, modulo 2^16."""
        self._returned = 0
        """Chains put into the used ring so far, modulo 2^16."""

    def enable(self) -> None:
        """Take the queue into use, as the driver has set it up.

        :raises RingError: its size is no power of 2, or too large, or a part of it is not in RAM.
        """
        if not 0 < self.size <= self.max_size or self.size & (self.size - 1):
            raise RingError(f"a queue of {self.size} descriptors")
        # Sizes and alignments: 2.7, the table of the parts.
        for address, length, alignment in (
            (self.descriptors, _DESCRIPTOR * self.size, 16),
            (self.driver_area, _HEAD + _AVAILABLE * self.size, 2),
            (self.device_area, _HEAD + _USED * self.size, 4),
        ):
            if address % alignment:
                raise RingError(f"a part of a queue at {address:#x}")
            self._check(address, length)
        self.ready = True

    def available(self) -> list[int]:
        """Return the heads of the chains that the driver has made available since the last call.

        :raises RingError: there are more than the queue has descriptors.
        """
        head = RingHead.from_buffer_copy(self._memory.read(self.driver_area, _HEAD))
        waiting = (head.idx - self._taken) & _INDEX
        if waiting > self.size:
            raise RingError(f"{waiting} chains in a queue of {self.size} descriptors")
        ring = memoryview(self._memory.read(self.driver_area + _HEAD, _AVAILABLE * self.size)).cast("H")
        heads = [ring[(self._taken + at) % self.size] for at in range(waiting)]
        self._taken = head.idx
        return heads

    def chain(self, head: int) -> Chain:
        """Return the chain that begins with descriptor ``head``.

        :raises RingError: it is longer than the queue, leaves RAM, has an indirect table, which was not
            offered, or a buffer to read behind one to write (2.7.4.2).
        """
        chain = Chain(head, [], [])
        index = head
        for _ in range(self.size):
            if index >= self.size:
                raise RingError(f"descriptor {index} of {self.size}")
            place = self.descriptors + _DESCRIPTOR * index
            descriptor = Descriptor.from_buffer_copy(self._memory.read(place, _DESCRIPTOR))
            flags = DescriptorFlags(descriptor.flags)
            if flags.indirect:
                raise RingError("an indirect descriptor, which was not offered")
            self._check(descriptor.addr, descriptor.len)
            if chain.writable and not flags.write:
                raise RingError("a buffer to read behind one to write")
            (chain.writable if flags.write else chain.readable).append(
                Buffer(descriptor.addr, descriptor.len)
            )
            if not flags.next:
                return chain
            index = descriptor.next
        raise RingError("a chain that is longer than its queue")

    def put(self, chain: Chain, written: int) -> None:
        """Return a chain to the driver.

        :param written: bytes that were written to its buffers.
        """
        place = self.device_area + _HEAD + _USED * (self._returned % self.size)
        self._memory.write(place, bytes(Used(chain.head, written)))
        self._returned = (self._returned + 1) & _INDEX
        # The entry is there before the index says so: one thread stores both, and the guest reads the index
        # first. (The interpreter's own locks are barriers between the two.)
        self._memory.write(self.device_area + 2, self._returned.to_bytes(2, "little"))

    @property
    def wants_interrupt(self) -> bool:
        """Whether the driver wants to be told of chains that are returned (2.7.7)."""
        head = RingHead.from_buffer_copy(self._memory.read(self.driver_area, _HEAD))
        return not Available(head.flags).no_interrupt

    def _check(self, address: int, length: int) -> None:
        try:
            self._memory.view(address, length).release()
        except GuestMemoryError as error:
            raise RingError(str(error)) from error
