# SPDX-License-Identifier: GPL-2.0-or-later
"""End a run at the start of a block, from any thread, by the library's public interface.

``uc_emu_stop`` is safe where a hook on a block calls it, but a hook in Python costs 1 us for each block, and
one that is added only when it is needed races with the library, which frees deleted hooks at the end of a run
(seen as boots that now and then never ended). So the hook is five instructions that look at a flag: return,
or go to ``uc_emu_stop``.
"""

from __future__ import annotations

import ctypes
from typing import Final

import unicorn

from pvtime.engine.unicorn.native_hook import TARGETS, NativeHook
from pvtime.engine.unicorn.uclib import LIBRARY

__all__ = ["StopHook"]

_CODE: Final = {
    # The hook's arguments are (uc, address, size, flag): rdi, rsi, edx, rcx.
    "x86_64": b"".join(
        (
            b"\x80\x39\x00",  # cmpb $0, (%rcx)
            b"\x75\x01",  # jne 1f
            b"\xc3",  # ret
            b"\x48\xb8" + TARGETS[0],  # 1: movabs $uc_emu_stop, %rax
            b"\xff\xe0",  # jmp *%rax
        )
    ),
    # x0, x1, w2, x3.
    "aarch64": b"".join(
        (
            b"\x69\x00\x40\x39",  # ldrb w9, [x3]
            b"\x49\x00\x00\x35",  # cbnz w9, 1f
            b"\xc0\x03\x5f\xd6",  # ret
            b"\x70\x00\x00\x58",  # 1: ldr x16, 2f
            b"\x00\x02\x1f\xd6",  # br x16
            b"\x1f\x20\x03\xd5",  # nop
            TARGETS[0],  # 2: .quad uc_emu_stop
        )
    ),
}


class StopHook:
    """A hook on every block of a CPU, and its flag.

    :raises EngineError: see :class:`NativeHook`.
    """

    def __init__(self, handle: ctypes.c_void_p) -> None:
        self._flag = ctypes.c_uint8()
        self._hook = NativeHook(handle, unicorn.UC_HOOK_BLOCK, _CODE, self._flag, [LIBRARY.uc_emu_stop])
        self.renew = self._hook.renew

    def stop(self) -> None:
        """End the current run, or else the next one as it starts; from any thread."""
        self._flag.value = 1

    @property
    def pending(self) -> bool:
        """Whether a stop was requested and not yet cleared."""
        return bool(self._flag.value)

    def clear(self) -> None:
        """Withdraw a stop, so that the next run is not ended by it."""
        self._flag.value = 0
