# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast this host's counter runs, which no file and no KVM register tells."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import Final

__all__ = ["counter_frequency"]

_CODE: Final = struct.pack("<2I", 0xD53B_E000, 0xD65F_03C0)
"""``mrs x0, cntfrq_el0; ret``, which a process may execute."""


def counter_frequency() -> int:
    """Return CNTFRQ_EL0, in Hz: a guest has read it at its start, and believes in it for ever."""
    file = os.memfd_create("pvtime-cntfrq", os.MFD_CLOEXEC)
    try:
        os.write(file, _CODE)
        # Private, so that it can be writable, which ctypes asks for to tell its address; nobody writes.
        prot = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        with mmap.mmap(file, len(_CODE), flags=mmap.MAP_PRIVATE, prot=prot) as mapping:
            first = ctypes.c_char.from_buffer(mapping)
            frequency = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(first))()
            del first
        return int(frequency)
    finally:
        os.close(file)
