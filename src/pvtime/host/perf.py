# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracepoints by perf_event_open(2), in rings of the kernel's that end with this process.

perf rather than an instance of tracefs: the kernel closes the events of a process that is killed, while an
instance would stay, tracing. Both have the same records (docs/who.md). Its times are in ns, its records of
one size, so that :mod:`struct` takes a whole ring apart in one call.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, Final

from pvtime.errors import UsageError, host_reason
from pvtime.host.tracefs import Tracepoint

__all__ = ["CLOCK", "PerfRing", "RecordSize", "perf_ring", "record_format", "samples"]

CLOCK: Final = 4
"""CLOCK_MONOTONIC_RAW: like the scheduler's clock it is not slewed, and programs can read it."""

_SYSCALL: Final = {
    "x86_64": 298,
    "aarch64": 241,
    "riscv64": 241,
    "loongarch64": 241,
    "s390x": 331,
    "ppc64le": 319,
}
_TYPE_TRACEPOINT: Final = 2
_RECORD_LOST: Final = 2
_RECORD_SAMPLE: Final = 9
_FLAG_CLOEXEC: Final = 8
_HEAD, _TAIL = 1024, 1032
"""Offsets of data_head and data_tail in the first page (struct perf_event_mmap_page)."""
_WORD: Final = struct.Struct("=Q")
_HEADER: Final = struct.Struct("=IHH")
_LOST: Final = struct.Struct("=IHHQQ")


class _Sample(IntEnum):
    """enum perf_event_sample_format."""

    TID = 1 << 1
    TIME = 1 << 2
    RAW = 1 << 10


class _Flag(IntEnum):
    """Bits of struct perf_event_attr."""

    DISABLED = 1 << 0
    USE_CLOCKID = 1 << 25


class _Request(IntEnum):
    """ioctl(2) requests of an event."""

    ENABLE = 0x2400
    SET_OUTPUT = 0x2405
    SET_FILTER = 0x4008_2406


class _Attributes(ctypes.Structure):
    """struct perf_event_attr, version 5."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
        ("branch_sample_type", ctypes.c_uint64),
        ("sample_regs_user", ctypes.c_uint64),
        ("sample_stack_user", ctypes.c_uint32),
        ("clockid", ctypes.c_int32),
        ("sample_regs_intr", ctypes.c_uint64),
        ("aux_watermark", ctypes.c_uint32),
        ("sample_max_stack", ctypes.c_uint16),
        ("reserved", ctypes.c_uint16),
    )


class RecordSize(IntEnum):
    """Sizes of the parts before a tracepoint's own data: header, pid and tid, time, size of the data."""

    BEFORE_DATA = 8 + 8 + 8 + 4


def record_format(tracepoint: Tracepoint, fields: Sequence[str]) -> struct.Struct:
    """Return the layout of a record: its time, then the fields in the order of their places.

    :raises UsageError: the tracepoint lacks a field, or they are not in this order.
    """
    text, at = "=16xQ4x", 0
    for name in fields:
        if name not in tracepoint.fields or tracepoint.fields[name][0] < at:
            raise UsageError(f"this kernel's {tracepoint.name} has {name} in another place")
        offset, size = tracepoint.fields[name]
        text += f"{offset - at}x" + {4: "i", 8: "q", 16: "16s"}[size]
        at = offset + size
    end = max(offset + size for offset, size in tracepoint.fields.values())
    # The data and its length are padded together to 8 bytes.
    padded = (end + 4 + 7) // 8 * 8 - 4
    return struct.Struct(text + f"{padded - at}x")


class PerfRing:
    """One CPU's records of tracepoints of one layout."""

    def __init__(
        self, cpu: int, pages: int, tracepoints: Sequence[Tracepoint], record: struct.Struct
    ) -> None:
        self.cpu = cpu
        self.lost = 0
        """Records that the kernel had no room for."""
        self._record = record
        self._fds: list[int] = []
        try:
            for tracepoint in tracepoints:
                self._fds.append(_open(tracepoint, cpu))
            self._size = pages * mmap.PAGESIZE
            self._map = mmap.mmap(self._fds[0], mmap.PAGESIZE + self._size)
            for fd in self._fds[1:]:
                fcntl.ioctl(fd, _Request.SET_OUTPUT, self._fds[0])
        except OSError as error:
            self.close()
            raise UsageError(_refusal(error)) from error
        except BaseException:
            self.close()
            raise

    def select(self, expression: str) -> None:
        """Have the kernel keep only the records that match a filter, such as ``pid==42``."""
        for fd in self._fds:
            text = ctypes.c_char_p(expression.encode())
            # fcntl.ioctl takes no address of 64 bits.
            if _libc().ioctl(fd, ctypes.c_ulong(_Request.SET_FILTER), text) < 0:
                raise UsageError(_refusal(OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))))

    def enable(self) -> None:
        """Begin to trace."""
        for fd in self._fds:
            fcntl.ioctl(fd, _Request.ENABLE, 0)

    def drain(self) -> list[tuple[Any, ...]]:
        """Return the records since the last call, oldest first, and make room for more."""
        (head,), (tail,) = _WORD.unpack_from(self._map, _HEAD), _WORD.unpack_from(self._map, _TAIL)
        if head == tail:
            return []
        first, last = tail % self._size, head % self._size
        if first < last:
            data = self._map[mmap.PAGESIZE + first : mmap.PAGESIZE + last]
        else:
            data = self._map[mmap.PAGESIZE + first :] + self._map[mmap.PAGESIZE : mmap.PAGESIZE + last]
        _WORD.pack_into(self._map, _TAIL, head)
        found, lost = samples(self._record, data)
        self.lost += lost
        return found

    def close(self) -> None:
        """End the tracing."""
        if hasattr(self, "_map"):
            self._map.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def samples(record: struct.Struct, data: bytes) -> tuple[list[tuple[Any, ...]], int]:
    """Return the records of a ring's data, and how many of others the kernel has lost."""
    size = record.size
    count = len(data) // size
    # Bytes 0 and 6 of a record are its type and size: all are samples unless some were lost.
    if (
        len(data) % size == 0
        and data[0::size].count(_RECORD_SAMPLE) == count
        and data[6::size].count(size & 0xFF) == count
    ):
        return list(record.iter_unpack(data)), 0
    found, lost, at = [], 0, 0
    while at + _HEADER.size <= len(data):
        kind, _, length = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            break
        if kind == _RECORD_SAMPLE and length >= size:  # a field of varying length is last
            found.append(record.unpack_from(data, at))
        elif kind == _RECORD_LOST and length >= _LOST.size:
            lost += _LOST.unpack_from(data, at)[4]
        at += length
    return found, lost


@contextlib.contextmanager
def perf_ring(
    cpu: int, pages: int, tracepoints: Sequence[Tracepoint], fields: Sequence[str]
) -> Iterator[PerfRing]:
    """Have a ring for a ``with`` block.

    :param pages: a power of two.
    :raises UsageError: the kernel refuses.
    """
    ring = PerfRing(cpu, pages, tracepoints, record_format(tracepoints[0], fields))
    try:
        yield ring
    finally:
        ring.close()


def _open(tracepoint: Tracepoint, cpu: int) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise UsageError(f"perf_event_open is not known on {platform.machine()}")
    attributes = _Attributes(
        type=_TYPE_TRACEPOINT,
        size=ctypes.sizeof(_Attributes),
        config=tracepoint.id,
        sample_period=1,
        sample_type=_Sample.TID | _Sample.TIME | _Sample.RAW,
        flags=_Flag.DISABLED | _Flag.USE_CLOCKID,
        clockid=CLOCK,
    )
    fd = _libc().syscall(number, ctypes.byref(attributes), -1, cpu, -1, _FLAG_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(fd)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _refusal(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            "tracing the scheduler needs root, or CAP_PERFMON (perf_event_open: "
            f"{host_reason(error)}); pvtime top needs neither"
        )
    return f"perf_event_open: {host_reason(error)}"
