# SPDX-License-Identifier: GPL-2.0-or-later
"""A device that was saved and restored is the device that was saved: whatever is done to both, they agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.abi.gicv2 import Gicc, Gicd
from pvtime.abi.ns16550 import Fcr, Ier, Mcr, Reg
from pvtime.errors import SavedStateError
from pvtime.machine.gicv2 import GicV2, GicV2State
from pvtime.machine.layout import CONSOLE
from pvtime.machine.timer import NS_PER_TICK, TimerControl, TimerState, VcpuTimer
from pvtime.machine.uart import BACKLOG_SIZE, Ns16550, UartState
from pvtime.snapshot.codec import decode, encode, from_json, to_json

T = TypeVar("T")

CPUS = 3
SPIS = 64


def through_json(state: T) -> T:
    """Write a state down and read it again."""
    return decode(type(state), from_json(to_json(encode(state)), "state"), "state")


# The serial port.

byte = st.integers(0, 255)
register = st.sampled_from(Reg)
uart_access = st.one_of(
    st.tuples(st.just("read"), register, st.none()),
    st.tuples(st.just("write"), register, byte),
    # What drivers write, or the FIFO would rarely be on and RTS rarely asserted.
    st.tuples(st.just("write"), st.just(Reg.IIR_FCR), st.sampled_from([Fcr.ENABLE, Fcr.ENABLE | 0xC0])),
    st.tuples(st.just("write"), st.just(Reg.MCR), st.sampled_from([Mcr.RTS, Mcr.RTS | Mcr.LOOP])),
    st.tuples(st.just("write"), st.just(Reg.IER), st.sampled_from([Ier.RDI, Ier.THRI, Ier.MSI])),
    st.tuples(st.just("receive"), st.none(), st.binary(min_size=1, max_size=300)),
)


class Port:
    """A serial port, its wire, and what the guest sent."""

    def __init__(self) -> None:
        self.level = False
        self.sent = bytearray()
        self.uart = Ns16550(CONSOLE, self._set, self.sent.extend)

    def _set(self, level: bool) -> None:
        assert level != self.level, "told what is known"
        self.level = level

    def access(self, access: tuple[str, Any, Any]) -> object:
        """Do something; return all that can be seen of it."""
        what, at, value = access
        seen: int | None = None
        match what:
            case "read":
                seen = self.uart.read(at, 1)
            case "write":
                self.uart.write(at, 1, value)
            case _:
                seen = self.uart.receive(value)
        return seen, self.level, len(self.sent), self.uart.at_rest()


@given(before=st.lists(uart_access, max_size=30), after=st.lists(uart_access, max_size=30))
def test_a_restored_serial_port_goes_on_as_the_saved_one(before: list[Any], after: list[Any]) -> None:
    port, other = Port(), Port()
    for access in before:
        port.access(access)
    other.uart.restore(through_json(port.uart.state()))
    other.sent[:] = port.sent
    assert other.level == port.level
    for access in [*after, *(("read", at, None) for at in Reg)]:
        assert port.access(access) == other.access(access)


def test_nothing_of_a_full_backlog_is_lost() -> None:
    port, other = Port(), Port()
    data = bytes(range(256)) * (BACKLOG_SIZE // 256)
    port.uart.write(Reg.IIR_FCR, 1, Fcr.ENABLE)
    port.uart.write(Reg.MCR, 1, Mcr.RTS)
    while data and (taken := port.uart.receive(data)):
        data = data[taken:]
    waiting = port.uart.state()
    other.uart.restore(through_json(waiting))
    assert len(waiting.fifo) == 256
    got = bytes(other.uart.read(Reg.DATA, 1) for _ in range(len(waiting.fifo + waiting.backlog)))
    assert got == waiting.fifo + waiting.backlog
    assert other.uart.read(Reg.LSR, 1) & 1 == 0


IMPOSSIBLE_UARTS: dict[str, Callable[[UartState], UartState]] = {
    "ier: is not a number with no bits but 0xf": lambda state: replace(state, ier=0x10),
    "fcr: is not 0, or FIFOs on": lambda state: replace(state, fcr=0xC0),
    "lcr: is not a number from 0 to 255": lambda state: replace(state, lcr=256),
    "mcr: is not a number with no bits but 0x1f": lambda state: replace(state, mcr=-1),
    "scr: is not a number from 0 to 255": lambda state: replace(state, scr=1 << 64),
    "modem_changes: is not a number": lambda state: replace(state, modem_changes=0x10),
    "divisor: is not of length 2": lambda state: replace(state, divisor=b"\1"),
    "fifo of a serial port: 2 characters, with room for 1": lambda state: replace(state, fifo=b"ab"),
    "fifo: is not of a length from 0 to 256": lambda state: replace(state, fifo=bytes(257)),
    "backlog: is not of a length": lambda state: replace(state, backlog=bytes(BACKLOG_SIZE + 1)),
}


@pytest.mark.parametrize("what", IMPOSSIBLE_UARTS)
def test_an_impossible_serial_port_is_refused_and_nothing_changes(what: str) -> None:
    port = Port()
    before = port.uart.state()
    with pytest.raises(SavedStateError, match=what):
        port.uart.restore(through_json(IMPOSSIBLE_UARTS[what](before)))
    assert port.uart.state() == before


# The interrupt controller.

word = st.one_of(st.integers(0, (1 << 32) - 1), st.sampled_from([0, 1, 3, 0xFFFF_FFFF]))
cpu = st.integers(0, CPUS - 1)
gic_access = st.one_of(
    st.tuples(st.just("gicd"), cpu, st.integers(0, 0xFFF // 4).map(lambda at: 4 * at), word),
    st.tuples(st.just("gicd"), cpu, st.sampled_from([Gicd.CTLR, Gicd.SGIR]), word),
    st.tuples(st.just("gicc"), cpu, st.sampled_from(Gicc), word),
    st.tuples(st.just("read"), cpu, st.sampled_from([Gicc.IAR, Gicc.AIAR, Gicc.HPPIR, Gicc.RPR]), st.none()),
    st.tuples(st.just("ppi"), cpu, st.integers(16, 31), st.booleans()),
    st.tuples(st.just("spi"), cpu, st.integers(0, SPIS - 1), st.booleans()),
)


class Controller:
    """A GICv2, the wires out of it, and those into it."""

    def __init__(self) -> None:
        self.lines = [False] * CPUS
        self.wires: dict[tuple[str, int, int], bool] = {}
        self.gic = GicV2(CPUS, self._changed, SPIS)

    def _changed(self, index: int, level: bool) -> None:
        assert level != self.lines[index], "told what is known"
        self.lines[index] = level

    def enable(self) -> None:
        """Let everything through, as a kernel at work has it."""
        self.gic.distributor.write(Gicd.CTLR, 4, 3)
        for at in range(0, 4 * (SPIS // 32 + 1), 4):
            self.gic.distributor.write(Gicd.ISENABLER + at, 4, 0xFFFF_FFFF)
        for at in range(32, 32 + SPIS):
            self.gic.distributor.write(Gicd.ITARGETSR + at, 1, 0xFF)
        for index in range(CPUS):
            self.gic.current = index
            self.gic.cpu_interface.write(Gicc.CTLR, 4, 3)
            self.gic.cpu_interface.write(Gicc.PMR, 4, 0xF8)

    def access(self, access: tuple[str, int, int, Any]) -> object:
        """Do something; return all that can be seen of it."""
        what, index, at, value = access
        self.gic.current = index
        seen = None
        match what:
            case "gicd":
                self.gic.distributor.write(at, 4, value)
            case "gicc":
                self.gic.cpu_interface.write(at, 4, value)
            case "read":
                seen = self.gic.cpu_interface.read(at, 4)
            case _:
                self.set_wire((what, 0 if what == "spi" else index, at), value)
        return seen, list(self.lines)

    def set_wire(self, wire: tuple[str, int, int], level: bool) -> None:
        """Be the device at the other end."""
        what, index, number = wire
        self.wires[wire] = level
        if what == "spi":
            self.gic.set_spi(number, level)
        else:
            self.gic.set_ppi(index, number, level)

    def registers(self) -> list[list[int]]:
        """Return every register as every CPU reads it."""
        seen = []
        for index in range(CPUS):
            self.gic.current = index
            seen.append([self.gic.distributor.read(at, 4) for at in range(0, 0x1000, 4)])
            seen.append([self.gic.cpu_interface.read(at, 4) for at in [*Gicc, Gicc.IAR]])
        return seen


@given(
    enabled=st.booleans(), before=st.lists(gic_access, max_size=40), after=st.lists(gic_access, max_size=30)
)
def test_a_restored_interrupt_controller_goes_on_as_the_saved_one(
    enabled: bool, before: list[Any], after: list[Any]
) -> None:
    one, other = Controller(), Controller()
    if enabled:
        one.enable()
    for access in before:
        one.access(access)
    for wire, level in one.wires.items():
        other.set_wire(wire, level)
    other.gic.restore(through_json(one.gic.state()))
    assert other.lines == one.lines
    for access in after:
        assert one.access(access) == other.access(access)
    assert one.registers() == other.registers()


def test_an_interrupt_whose_wire_has_dropped_meanwhile_is_not_pending() -> None:
    """The wires are asked, not the file."""
    one, other = Controller(), Controller()
    one.enable()
    one.set_wire(("spi", 0, 5), True)
    assert one.lines == [True] * CPUS
    other.gic.restore(through_json(one.gic.state()))
    assert other.lines == [False] * CPUS
    other.set_wire(("spi", 0, 5), True)
    assert other.lines == [True] * CPUS


def of_cpu(**changes: Any) -> Callable[[GicV2State], GicV2State]:
    """Change the last CPU's state."""
    return lambda state: replace(state, cpus=[*state.cpus[:-1], replace(state.cpus[-1], **changes)])


def of_bits(**changes: Any) -> Callable[[GicV2State], GicV2State]:
    """Change the last CPU's interrupts."""
    return lambda state: of_cpu(bits=replace(state.cpus[-1].bits, **changes))(state)


IMPOSSIBLE_GICS: dict[str, tuple[str, Callable[[GicV2State], GicV2State]]] = {
    "CPUs": ("cpus .*: 2 are saved, this machine has 3", lambda state: replace(state, cpus=state.cpus[:-1])),
    "ctlr": (r"state.ctlr: is not", lambda state: replace(state, ctlr=4)),
    "private SPI": ("^spi of the GICv2", lambda state: replace(state, spi=replace(state.spi, active=1))),
    "INTID": (
        "^spi of the GICv2",
        lambda state: replace(state, spi=replace(state.spi, latched=1 << 32 + SPIS)),
    ),
    "negative": (
        "state.spi.group: is not",
        lambda state: replace(state, spi=replace(state.spi, group=-1)),
    ),
    "priorities": ("^priorities of the", lambda state: replace(state, priorities=[0])),
    "priority": (
        r"state.priorities\[0\]: is not",
        lambda state: replace(state, priorities=[4] * SPIS),
    ),
    "target": ("^targets of the GICv2", lambda state: replace(state, targets=[1 << CPUS] * SPIS)),
    "PPI": ("^bits of the GICv2", of_bits(enabled=1 << 32)),
    "own priority": (r"cpus\[2\].priorities\[0\]: is not", of_cpu(priorities=[256] * 32)),
    "own priorities": (r"cpus\[2\].priorities: is not of length 32", of_cpu(priorities=[])),
    "source": ("^sources of the GICv2", of_cpu(sources=[1 << CPUS] * 16)),
    "no source": ("^latched bits and sources", of_bits(latched=1)),
    "not pending": ("^latched bits and sources", of_cpu(sources=[1] * 16)),
    "edge": ("^edge of the GICv2", of_bits(edge=0)),
    "GICC_CTLR": (r"cpus\[2\].ctlr: is not", of_cpu(ctlr=1 << 3)),
    "PMR": (r"cpus\[2\].pmr: is not", of_cpu(pmr=0xFF)),
    "BPR": (r"cpus\[2\].bpr: is not a number from 2 to 7", of_cpu(bpr=1)),
    "ABPR": (r"cpus\[2\].abpr: is not a number from 3 to 7", of_cpu(abpr=8)),
    "APR": (r"cpus\[2\].apr: is not", of_cpu(apr=1 << 32)),
}


@pytest.mark.parametrize("what", IMPOSSIBLE_GICS)
def test_an_impossible_interrupt_controller_is_refused_and_nothing_changes(what: str) -> None:
    gic = GicV2(CPUS, lambda _cpu, _level: None, SPIS)
    before = gic.state()
    message, change = IMPOSSIBLE_GICS[what]
    with pytest.raises(SavedStateError, match=message):
        gic.restore(through_json(change(before)))
    assert gic.state() == before


# The timer.


class Clock:
    """A timer, its line, and the host's clock."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.line = False
        self.timer = VcpuTimer(self._set, lambda: self.now)

    def _set(self, level: bool) -> None:
        self.line = level

    def seen(self, ticks: int) -> object:
        """Let time pass; return all that can be seen, with compare values from now on."""
        self.now += ticks * NS_PER_TICK
        self.timer.expire(self.now)
        deadline = self.timer.deadline
        return (
            self.line,
            self.timer.read_control(),
            self.timer.read_value(),
            self.timer.read_compare() - self.now // NS_PER_TICK,
            deadline and deadline // NS_PER_TICK - self.now // NS_PER_TICK,
        )


@given(
    control=st.integers(0, 7),
    value=st.integers(-(1 << 31), (1 << 31) - 1),
    waits=st.lists(st.integers(0, 1 << 31), min_size=1, max_size=5),
    here=st.integers(1 << 40, 1 << 50),
    there=st.integers(1 << 40, 1 << 50),
)
def test_a_restored_timer_has_as_far_to_go_as_the_saved_one(
    control: int, value: int, waits: list[int], here: int, there: int
) -> None:
    one, other = Clock(here * NS_PER_TICK), Clock(there * NS_PER_TICK)
    one.seen(0)
    one.timer.write_value(value & 0xFFFF_FFFF)
    one.timer.write_control(control)
    first = one.seen(waits[0])
    state = through_json(one.timer.state(one.now // NS_PER_TICK))
    other.seen(0)
    other.timer.restore(state, other.now // NS_PER_TICK)
    assert other.seen(0) == first
    for wait in waits[1:]:
        assert other.seen(wait) == one.seen(wait)


@pytest.mark.parametrize("compare", [0, (1 << 64) - 1])
def test_the_ends_of_time_stay_there(compare: int) -> None:
    one, other = VcpuTimer(lambda _: None), VcpuTimer(lambda _: None)
    one.write_compare(compare)
    other.restore(one.state(5 << 30), 9 << 30 if compare else 2 << 30)
    assert other.read_compare() == compare


@pytest.mark.parametrize(
    "state", [TimerState(4, 0), TimerState(-1, 0), TimerState(1, 1 << 64), TimerState(1, -(1 << 64))]
)
def test_an_impossible_timer_is_refused_and_nothing_changes(state: TimerState) -> None:
    one = VcpuTimer(lambda _: None)
    one.write_compare(77)
    one.write_control(TimerControl.of(imask=1))
    with pytest.raises(SavedStateError, match=r"state\.(control|remaining): is not"):
        one.restore(through_json(state), 1)
    assert one.state(0) == TimerState(TimerControl.of(imask=1), 77)
