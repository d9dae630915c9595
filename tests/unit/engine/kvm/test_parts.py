# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of the kvm engine that need no KVM."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.abi.kvm import KvmIoctl
from pvtime.abi.kvm_run import CoalescedMmio, CoalescedRing, KvmRun
from pvtime.engine.kvm.dirty import KvmDirtyTracker
from pvtime.engine.kvm.engine import obstacle
from pvtime.engine.kvm.exits import ADDRESS, DATA, EXIT_REASON, IS_WRITE, LENGTH, KvmRunView
from pvtime.engine.kvm.ioctl import KvmError, call
from pvtime.engine.kvm.mmio import CoalescedMmioRing, MmioBus
from pvtime.engine.kvm.slots import runs
from pvtime.machine.layout import CONSOLE, RAM_BASE, Region
from pvtime.machine.memory import GuestMemory
from pvtime.machine.pages import CHUNK

PAGE = mmap.PAGESIZE


class Recorder:
    """A device that notes what is written, and answers with the offset."""

    def __init__(self, region: Region = CONSOLE) -> None:
        self.region = region
        self.written: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


class KernelRing:
    """The kernel's end of a ring of collected writes."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, mmap.PAGESIZE)
        self.head = CoalescedRing.from_buffer(self.map)
        self.ring = CoalescedMmioRing(self.map, 0)

    def collect(self, address: int, value: int) -> None:
        at = ctypes.sizeof(CoalescedRing) + self.head.last * ctypes.sizeof(CoalescedMmio)
        entry = CoalescedMmio.from_buffer(self.map, at)
        # What is behind the bytes of this write is left from an older one.
        entry.phys_addr, entry.len, entry.data = address, 1, value | 0xDEAD_0000
        self.head.last = (self.head.last + 1) % self.ring.capacity


def test_a_page_of_4_kib_holds_170_writes() -> None:
    assert mmap.PAGESIZE != 4096 or KernelRing().ring.capacity == 170


@given(st.lists(st.integers(0, 20), max_size=40))
def test_the_ring_gives_every_write_once_and_in_order(bursts: list[int]) -> None:
    kernel, taken, sent = KernelRing(), [], 0
    for burst in bursts:
        for _ in range(burst):
            kernel.collect(CONSOLE.base, sent & 0xFF)
            sent += 1
        kernel.ring.drain(lambda address, size, value: taken.append((address, size, value)))
        assert kernel.head.first == kernel.head.last
    assert taken == [(CONSOLE.base, 1, number & 0xFF) for number in range(sent)]


def test_collected_writes_reach_the_device_before_the_access_that_left_the_guest() -> None:
    device, kernel = Recorder(), KernelRing()
    bus = MmioBus([device], kernel.ring)
    kernel.collect(CONSOLE.base, ord("a"))
    bus.write(CONSOLE.base + 1, 1, 5)
    kernel.collect(CONSOLE.base, ord("b"))
    assert bus.read(CONSOLE.base + 5, 1) == 5
    assert device.written == [(0, 1, ord("a")), (1, 1, 5), (0, 1, ord("b"))]


@given(st.integers(0, (1 << 64) - 1), st.sampled_from([1, 2, 4, 8]), st.integers(0, (1 << 64) - 1))
def test_any_access_of_a_guest_is_answered(address: int, size: int, value: int) -> None:
    bus = MmioBus([Recorder()])
    bus.write(address, size, value)
    inside = CONSOLE.base <= address < CONSOLE.end
    assert bus.read(address, size) == (address - CONSOLE.base if inside else 0)


def test_the_page_is_read_as_the_structure_says() -> None:
    mapping = mmap.mmap(-1, 8192)
    run, view = KvmRun.from_buffer(mapping), KvmRunView(mapping)
    run.exit_reason, run.mmio.phys_addr, run.mmio.len = 6, 0x0900_0005, 2
    run.mmio.data, run.mmio.is_write = 0xFFFF_1234, 1
    assert (view.words[EXIT_REASON], view.bytes[IS_WRITE]) == (6, 1)
    assert view.written() == (0x0900_0005, 2, 0x1234)
    assert (view.quads[ADDRESS], view.words[LENGTH]) == (0x0900_0005, 2)
    view.quads[DATA] = 0x60
    view.set_immediate_exit(True)
    assert (run.mmio.data, run.immediate_exit) == (0x60, 1)


def test_changed_memory_is_yielded_once_in_copies_and_after_a_reset_what_became_zero_too() -> None:
    size = 4 * CHUNK
    memory = GuestMemory(RAM_BASE, size, "RAM")
    log: list[tuple[int, int]] = []
    closed: list[bool] = []

    def written() -> list[tuple[int, int]]:
        found = log[:]
        log.clear()
        return found

    dirty = KvmDirtyTracker([memory], written, lambda: closed.append(True))

    def changed() -> list[tuple[int, int, int]]:
        return [(ipa - RAM_BASE, len(data), data[0]) for ipa, data in dirty.changed()]

    memory.write(RAM_BASE + PAGE, bytes([1]) * PAGE)
    assert changed() == [(PAGE, PAGE, 1)]
    assert changed() == []
    log.append((RAM_BASE + 2 * PAGE, CHUNK + PAGE))
    log.append((0, PAGE))  # another region's
    memory.write(RAM_BASE + 2 * PAGE, bytes([2]) * PAGE)
    assert changed() == [(2 * PAGE, CHUNK, 2), (2 * PAGE + CHUNK, PAGE, 0)]
    memory.clear()
    memory.write(RAM_BASE, bytes([3]) * PAGE)
    dirty.restart()
    first, *rest = changed()
    assert first == (0, CHUNK, 3)
    assert first[1] + sum(length for _, length, _ in rest) == CHUNK + 3 * PAGE
    held = list(dirty.changed())
    assert held == []
    dirty.close()
    assert closed == [True]
    memory.close()


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(0, []), (1, [(0, 1)]), (0b1011 << 62, [(62, 2), (65, 1)]), ((1 << 128) - 1, [(0, 128)])],
)
def test_a_bitmap_is_read_as_runs(bits: int, expected: list[tuple[int, int]]) -> None:
    assert runs(bits.to_bytes(16, "little")) == expected


def test_an_error_names_the_request_and_what_it_was_about() -> None:
    with open(os.devnull) as device, pytest.raises(KvmError, match=r"KVM_RUN \(vCPU 3\): ENOTTY") as caught:
        call(device.fileno(), KvmIoctl.RUN, 0, "vCPU 3")
    assert caught.value.errno == errno.ENOTTY


@pytest.mark.skipif(platform.machine() == "aarch64", reason="this host may have KVM for arm64")
def test_another_architecture_is_an_obstacle_with_a_way_out() -> None:
    reason = obstacle()
    assert reason is not None
    assert platform.machine() in reason
    assert "pvtime lab" in reason
