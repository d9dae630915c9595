# SPDX-License-Identifier: GPL-2.0-or-later
"""Library hooks whose callback is a few instructions of the host's machine code, for what happens too often
for a callback in Python.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pvtime.engine.unicorn.uclib import LIBRARY, add_hook
from pvtime.errors import EngineError

__all__ = ["TARGETS", "NativeHook"]

TARGETS: Final = (b"\x88\x77\x66\x55\x44\x33\x22\x11", b"\x99\x77\x66\x55\x44\x33\x22\x11")
"""Placeholders in the code for the addresses of the functions that it calls."""


class NativeHook:
    """A hook everywhere, and its code.

    :param kind: UC_HOOK_*.
    :param code: by platform.machine().
    :param data: the hook's user data, which the code gets as its last argument; the caller keeps it.
    :param functions: C functions or callbacks that :data:`TARGETS` stand for; the caller keeps them.
    :param instruction: with UC_HOOK_INSN, which one.
    :raises EngineError: no code for this host, or the host lets no process make code.
    """

    def __init__(
        self,
        handle: ctypes.c_void_p,
        kind: int,
        code: Mapping[str, bytes],
        data: Any,
        functions: Sequence[Any] = (),
        instruction: int | None = None,
    ) -> None:
        machine = platform.machine()
        if machine not in code:
            raise EngineError(f"the unicorn engine needs an x86_64 or aarch64 host, not {machine}")
        try:
            protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=protection)
        except OSError as error:
            raise EngineError(
                f"the unicorn engine needs executable memory, which this host refuses: {error}"
            ) from error
        words = code[machine]
        for target, function in zip(TARGETS, functions, strict=False):
            address = ctypes.cast(function, ctypes.c_void_p).value or 0
            words = words.replace(target, address.to_bytes(8, "little"))
        self._page.write(words)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        if machine == "aarch64":
            libgcc = ctypes.CDLL("libgcc_s.so.1")
            getattr(libgcc, "__clear_cache")(ctypes.c_void_p(start), ctypes.c_void_p(start + len(words)))
        self._handle = handle
        self._arguments = kind, start, ctypes.addressof(data), instruction
        self._hook = add_hook(handle, *self._arguments)

    def renew(self) -> None:
        """Delete the hook and add it again, between two runs: the library forgets where it was called.

        Drop all translated code before: it calls the hook that is deleted.
        """
        LIBRARY.uc_hook_del(self._handle, self._hook)
        self._hook = add_hook(self._handle, *self._arguments)
