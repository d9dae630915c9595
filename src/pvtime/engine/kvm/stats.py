# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's binary statistics of a vCPU (the kernel's Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Final

from pvtime.abi.kvm_types import StatsDescriptor, StatsHeader
from pvtime.engine.kvm.ioctl import close

__all__ = ["StatsFd"]

HEAD: Final = ctypes.sizeof(StatsDescriptor)


class StatsFd:
    """The descriptor of a vCPU's statistics, owned by this."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def counter(self, name: str) -> Callable[[], int] | None:
        """Return a function that reads a counter; None: this KVM does not count that."""
        header = StatsHeader.from_buffer_copy(self._read(ctypes.sizeof(StatsHeader), 0))
        step = HEAD + header.name_size
        for index in range(header.num_desc):
            text = self._read(step, header.desc_offset + index * step)
            if text[HEAD:].split(b"\0")[0] == name.encode():
                at = header.data_offset + StatsDescriptor.from_buffer_copy(text).offset
                return lambda: int.from_bytes(self._read(8, at), "little")
        return None

    def close(self) -> None:
        """Close the descriptor."""
        close(self._fd)
        self._fd = -1

    def _read(self, size: int, offset: int) -> bytes:
        return os.pread(self._fd, size, offset)
