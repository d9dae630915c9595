# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt controller against a slow and simple model of IHI 0048B, and by hand beyond it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtime.abi.gicv2 import (
    NON_SECURE_PENDING,
    SPURIOUS,
    Gicc,
    GiccCtlr,
    Gicd,
    GicdSgir,
    GicdTyper,
    SgiFilter,
)
from pvtime.machine.gicv2 import GicV2

CPUS = 3
SPIS = 32


@dataclass
class Interrupt:
    """One interrupt, as one CPU sees it where it is private."""

    enabled: bool = False
    latched: bool = False
    level: bool = False
    edge: bool = False
    active: bool = False
    priority: int = 0
    group: int = 0
    targets: int = 0
    sources: set[int] = field(default_factory=set)

    @property
    def pending(self) -> bool:
        return self.latched or bool(self.sources) or (self.level and not self.edge)


class Model:
    """What the specification says, with a loop over everything at every question."""

    def __init__(self) -> None:
        self.private = [[Interrupt(enabled=n < 16, edge=n < 16) for n in range(32)] for _ in range(CPUS)]
        self.shared = [Interrupt() for _ in range(SPIS)]
        self.masks = [0] * CPUS
        self.points = [2] * CPUS
        self.active: list[list[int]] = [[] for _ in range(CPUS)]

    def at(self, cpu: int, intid: int) -> Interrupt:
        return self.private[cpu][intid] if intid < 32 else self.shared[intid - 32]

    def best(self, cpu: int) -> int | None:
        ready = []
        for intid in range(32 + SPIS):
            one = self.at(cpu, intid)
            mine = intid < 32 or one.targets >> cpu & 1
            if mine and one.pending and one.enabled and not one.active:
                ready.append((one.priority, intid))
        return min(ready)[1] if ready else None

    def group_priority(self, cpu: int, intid: int) -> int:
        low = self.points[cpu] + 1
        return self.at(cpu, intid).priority >> low << low

    def signalled(self, cpu: int) -> int | None:
        """Return what the CPU would acknowledge."""
        intid = self.best(cpu)
        if intid is None or self.at(cpu, intid).priority >= self.masks[cpu]:
            return None
        if self.active[cpu] and self.group_priority(cpu, intid) >= min(self.active[cpu]):
            return None
        return intid

    def acknowledge(self, cpu: int) -> int:
        intid = self.signalled(cpu)
        if intid is None:
            return SPURIOUS
        self.active[cpu].append(self.group_priority(cpu, intid))
        one = self.at(cpu, intid)
        one.active = True
        one.latched = False
        if not one.sources:
            return intid
        source = min(one.sources)
        one.sources.remove(source)
        return intid | source << 10

    def complete(self, cpu: int, intid: int) -> None:
        if intid >= 32 + SPIS:
            return
        if self.active[cpu]:
            self.active[cpu].remove(min(self.active[cpu]))
        self.at(cpu, intid).active = False

    def wire(self, one: Interrupt, level: bool) -> None:
        if level and not one.level and one.edge:
            one.latched = True
        one.level = level


class Both:
    """The controller and the model, given the same."""

    def __init__(self) -> None:
        self.lines = [False] * CPUS
        self.gic = GicV2(CPUS, self.lines.__setitem__, SPIS)
        self.model = Model()
        self.gic.distributor.write(Gicd.CTLR, 4, 1)
        for cpu in range(CPUS):
            self.gic.current = cpu
            self.gic.cpu_interface.write(Gicc.CTLR, 4, 1)

    def bit(self, register: Gicd, cpu: int, intid: int) -> None:
        self.gic.current = cpu
        self.gic.distributor.write(register + intid // 32 * 4, 4, 1 << intid % 32)

    def set(self, what: str, cpu: int, intid: int, value: int) -> None:
        one = self.model.at(cpu, intid)
        gic = self.gic
        match what:
            case "enable":
                self.bit(Gicd.ISENABLER if value & 1 else Gicd.ICENABLER, cpu, intid)
                one.enabled = bool(value & 1)
            case "pend":
                self.bit(Gicd.ISPENDR if value & 1 else Gicd.ICPENDR, cpu, intid)
                if intid >= 16:
                    one.latched = bool(value & 1)
            case "active":
                self.bit(Gicd.ISACTIVER if value & 1 else Gicd.ICACTIVER, cpu, intid)
                one.active = bool(value & 1)
            case "priority":
                gic.current = cpu
                gic.distributor.write(Gicd.IPRIORITYR + intid, 1, value)
                one.priority = value & 0xF8
            case "target":
                gic.distributor.write(Gicd.ITARGETSR + intid, 1, value)
                if intid >= 32:
                    one.targets = value & (1 << CPUS) - 1
            case "edge":
                if intid >= 32:
                    word = Gicd.ICFGR + intid // 16 * 4
                    shift = intid % 16 * 2 + 1
                    old = gic.distributor.read(word, 4)
                    gic.distributor.write(word, 4, old & ~(1 << shift) | (value & 1) << shift)
                    one.edge = bool(value & 1)
            case "wire":
                if intid >= 32:
                    gic.set_spi(intid - 32, bool(value & 1))
                elif intid >= 16:
                    gic.set_ppi(cpu, intid, bool(value & 1))
                if intid >= 16:
                    self.model.wire(one, bool(value & 1))
            case "sgi":
                gic.current = cpu
                gic.distributor.write(Gicd.SGIR, 4, GicdSgir.of(cpus=value, intid=intid & 15))
                for target in range(CPUS):
                    if value >> target & 1:
                        self.model.at(target, intid & 15).sources.add(cpu)
            case "mask":
                gic.current = cpu
                gic.cpu_interface.write(Gicc.PMR, 4, value)
                self.model.masks[cpu] = value & 0xF8
            case "point":
                gic.current = cpu
                # With something active, a change would make the priorities already stacked mean others.
                if not self.model.active[cpu]:
                    gic.cpu_interface.write(Gicc.BPR, 4, value)
                    self.model.points[cpu] = max(2, value & 7)
            case "acknowledge":
                gic.current = cpu
                assert gic.cpu_interface.read(Gicc.IAR, 4) == self.model.acknowledge(cpu)
            case "complete":
                gic.current = cpu
                gic.cpu_interface.write(Gicc.EOIR, 4, intid)
                self.model.complete(cpu, intid)

    def check(self) -> None:
        for cpu in range(CPUS):
            self.gic.current = cpu
            assert self.lines[cpu] == self.gic.level(cpu) == (self.model.signalled(cpu) is not None)
            running = self.gic.cpu_interface.read(Gicc.RPR, 4)
            assert running == min(self.model.active[cpu], default=0xFF)
            highest = self.gic.cpu_interface.read(Gicc.HPPIR, 4) & 0x3FF
            best = self.model.best(cpu)
            assert highest == (SPURIOUS if best is None else best)


# Few interrupts, so that they meet: SGIs, PPIs and SPIs, at the ends of each range.
INTIDS = [0, 15, 16, 31, 32, 63]
VALUES = st.sampled_from([0, 1, 7, 0x20, 0x28, 0xA0, 0xF0, 0xFF])
RARE = ["enable", "pend", "active", "priority", "target", "edge", "mask", "point"]
OFTEN = ["wire", "sgi", "pend", "acknowledge", "acknowledge", "complete"] * 3


def _operations(kinds: list[str]) -> st.SearchStrategy[tuple[str, int, int, int]]:
    return st.tuples(st.sampled_from(kinds), st.integers(0, CPUS - 1), st.sampled_from(INTIDS), VALUES)


@settings(deadline=None, max_examples=150)
@given(
    setup=st.lists(_operations(["priority", "priority", "edge", "point"]), max_size=20),
    operations=st.lists(_operations(RARE + OFTEN), min_size=20, max_size=80),
)
def test_it_does_what_the_model_does(
    setup: list[tuple[str, int, int, int]], operations: list[tuple[str, int, int, int]]
) -> None:
    both = Both()
    for cpu in range(CPUS):
        both.set("mask", cpu, 0, 0xF0)
        for intid in INTIDS:
            both.set("enable", cpu, intid, 1)
            both.set("target", cpu, intid, 0xFF)
    for operation in [*setup, *operations]:
        both.set(*operation)
        both.check()


class Guest:
    """A controller as Linux sets it up, seen from its CPUs."""

    def __init__(self, vcpus: int = 2, ctlr: int = 1) -> None:
        self.changes: list[tuple[int, bool]] = []
        self.gic = GicV2(vcpus, lambda cpu, level: self.changes.append((cpu, level)))
        self.distribute(Gicd.CTLR, 3)
        for cpu in reversed(range(vcpus)):
            self.gic.current = cpu
            self.write(Gicc.PMR, 0xF0)
            self.write(Gicc.CTLR, ctlr)

    def read(self, register: int) -> int:
        return self.gic.cpu_interface.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.gic.cpu_interface.write(register, 4, value)

    def distribute(self, register: int, value: int) -> None:
        self.gic.distributor.write(register, 4, value)

    def ask(self, register: int) -> int:
        return self.gic.distributor.read(register, 4)


def test_it_says_how_large_it_is() -> None:
    assert Guest(8).ask(Gicd.TYPER) == GicdTyper.of(cpus=7, lines=1)


def test_each_cpu_reads_its_own_mask_in_the_private_targets() -> None:
    guest = Guest(3)
    for cpu in range(3):
        guest.gic.current = cpu
        assert guest.ask(Gicd.ITARGETSR) == 0x0101_0101 << cpu
        guest.distribute(Gicd.ITARGETSR, 0)
        assert guest.ask(Gicd.ITARGETSR + 28) == 0x0101_0101 << cpu


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(SgiFilter.LIST, [0, 2]), (SgiFilter.OTHERS, [0, 2]), (SgiFilter.SELF, [1]), (3, [])],
)
def test_an_sgi_goes_to_whom_its_filter_says(kind: int, expected: list[int]) -> None:
    guest = Guest(3)
    guest.gic.current = 1
    guest.distribute(Gicd.SGIR, GicdSgir.of(filter=kind, cpus=0b1111_1101, intid=5))
    assert [cpu for cpu, level in guest.changes if level] == expected
    for cpu in expected:
        guest.gic.current = cpu
        assert guest.read(Gicc.IAR) == 5 | 1 << 10


def test_an_sgi_from_two_cpus_is_two_interrupts() -> None:
    guest = Guest(2)
    for sender in (1, 0):
        guest.gic.current = sender
        guest.distribute(Gicd.SGIR, GicdSgir.of(cpus=1, intid=3))
    assert guest.ask(Gicd.SPENDSGIR) >> 24 == 0b11
    for sender in (0, 1):
        assert guest.read(Gicc.IAR) == 3 | sender << 10
        assert guest.read(Gicc.IAR) == SPURIOUS
        guest.write(Gicc.EOIR, 3 | sender << 10)
    assert guest.read(Gicc.IAR) == SPURIOUS


def test_pending_sgis_can_be_set_and_cleared_by_source() -> None:
    guest = Guest(2)
    guest.gic.distributor.write(Gicd.SPENDSGIR + 7, 1, 0xFF)
    assert guest.ask(Gicd.CPENDSGIR + 4) == 0b11 << 24
    assert guest.ask(Gicd.ISPENDR) == 1 << 7
    guest.distribute(Gicd.ICPENDR, 0xFFFF)
    assert guest.ask(Gicd.ISPENDR) == 1 << 7
    guest.gic.distributor.write(Gicd.CPENDSGIR + 7, 1, 0b01)
    assert guest.read(Gicc.IAR) == 7 | 1 << 10
    assert guest.ask(Gicd.ISPENDR) == 0


def test_a_level_interrupt_comes_again_while_its_wire_is_high() -> None:
    guest = Guest()
    guest.gic.current = 0
    guest.distribute(Gicd.ISENABLER, 1 << 30)
    guest.gic.set_ppi(0, 30, True)
    for _ in range(2):
        assert guest.read(Gicc.IAR) == 30
        assert not guest.gic.level(0)
        guest.write(Gicc.EOIR, 30)
        assert guest.gic.level(0)
    guest.gic.set_ppi(0, 30, False)
    assert not guest.gic.level(0)
    assert not guest.gic.level(1)


def test_a_shared_interrupt_is_taken_by_one_of_its_targets() -> None:
    guest = Guest()
    guest.distribute(Gicd.ITARGETSR + 32, 0b11)
    guest.distribute(Gicd.ISENABLER + 4, 1)
    guest.gic.set_spi(0, True)
    assert guest.changes == [(0, True), (1, True)]
    guest.gic.current = 1
    assert guest.read(Gicc.IAR) == 32
    guest.gic.current = 0
    assert guest.read(Gicc.IAR) == SPURIOUS


def test_in_eoi_mode_completion_is_two_steps() -> None:
    guest = Guest(ctlr=GiccCtlr.of(eoi_mode=1, enable_group0=1))
    guest.distribute(Gicd.SGIR, GicdSgir.of(filter=SgiFilter.SELF, intid=1))
    assert guest.read(Gicc.IAR) == 1
    assert guest.read(Gicc.RPR) == 0
    guest.write(Gicc.EOIR, 1)
    assert guest.read(Gicc.RPR) == 0xFF
    assert guest.ask(Gicd.ISACTIVER) == 1 << 1
    guest.write(Gicc.DIR, 1)
    assert guest.ask(Gicd.ISACTIVER) == 0


def test_group_1_is_acknowledged_through_its_alias() -> None:
    guest = Guest(ctlr=GiccCtlr.of(enable_group0=1, enable_group1=1))
    guest.distribute(Gicd.IGROUPR, 1 << 2)
    guest.distribute(Gicd.SGIR, GicdSgir.of(filter=SgiFilter.SELF, intid=2))
    assert guest.read(Gicc.HPPIR) == NON_SECURE_PENDING
    assert guest.read(Gicc.IAR) == NON_SECURE_PENDING
    assert guest.read(Gicc.AHPPIR) == 2
    assert guest.read(Gicc.AIAR) == 2
    guest.write(Gicc.AEOIR, 2)
    guest.distribute(Gicd.SGIR, GicdSgir.of(filter=SgiFilter.SELF, intid=3))
    assert guest.read(Gicc.AIAR) == SPURIOUS
    assert guest.read(Gicc.IAR) == 3


def test_group_1_is_acknowledged_with_group_0_if_asked() -> None:
    guest = Guest(ctlr=GiccCtlr.of(ack_control=1, enable_group1=1))
    guest.distribute(Gicd.IGROUPR, 1 << 2)
    guest.distribute(Gicd.SGIR, GicdSgir.of(filter=SgiFilter.SELF, intid=2))
    assert guest.read(Gicc.IAR) == 2


def test_nothing_comes_while_the_distributor_is_off() -> None:
    guest = Guest()
    guest.distribute(Gicd.CTLR, 0)
    guest.distribute(Gicd.SGIR, GicdSgir.of(filter=SgiFilter.SELF, intid=2))
    assert guest.read(Gicc.IAR) == SPURIOUS
    guest.distribute(Gicd.CTLR, 1)
    assert guest.read(Gicc.IAR) == 2


def test_the_first_private_interrupts_have_a_fixed_configuration() -> None:
    guest = Guest()
    for offset in (0, 4):
        guest.distribute(Gicd.ICFGR + offset, 0x5555_5555)
    assert (guest.ask(Gicd.ICFGR), guest.ask(Gicd.ICFGR + 4)) == (0xAAAA_AAAA, 0)


def test_a_reset_forgets_all_but_the_wires() -> None:
    guest = Guest()
    guest.gic.current = 0
    guest.distribute(Gicd.ISENABLER, 1 << 30)
    guest.gic.set_ppi(0, 30, True)
    guest.gic.reset()
    assert guest.changes == [(0, True), (0, False)]
    guest.distribute(Gicd.CTLR, 1)
    guest.distribute(Gicd.ISENABLER, 1 << 30)
    guest.write(Gicc.CTLR, 1)
    assert guest.read(Gicc.IAR) == SPURIOUS
    guest.write(Gicc.PMR, 0xF0)
    assert guest.read(Gicc.IAR) == 30


def test_interrupts_that_do_not_exist_read_as_zero() -> None:
    guest = Guest()
    for register in (Gicd.ISENABLER + 8, Gicd.IPRIORITYR + 64, Gicd.ITARGETSR + 64, Gicd.ICFGR + 16):
        guest.distribute(register, 0xFFFF_FFFF)
        assert guest.ask(register) == 0


@pytest.mark.parametrize(("vcpus", "spis"), [(0, 32), (9, 32), (1, 33), (1, 992), (1, -32)])
def test_an_impossible_controller_is_refused(vcpus: int, spis: int) -> None:
    with pytest.raises(ValueError, match="no GICv2"):
        GicV2(vcpus, lambda cpu, level: None, spis)


def test_wires_that_do_not_exist_are_refused() -> None:
    gic = Guest().gic
    for spi in (-1, 32):
        with pytest.raises(ValueError, match="no SPI"):
            gic.set_spi(spi, True)
    for intid in (15, 32):
        with pytest.raises(ValueError, match="no PPI"):
            gic.set_ppi(0, intid, True)


SIZES = st.sampled_from([1, 2, 4, 4, 4, 8])
DISTRIBUTOR = st.tuples(st.booleans(), st.integers(0, 0x1010), SIZES, st.integers(0, (1 << 64) - 1))
INTERFACE = st.tuples(st.booleans(), st.integers(0, 0x1010), SIZES, st.integers(0, (1 << 64) - 1))
ALIGNED = st.tuples(
    st.booleans(), st.integers(0, 0x404).map(lambda word: word * 4), st.just(4), st.integers(0, (1 << 32) - 1)
)


@settings(deadline=None, max_examples=150)
@given(
    distributor=st.lists(DISTRIBUTOR | ALIGNED, max_size=60),
    interface=st.lists(
        INTERFACE | ALIGNED | ALIGNED.map(lambda it: (it[0], it[1] % 0x30, *it[2:])), max_size=60
    ),
    spis=st.sampled_from([0, 32, 960]),
)
def test_no_access_raises_or_answers_more_than_was_asked(
    distributor: list[tuple[bool, int, int, int]], interface: list[tuple[bool, int, int, int]], spis: int
) -> None:
    gic = GicV2(2, lambda cpu, level: None, spis)
    accesses = [(gic.distributor, *one) for one in distributor] + [
        (gic.cpu_interface, *one) for one in interface
    ]
    for turn, (device, write, offset, size, value) in enumerate(accesses):
        gic.current = turn & 1
        if write:
            device.write(offset, size, value)
        else:
            assert 0 <= device.read(offset, size) < 1 << 8 * size
