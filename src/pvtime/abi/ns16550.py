# SPDX-License-Identifier: GPL-2.0-or-later
"""The 16550A serial port: National Semiconductor's PC16550D data sheet.

The names are those of the kernel's include/uapi/linux/serial_reg.h.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Fcr", "Ier", "Iir", "Lcr", "Lsr", "Mcr", "Msr", "Reg"]


class Reg(IntEnum):
    """Register numbers. Several registers share one: by direction, or by the divisor latch bit."""

    DATA = 0
    """Receive buffer (read), transmit holding (write); with DLAB the divisor's low byte."""
    IER = 1
    """With DLAB the divisor's high byte."""
    IIR_FCR = 2
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7


class Ier(IntEnum):
    """Interrupt enable."""

    RDI = 0x01
    """Received data."""
    THRI = 0x02
    """Transmitter empty."""
    RLSI = 0x04
    """Line status."""
    MSI = 0x08
    """Modem status."""


class Iir(IntEnum):
    """Interrupt identification: the reasons, and the two bits that say that FIFOs are on."""

    MSI = 0x00
    NONE = 0x01
    THRI = 0x02
    RDI = 0x04
    RLSI = 0x06
    TIMEOUT = 0x0C
    """Characters fewer than the trigger level wait."""
    FIFOS = 0xC0


class Fcr(IntEnum):
    """FIFO control; bits 7:6 are the receive trigger level."""

    ENABLE = 0x01
    CLEAR_RECEIVE = 0x02
    CLEAR_TRANSMIT = 0x04


class Lcr(IntEnum):
    """Line control; word length, parity and break change nothing here."""

    DLAB = 0x80
    """Divisor latch access."""


class Mcr(IntEnum):
    """Modem control."""

    DTR = 0x01
    RTS = 0x02
    OUT1 = 0x04
    OUT2 = 0x08
    LOOP = 0x10
    """Output is input, nothing leaves the chip."""


class Lsr(IntEnum):
    """Line status."""

    DR = 0x01
    """A received character waits."""
    OE = 0x02
    """A character was lost, the FIFO being full."""
    THRE = 0x20
    TEMT = 0x40


class Msr(IntEnum):
    """Modem status: four inputs, and in bits 3:0 which of them changed since the last read."""

    DCTS = 0x01
    DDSR = 0x02
    TERI = 0x04
    DDCD = 0x08
    CTS = 0x10
    DSR = 0x20
    RI = 0x40
    DCD = 0x80
