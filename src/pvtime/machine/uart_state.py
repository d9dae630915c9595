# SPDX-License-Identifier: GPL-2.0-or-later
"""What is saved of a serial port."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.abi.ns16550 import Fcr
from pvtime.errors import SavedStateError
from pvtime.machine.receiver import BACKLOG_SIZE, FIFO_SIZE

__all__ = ["FCR_KEPT", "IER_KEPT", "MCR_KEPT", "UartState"]

IER_KEPT = 0x0F
FCR_KEPT = 0xC1
"""The trigger level and whether FIFOs are on; the other bits are commands."""
MCR_KEPT = 0x1F


@dataclass(frozen=True)
class UartState:
    """Registers, and characters on their way to the guest. The interrupt wire is not in it: it follows."""

    ier: int
    fcr: int
    lcr: int
    mcr: int
    scr: int
    divisor: bytes
    overrun: bool
    """A character was lost, and the guest has not read LSR since."""
    modem_changes: int
    """Bits 3:0 of MSR."""
    transmitted: bool
    """The transmitter's interrupt is latched."""
    fifo: bytes
    backlog: bytes

    @property
    def depth(self) -> int:
        """Characters that the receiver's FIFO holds."""
        return FIFO_SIZE if self.fcr else 1

    def check(self) -> None:
        """Check that a port can be in this state.

        :raises SavedStateError: it cannot.
        """
        possible = {
            "IER": 0 <= self.ier <= IER_KEPT,
            "FCR": self.fcr == 0 or (self.fcr & Fcr.ENABLE and self.fcr == self.fcr & FCR_KEPT),
            "LCR": 0 <= self.lcr <= 0xFF,
            "MCR": 0 <= self.mcr <= MCR_KEPT,
            "SCR": 0 <= self.scr <= 0xFF,
            "MSR": 0 <= self.modem_changes <= 0x0F,
            "divisor latch": len(self.divisor) == 2,
            "FIFO": len(self.fifo) <= self.depth,
            "backlog": len(self.backlog) <= BACKLOG_SIZE,
        }
        for name, is_possible in possible.items():
            if not is_possible:
                raise SavedStateError(f"the saved serial port has an impossible {name}")
