# SPDX-License-Identifier: GPL-2.0-or-later
"""A 16550A serial port between the guest and one byte stream of the host.

Transmission takes no time: the transmitter is always empty. On the receive side the host's bytes wait in a
backlog while the guest does not assert RTS or its FIFO is full (hardware flow control): none is lost. The
peer's modem lines are always asserted.

Measured (CPython 3.11): 0.1 us to send a character or read the line status, 1.6 us to receive one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Annotated, Final

from pvtime.abi.ns16550 import Fcr, Ier, Iir, Lcr, Lsr, Mcr, Msr, Reg
from pvtime.errors import SavedStateError
from pvtime.machine.device import IrqLine, IrqWire
from pvtime.machine.layout import Region
from pvtime.records import dataclass
from pvtime.schema import U8, Rule, bits, length

__all__ = ["BACKLOG_SIZE", "FIFO_SIZE", "Ns16550", "UartState"]

FIFO_SIZE: Final = 256
"""Characters. The device tree announces it; a driver that ignores that assumes the 16 of a real chip."""

BACKLOG_SIZE: Final = 64 * 1024
"""Bytes taken from the host before the guest reads any."""

_TRIGGERS: Final = (1, 4, 8, 14)
"""Receive trigger level in characters, by bits 7:6 of FCR."""

IDLE: Final = Lsr.THRE | Lsr.TEMT
BYTES: Final = tuple(bytes([value]) for value in range(256))

_IER_WRITABLE: Final = 0x0F
_FCR_WRITABLE: Final = 0xC1
"""The trigger level and whether FIFOs are on; the other bits are commands."""
_MCR_WRITABLE: Final = 0x1F

_CONNECTED: Final = Msr.CTS | Msr.DSR | Msr.DCD

_LOOPED: Final = ((Mcr.RTS, Msr.CTS), (Mcr.DTR, Msr.DSR), (Mcr.OUT1, Msr.RI), (Mcr.OUT2, Msr.DCD))

# The hot path compares with plain ints: looking a member up in its enum costs as much as the comparison.
_DATA: Final = int(Reg.DATA)
_LSR: Final = int(Reg.LSR)
_OE: Final = int(Lsr.OE)


def _is_fcr(value: int) -> bool:
    return value == 0 or (value & ~_FCR_WRITABLE == 0 and bool(value & Fcr.ENABLE))


@dataclass(frozen=True)
class UartState:
    """The saved port: registers, and characters on their way to the guest. The interrupt wire follows."""

    ier: Annotated[int, bits(_IER_WRITABLE)]
    fcr: Annotated[int, Rule(_is_fcr, f"0, or FIFOs on ({int(Fcr.ENABLE)}) and a trigger level")]
    lcr: U8
    mcr: Annotated[int, bits(_MCR_WRITABLE)]
    scr: U8
    divisor: Annotated[bytes, length(2, 2)]
    overrun: bool
    """A character was lost since the guest's last read of LSR."""
    modem_changes: Annotated[int, bits(0x0F)]
    """Bits 3:0 of MSR."""
    transmitted: bool
    """The transmitter's interrupt is latched."""
    fifo: Annotated[bytes, length(0, FIFO_SIZE)]
    backlog: Annotated[bytes, length(0, BACKLOG_SIZE)]

    @property
    def depth(self) -> int:
        """Capacity of the receiver's FIFO in characters."""
        return FIFO_SIZE if self.fcr else 1

    def check(self) -> None:
        """Check the fields that depend on each other.

        :raises SavedStateError: no port can be in this state.
        """
        if len(self.fifo) > self.depth:
            raise SavedStateError(
                f"fifo of a serial port: {len(self.fifo)} characters, with room for {self.depth}"
            )


class Ns16550:
    """The port: registers at ``region``, interrupt wire ``irq``, ``transmit`` for the guest's output.

    Registers and :meth:`receive` are used from any thread. Neither ``irq`` nor ``transmit`` is called
    with a lock held.
    """

    def __init__(self, region: Region, irq: IrqLine, transmit: Callable[[bytes], object]) -> None:
        self.region = region
        self._wire = IrqWire(irq)
        self._transmit = transmit
        self._lock = Lock()
        self._rx = RxFifo()
        self._power_on()

    def _power_on(self) -> None:
        self._rx.fifo.clear()
        self._rx.depth = 1
        self._ier = self._lcr = self._mcr = self._fcr = self._scr = 0
        self._divisor = [1, 0]
        self._lsr, self._msr = IDLE, _CONNECTED
        self._thre = False
        """The transmitter's interrupt is latched."""
        self._plain = True
        """Writing to the data register sends."""

    def reset(self) -> None:
        """Return to the state after power-on, but keep the host's bytes that the guest has not received."""
        with self._lock:
            self._power_on()
            self._settle()
        self._wire.update()

    def state(self) -> UartState:
        """Return the state to save; everything else follows from it."""
        with self._lock:
            fifo, backlog = self._rx.contents()
            return UartState(
                ier=self._ier,
                fcr=self._fcr,
                lcr=self._lcr,
                mcr=self._mcr,
                scr=self._scr,
                divisor=bytes(self._divisor),
                overrun=bool(self._lsr & _OE),
                modem_changes=self._msr & 0x0F,
                transmitted=self._thre,
                fifo=fifo,
                backlog=backlog,
            )

    def restore(self, state: UartState) -> None:
        """Resume from ``state`` and set the interrupt wire accordingly.

        :raises SavedStateError: no port can be in this state.
        """
        state.check()
        with self._lock:
            self._ier, self._fcr, self._lcr = state.ier, state.fcr, state.lcr
            self._mcr, self._scr = state.mcr, state.scr
            self._divisor = list(state.divisor)
            self._lsr = IDLE | (_OE if state.overrun else 0)
            self._msr = _modem_inputs(state.mcr) | state.modem_changes
            self._thre = state.transmitted
            self._rx.depth = state.depth
            self._rx.replace(state.fifo, state.backlog)
            self._settle()
        self._wire.update()

    @property
    def interrupts(self) -> bool:
        """Whether the guest has enabled an interrupt."""
        return self._ier != 0

    @property
    def room(self) -> int:
        """Bytes that :meth:`receive` would take now."""
        return self._rx.room

    def receive(self, data: bytes) -> int:
        """Take bytes for the guest and return their number; offer the rest again later."""
        with self._lock:
            taken = self._rx.offer(data)
            self._settle()
        self._wire.update()
        return taken

    def read(self, offset: int, size: int) -> int:
        """Return a register."""
        if offset == _LSR and not self._lsr & _OE:
            return self._lsr
        with self._lock:
            value = self._read(offset)
            self._settle()
        self._wire.update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Set a register to the low byte of ``value``."""
        value &= 0xFF
        if offset == _DATA and self._plain and self._thre:
            # The transmitter's interrupt is latched already: nothing changes.
            self._transmit(BYTES[value])
            return
        with self._lock:
            sent = self._write(offset, value)
            self._settle()
        if sent:
            self._transmit(BYTES[value])
        self._wire.update()

    def at_rest(self) -> bytes | None:
        """Return all registers' values if no read, no byte of the host and no transmission changes them.

        That holds while interrupts are off, RTS is not asserted, and no bit waits to be cleared by a read.
        """
        with self._lock:
            moving = self._ier or self._lcr & Lcr.DLAB or self._mcr & (Mcr.RTS | Mcr.LOOP)
            if moving or self._rx.fifo or self._msr & 0x0F or self._lsr & _OE:
                return None
            return bytes(self._read(offset) for offset in Reg)

    def _read(self, offset: int) -> int:
        if offset <= Reg.IER and self._lcr & Lcr.DLAB:
            return self._divisor[offset]
        match offset:
            case Reg.DATA:
                return self._rx.pop()
            case Reg.IER:
                return self._ier
            case Reg.IIR_FCR:
                return self._identify()
            case Reg.LCR:
                return self._lcr
            case Reg.MCR:
                return self._mcr
            case Reg.LSR:
                value, self._lsr = self._lsr, self._lsr & ~_OE
                return value
            case Reg.MSR:
                value, self._msr = self._msr, self._msr & 0xF0
                return value
            case Reg.SCR:
                return self._scr
        return 0

    def _write(self, offset: int, value: int) -> bool:
        """Set a register; return whether it sent a character."""
        if offset <= Reg.IER and self._lcr & Lcr.DLAB:
            self._divisor[offset] = value
            return False
        match offset:
            case Reg.DATA:
                self._thre = True
                if not self._mcr & Mcr.LOOP:
                    return True
                if not self._rx.push(value):
                    self._lsr |= _OE
            case Reg.IER:
                # Enabling the interrupt while the transmitter is empty raises it again (Linux tests it).
                if value & ~self._ier & Ier.THRI:
                    self._thre = True
                self._ier = value & _IER_WRITABLE
            case Reg.IIR_FCR:
                if value & Fcr.CLEAR_RECEIVE or (value ^ self._fcr) & Fcr.ENABLE:
                    self._rx.fifo.clear()
                self._fcr = value & _FCR_WRITABLE if value & Fcr.ENABLE else 0
                self._rx.depth = FIFO_SIZE if self._fcr else 1
            case Reg.LCR:
                self._lcr = value
            case Reg.MCR:
                self._mcr = value & _MCR_WRITABLE
                self._msr = _modem_status(self._mcr, self._msr)
            case Reg.SCR:
                self._scr = value
        return False

    def _reason(self) -> int:
        """Return the pending interrupt with the highest priority, or Iir.NONE."""
        if self._ier & Ier.RLSI and self._lsr & _OE:
            return Iir.RLSI
        if self._ier & Ier.RDI and (waiting := len(self._rx.fifo)):
            return Iir.RDI if waiting >= _TRIGGERS[self._fcr >> 6] else Iir.TIMEOUT
        if self._ier & Ier.THRI and self._thre:
            return Iir.THRI
        if self._ier & Ier.MSI and self._msr & 0x0F:
            return Iir.MSI
        return Iir.NONE

    def _identify(self) -> int:
        reason = self._reason()
        if reason == Iir.THRI:
            self._thre = False
        return int(reason) | (Iir.FIFOS if self._fcr else 0)

    def _settle(self) -> None:
        """Refill the FIFO and derive LSR and the wire from the registers. Called with the lock held."""
        if self._mcr & (Mcr.RTS | Mcr.LOOP) == Mcr.RTS:
            self._rx.refill()
        self._lsr = self._lsr & ~Lsr.DR | (Lsr.DR if self._rx.fifo else 0)
        self._plain = not (self._lcr & Lcr.DLAB or self._mcr & Mcr.LOOP)
        self._wire.level = self._reason() != Iir.NONE


class RxFifo:
    """The receive side: the FIFO that the guest reads, and the backlog of the host's bytes behind it."""

    def __init__(self) -> None:
        self.fifo: deque[int] = deque()
        self.depth = 1
        """Capacity of the FIFO in characters: one while FIFOs are off."""
        self._backlog: deque[int] = deque()

    @property
    def room(self) -> int:
        """Bytes that :meth:`offer` would take now."""
        return max(0, BACKLOG_SIZE - len(self._backlog))

    def offer(self, data: bytes) -> int:
        """Take bytes from the host and return their number."""
        taken = data[: self.room]
        self._backlog.extend(taken)
        return len(taken)

    def refill(self) -> None:
        """Move bytes from the backlog into the FIFO as far as it has room."""
        while self._backlog and len(self.fifo) < self.depth:
            self.fifo.append(self._backlog.popleft())

    def push(self, value: int) -> bool:
        """Put a character into the FIFO; return whether there was room."""
        if len(self.fifo) >= self.depth:
            return False
        self.fifo.append(value)
        return True

    def pop(self) -> int:
        """Take the oldest character; 0 where there is none."""
        return self.fifo.popleft() if self.fifo else 0

    def contents(self) -> tuple[bytes, bytes]:
        """Return the FIFO's and the backlog's bytes."""
        return bytes(self.fifo), bytes(self._backlog)

    def replace(self, fifo: bytes, backlog: bytes) -> None:
        """Set the FIFO's and the backlog's bytes."""
        self.fifo = deque(fifo)
        self._backlog = deque(backlog)


def _modem_inputs(mcr: int) -> int:
    """Return MSR's inputs under ``mcr``: the peer's, or in loopback the port's own outputs."""
    if mcr & Mcr.LOOP:
        return sum(int(status) for output, status in _LOOPED if mcr & output)
    return int(_CONNECTED)


def _modem_status(mcr: int, before: int) -> int:
    """Return MSR after MCR was set to ``mcr``."""
    inputs = _modem_inputs(mcr)
    # TERI is the trailing edge of the ring indicator: its leading edge is no change.
    changed = (before ^ inputs) & 0xF0 & ~(inputs & Msr.RI)
    return inputs | before & 0x0F | changed >> 4
