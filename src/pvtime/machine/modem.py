# SPDX-License-Identifier: GPL-2.0-or-later
"""The modem lines of a serial port whose peer is always there."""

from __future__ import annotations

from typing import Final

from pvtime.abi.ns16550 import Mcr, Msr

__all__ = ["CONNECTED", "modem_inputs", "modem_status"]

CONNECTED: Final = Msr.CTS | Msr.DSR | Msr.DCD

_LOOPED: Final = ((Mcr.RTS, Msr.CTS), (Mcr.DTR, Msr.DSR), (Mcr.OUT1, Msr.RI), (Mcr.OUT2, Msr.DCD))


def modem_inputs(mcr: int) -> int:
    """Return the inputs in MSR under ``mcr``: the peer's, or in loopback our own outputs."""
    if mcr & Mcr.LOOP:
        return sum(int(there) for here, there in _LOOPED if mcr & here)
    return int(CONNECTED)


def modem_status(mcr: int, before: int) -> int:
    """Return MSR after MCR was set to ``mcr``."""
    inputs = modem_inputs(mcr)
    # Of a ring, only the end counts as a change.
    changed = (before ^ inputs) & 0xF0 & ~(inputs & Msr.RI)
    return inputs | before & 0x0F | changed >> 4
