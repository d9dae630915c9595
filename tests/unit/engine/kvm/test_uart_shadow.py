# SPDX-License-Identifier: GPL-2.0-or-later
"""A console whose registers are memory reads as one whose registers exit."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.abi.kvm_types import MemoryFlag
from pvtime.abi.ns16550 import Fcr, Ier, Lcr, Lsr, Mcr, Reg
from pvtime.engine.kvm.uart_shadow import UartShadow
from pvtime.engine.kvm.vm_fd import WRITABLE, VmFd
from pvtime.machine.layout import CONSOLE, Region
from pvtime.machine.uart import Ns16550

READ, WRITE, RECEIVE = range(3)

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from([READ, READ, READ, WRITE, WRITE, RECEIVE]),
        st.sampled_from([*Reg, Reg.LSR, Reg.DATA]),
        st.sampled_from([0, 0, 1, Mcr.RTS, Mcr.LOOP, Lcr.DLAB, Fcr.ENABLE, 0x55]),
    ),
    max_size=60,
)


class OneSlot(VmFd):
    """A VM's memory slots, and the guest's view of one."""

    def __init__(self) -> None:
        self.address: int | None = None
        self.shown = 0

    def set_memory(self, region: Region, address: int, flags: MemoryFlag = WRITABLE) -> int:
        assert self.address is None
        assert flags is MemoryFlag.READONLY
        assert region.base == CONSOLE.base
        self.address = address
        self.shown += 1
        return 3

    def delete_memory(self, slot: int) -> None:
        assert slot == 3
        assert self.address is not None
        self.address = None


class Guest:
    """Accesses a port as a guest does: reads what is memory without an exit, and counts the exits."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.slots = OneSlot()
        self.port = Ns16550(CONSOLE, lambda _: None, self.sent.extend)
        self.shadow = UartShadow(self.slots, self.port)
        self.exits = 0

    def read(self, register: int) -> int:
        if self.slots.address is not None:
            return ctypes.c_uint8.from_address(self.slots.address + register).value
        self.exits += 1
        return self.shadow.read(register, 1)

    def write(self, register: int, value: int) -> None:
        self.exits += 1
        self.shadow.write(register, 1, value)


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.shadow.close()


@given(ACTIONS)
def test_every_register_reads_as_without_a_shadow(actions: list[tuple[int, int, int]]) -> None:
    guest, plain = Guest(), bytearray()
    port = Ns16550(CONSOLE, lambda _: None, plain.extend)
    for kind, register, value in actions:
        if kind == READ:
            assert guest.read(register) == port.read(register, 1)
        elif kind == WRITE:
            guest.write(register, value)
            port.write(register, 1, value)
        else:
            assert guest.port.receive(b"ab") == port.receive(b"ab")
    assert guest.sent == plain
    guest.shadow.close()


def test_a_console_that_polls_leaves_the_guest_once(guest: Guest) -> None:
    for character in b"Booting Linux on physical CPU 0x0000000000\n":
        assert guest.read(Reg.LSR) & Lsr.THRE
        guest.shadow.write(Reg.DATA, 1, character)  # collected: no exit
    assert guest.exits == 1
    assert guest.sent.startswith(b"Booting")


def test_interrupts_that_are_switched_off_again_leave_the_window_as_it_is(guest: Guest) -> None:
    for _ in range(3):
        guest.write(Reg.IER, 0)
        guest.read(Reg.LSR)
    assert guest.slots.shown == 1


def test_an_opened_port_has_no_window_any_more(guest: Guest) -> None:
    guest.read(Reg.LSR)
    guest.write(Reg.IER, Ier.RDI)
    assert guest.slots.address is None
    guest.write(Reg.IER, 0)
    guest.read(Reg.LSR)
    assert guest.slots.shown == 1
