# SPDX-License-Identifier: GPL-2.0-or-later
"""The signal that brings a vCPU's thread out of the guest."""

from __future__ import annotations

import ctypes
import signal
from typing import Final

__all__ = ["KICK", "block_other_signals", "install_kick"]

KICK: Final = signal.SIGRTMIN + 4


def install_kick() -> None:
    """Give :data:`KICK` a handler that does nothing, so that it interrupts KVM_RUN and nothing else.

    Python's own handlers can be set by the main thread only, and would wake it at each kick. So this one is
    the C library's getpid(2), which is allowed in a handler and has no effect. signal(3) sets SA_RESTART,
    which KVM_RUN does not heed and other system calls do.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(KICK, ctypes.cast(libc.getpid, ctypes.c_void_p))


def block_other_signals() -> None:
    """Keep every other signal from the calling thread: they are the main thread's."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - {KICK})
