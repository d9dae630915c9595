# SPDX-License-Identifier: GPL-2.0-or-later
"""The serial port does what the data sheet says and Linux's 8250 driver tests for, and loses nothing."""

from __future__ import annotations

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from pvtime.abi.ns16550 import Fcr, Ier, Iir, Lcr, Lsr, Mcr, Msr, Reg
from pvtime.machine.layout import CONSOLE
from pvtime.machine.uart import BACKLOG_SIZE, FIFO_SIZE, Ns16550


class Port:
    """A port, and what came out of it."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.wire: list[bool] = []
        self.uart = Ns16550(CONSOLE, self.wire.append, self.sent.extend)

    @property
    def interrupt(self) -> bool:
        return bool(self.wire) and self.wire[-1]

    def read(self, register: int) -> int:
        return self.uart.read(register, 1)

    def write(self, register: int, value: int) -> None:
        self.uart.write(register, 1, value)

    def open(self) -> None:
        """Do what a driver does before it receives."""
        self.write(Reg.IIR_FCR, Fcr.ENABLE)
        self.write(Reg.IER, Ier.RDI)
        self.write(Reg.MCR, Mcr.DTR | Mcr.RTS)

    def drain(self) -> bytes:
        """Read while characters wait."""
        data = bytearray()
        while self.read(Reg.LSR) & Lsr.DR:
            data.append(self.read(Reg.DATA))
        return bytes(data)


def test_what_the_guest_sends_comes_out_in_order() -> None:
    port = Port()
    for value in range(256):
        assert port.read(Reg.LSR) == Lsr.THRE | Lsr.TEMT
        port.write(Reg.DATA, value)
    assert port.sent == bytes(range(256))


def test_linux_finds_a_16550a() -> None:
    """As autoconfig() in drivers/tty/serial/8250/8250_port.c does it."""
    port = Port()
    port.write(Reg.IER, 0xFF)
    assert port.read(Reg.IER) == 0x0F
    port.write(Reg.IER, 0)
    port.write(Reg.MCR, Mcr.LOOP | Mcr.OUT2 | Mcr.RTS)
    assert port.read(Reg.MSR) & 0xF0 == Msr.DCD | Msr.CTS
    port.write(Reg.MCR, 0)
    port.write(Reg.IIR_FCR, Fcr.ENABLE)
    assert port.read(Reg.IIR_FCR) & Iir.FIFOS == Iir.FIFOS
    port.write(Reg.SCR, 0xA5)
    assert port.read(Reg.SCR) == 0xA5


def test_linux_finds_a_transmit_interrupt_that_comes_back() -> None:
    """As serial8250_do_startup() tests for UART_BUG_THRE and UART_BUG_TXEN."""
    port = Port()
    for _ in range(2):
        port.write(Reg.IER, Ier.THRI)
        assert port.read(Reg.IIR_FCR) == Iir.THRI
        port.write(Reg.IER, 0)
        assert not port.interrupt


def test_the_transmit_interrupt_is_an_edge_that_identification_takes() -> None:
    port = Port()
    port.write(Reg.IER, Ier.THRI)
    assert port.interrupt
    assert port.read(Reg.IIR_FCR) == Iir.THRI
    assert port.read(Reg.IIR_FCR) == Iir.NONE
    assert not port.interrupt
    port.write(Reg.DATA, 0x41)
    assert port.interrupt
    assert port.sent == b"A"


def test_received_bytes_interrupt_until_read() -> None:
    port = Port()
    port.open()
    assert port.uart.receive(b"ls\n") == 3
    assert port.interrupt
    assert port.read(Reg.IIR_FCR) == Iir.RDI | Iir.FIFOS
    assert port.drain() == b"ls\n"
    assert not port.interrupt
    assert port.read(Reg.DATA) == 0


def test_fewer_characters_than_the_trigger_are_a_timeout() -> None:
    port = Port()
    port.open()
    port.write(Reg.IIR_FCR, Fcr.ENABLE | 0x80)
    port.uart.receive(b"1234567")
    assert port.read(Reg.IIR_FCR) == Iir.TIMEOUT | Iir.FIFOS
    port.uart.receive(b"8")
    assert port.read(Reg.IIR_FCR) == Iir.RDI | Iir.FIFOS


def test_what_is_typed_before_the_driver_is_up_is_kept_for_it() -> None:
    port = Port()
    port.uart.receive(b"early")
    assert port.drain() == b""
    port.write(Reg.IIR_FCR, Fcr.ENABLE | Fcr.CLEAR_RECEIVE | Fcr.CLEAR_TRANSMIT)
    port.read(Reg.DATA)
    port.open()
    assert port.drain() == b"early"


def test_without_rts_the_guest_keeps_what_is_in_its_fifo_and_gets_no_more() -> None:
    port = Port()
    port.open()
    port.uart.receive(b"x" * FIFO_SIZE + b"y")
    port.write(Reg.MCR, 0)
    assert port.drain() == b"x" * FIFO_SIZE
    port.write(Reg.MCR, Mcr.RTS)
    assert port.drain() == b"y"


def test_a_large_paste_loses_nothing() -> None:
    port = Port()
    port.open()
    paste = bytes(value & 0xFF for value in range(100_000))
    got, offered = bytearray(), 0
    while offered < len(paste):
        taken = port.uart.receive(paste[offered:])
        assert taken <= BACKLOG_SIZE
        offered += taken
        got += port.drain()
    assert got == paste
    assert port.uart.room == BACKLOG_SIZE


def test_without_fifos_one_character_waits() -> None:
    port = Port()
    port.write(Reg.MCR, Mcr.RTS)
    port.uart.receive(b"ab")
    assert port.uart.room == BACKLOG_SIZE - 1
    assert port.drain() == b"ab"


def test_loopback_keeps_characters_in_the_chip_and_drops_what_overruns() -> None:
    port = Port()
    port.write(Reg.MCR, Mcr.LOOP)
    port.write(Reg.IER, Ier.RLSI)
    port.write(Reg.DATA, 1)
    assert not port.interrupt
    port.write(Reg.DATA, 2)
    assert port.sent == b""
    assert port.interrupt
    assert port.read(Reg.IIR_FCR) == Iir.RLSI
    assert port.read(Reg.LSR) & Lsr.OE
    assert not port.read(Reg.LSR) & Lsr.OE
    assert port.drain() == b"\x01"


def test_a_change_of_modem_status_interrupts_until_read() -> None:
    port = Port()
    port.write(Reg.IER, Ier.MSI)
    port.write(Reg.MCR, Mcr.LOOP)
    assert port.interrupt
    assert port.read(Reg.IIR_FCR) == Iir.MSI
    assert port.read(Reg.MSR) == Msr.DCTS | Msr.DDSR | Msr.DDCD
    assert not port.interrupt


def test_the_divisor_hides_data_and_interrupt_enable() -> None:
    port = Port()
    port.write(Reg.IER, Ier.MSI)
    port.write(Reg.LCR, Lcr.DLAB | 3)
    port.write(Reg.DATA, 0x34)
    port.write(Reg.IER, 0x12)
    assert (port.read(Reg.DATA), port.read(Reg.IER)) == (0x34, 0x12)
    port.write(Reg.LCR, 3)
    assert port.sent == b""
    assert port.read(Reg.IER) == Ier.MSI


def test_a_reset_keeps_what_the_host_sent_for_the_next_guest() -> None:
    port = Port()
    port.open()
    port.uart.receive(b"x" * FIFO_SIZE + b"next")
    port.write(Reg.LCR, Lcr.DLAB)
    port.uart.reset()
    assert not port.interrupt
    assert [port.read(register) for register in (Reg.IER, Reg.LCR, Reg.MCR)] == [0, 0, 0]
    port.open()
    assert port.drain() == b"next"


def test_nothing_is_beyond_the_last_register() -> None:
    port = Port()
    port.uart.write(8, 4, 0xFFFF_FFFF)
    assert port.uart.read(8, 8) == 0
    assert port.uart.read(CONSOLE.size - 1, 1) == 0


ACCESSES = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 12), st.sampled_from([1, 2, 4, 8]), st.just(0)),
        st.tuples(
            st.just("write"), st.integers(0, 12), st.sampled_from([1, 2, 4, 8]), st.integers(0, (1 << 64) - 1)
        ),
        st.tuples(st.just("write"), st.integers(0, 7), st.just(1), st.integers(0, 31)),
        st.tuples(st.just("receive"), st.just(0), st.just(0), st.integers(0, 400)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(accesses=ACCESSES)
def test_any_accesses_leave_a_port_that_works(accesses: list[tuple[str, int, int, int]]) -> None:
    port = Port()
    for kind, offset, size, value in accesses:
        if kind == "read":
            assert 0 <= port.uart.read(offset, size) <= 0xFF
        elif kind == "write":
            port.uart.write(offset, size, value)
        else:
            port.uart.receive(b"z" * value)
    assert len(port.wire) < 2 or all(
        one is not other for one, other in zip(port.wire, port.wire[1:], strict=False)
    )
    port.write(Reg.LCR, 3)
    port.open()
    port.drain()
    port.sent.clear()
    port.uart.receive(b"in")
    for value in b"out":
        port.write(Reg.DATA, value)
    assert (port.drain(), bytes(port.sent)) == (b"in", b"out")
    assert not port.interrupt


def test_receiving_beside_the_guest_keeps_order_and_the_last_level() -> None:
    port = Port()
    port.open()
    paste = bytes(range(256)) * 400

    def feed() -> None:
        offered = 0
        while offered < len(paste):
            offered += port.uart.receive(paste[offered : offered + 1000])

    feeder = threading.Thread(target=feed)
    feeder.start()
    got = bytearray()
    while len(got) < len(paste) and (feeder.is_alive() or port.read(Reg.LSR) & Lsr.DR):
        got += port.drain()
    feeder.join()
    got += port.drain()
    assert got == paste
    assert not port.interrupt
