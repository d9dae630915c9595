# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told to have changed is all that a peer needs, and no more than the blocks that have."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import pytest

from framework.payload import Payload, boot
from framework.wait import DEADLINE
from pvtime.machine.dirty import Comparison, DirtyTracker
from pvtime.machine.layout import RAM_BASE
from pvtime.machine.memory import GuestMemory
from pvtime.machine.pages import BLOCK, CHUNK

SIZE: Final = 4 << 20
BASES: Final = (0x4000_0000, 0x90A_0000)


@pytest.fixture
def memories() -> Iterator[list[GuestMemory]]:
    """Return two regions."""
    memories = [GuestMemory(base, SIZE, "memory") for base in BASES]
    yield memories
    for memory in memories:
        memory.close()


def pages(tracker: DirtyTracker) -> list[tuple[int, int]]:
    """Return address and length of what has changed."""
    return [(ipa, len(data)) for ipa, data in tracker.changed()]


def test_at_first_all_that_is_not_zero_has_changed(memories: list[GuestMemory]) -> None:
    memories[0].write(BASES[0] + 5, b"a")
    memories[1].write(BASES[1] + SIZE - 1, b"b")
    with closing(Comparison(memories)) as tracker:
        assert pages(tracker) == [(BASES[0], BLOCK), (BASES[1] + SIZE - BLOCK, BLOCK)]
        assert pages(tracker) == []


def test_a_run_of_blocks_is_joined_and_what_is_written_as_it_was_has_not_changed(
    memories: list[GuestMemory],
) -> None:
    memory = memories[0]
    memory.write(memory.base, bytes([1]) * SIZE)
    with closing(Comparison(memories)) as tracker:
        assert pages(tracker) == [(memory.base + at, CHUNK) for at in range(0, SIZE, CHUNK)]
        memory.write(memory.base, bytes([1]) * SIZE)
        assert pages(tracker) == []
        memory.write(memory.base + 3 * BLOCK + 1, bytes(BLOCK))
        memory.write(memory.base + 9 * BLOCK, b"x")
        assert pages(tracker) == [(memory.base + 3 * BLOCK, 2 * BLOCK), (memory.base + 9 * BLOCK, BLOCK)]


def test_memory_that_was_given_back_has_changed_to_zero(memories: list[GuestMemory]) -> None:
    memory = memories[0]
    memory.write(memory.base + BLOCK, b"kernel")
    with closing(Comparison(memories)) as tracker:
        assert pages(tracker) == [(memory.base + BLOCK, BLOCK)]
        memory.clear()
        ((ipa, data),) = tracker.changed()
        assert (ipa, bytes(data)) == (memory.base + BLOCK, bytes(BLOCK))


def test_a_peer_that_takes_what_has_changed_has_the_same_memory(memories: list[GuestMemory]) -> None:
    chance = random.Random(5)
    peers = [GuestMemory(base, SIZE, "peer") for base in BASES]
    with closing(Comparison(memories)) as tracker:
        for _ in range(40):
            for _ in range(chance.randrange(6)):
                memory = chance.choice(memories)
                at = chance.randrange(SIZE)
                memory.write(memory.base + at, chance.randbytes(min(chance.randrange(3 * BLOCK), SIZE - at)))
            if not chance.randrange(12):
                chance.choice(memories).clear()
            for ipa, data in tracker.changed():
                peer = peers[0] if ipa >= BASES[0] else peers[1]
                peer.write(ipa, data)
            for memory, peer in zip(memories, peers, strict=True):
                assert memory.read(memory.base, SIZE) == peer.read(peer.base, SIZE)
    for peer in peers:
        peer.close()


def test_a_write_between_comparison_and_sending_is_not_lost(memories: list[GuestMemory]) -> None:
    # Sent must be what was compared: else a guest that writes 2, and 1 again, leaves the peer with the 2.
    memory = memories[0]
    memory.write(memory.base, b"\1")
    with closing(Comparison(memories)) as tracker:
        for _, data in tracker.changed():
            memory.write(memory.base, b"\2")
            sent = bytes(data[:1])
            memory.write(memory.base, b"\1")
        assert sent == b"\1"
        assert pages(tracker) == []


def test_a_guest_that_writes_all_the_time_ends_up_the_same_at_the_peer() -> None:
    payload = Payload().mov(1, RAM_BASE + (8 << 20)).mov(2, 0).label("again").add(2, 2, 1)
    payload.low_bits(5, 2, 19)
    payload.add_register(3, 1, 5, shift=3).store(2, 3).mov(28, RAM_BASE + (1 << 20)).load(27, 28)
    payload.cbz(27, "again").power_off()
    with boot(payload, "auto") as guest, closing(guest.engine.start_dirty_log()) as tracker:
        guest.engine.start()
        peer = {
            memory.base: GuestMemory(memory.base, memory.size, "peer") for memory in guest.machine.memories
        }

        def send() -> int:
            size = 0
            for ipa, data in tracker.changed():
                memory = guest.machine.memory_at(ipa, len(data))
                peer[memory.base].write(ipa, data)
                size += len(data)
            return size

        moved = 0
        end = threading.Event()
        timer = threading.Timer(DEADLINE, end.set)
        timer.start()
        while moved < 4:
            assert not end.is_set(), "the guest does not write"
            moved += bool(send())
        timer.cancel()
        guest.engine.pause()
        send()
        assert send() == 0, "nothing runs"
        for memory in guest.machine.memories:
            assert memory.read(memory.base, memory.size) == peer[memory.base].read(memory.base, memory.size)
            peer[memory.base].close()
        guest.engine.resume()
        guest.tell(0)
        guest.end()
