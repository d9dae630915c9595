# SPDX-License-Identifier: GPL-2.0-or-later
"""The GICv3 against a slow and simple model of IHI 0069, and by hand beyond it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtime.abi import gicv3 as icc
from pvtime.abi.arm64 import SysReg
from pvtime.abi.gicv2 import SPURIOUS, Gicd
from pvtime.abi.gicv3 import (
    GICD_IROUTER,
    GICD_PIDR2,
    REDISTRIBUTOR_SIZE,
    SGI_FRAME,
    GicdCtlr3,
    GicdTyper3,
    Gicr,
    GicrTyper,
    IccCtlr,
    IccSgi1r,
)
from pvtime.errors import SavedStateError
from pvtime.machine.gicv3 import GicV3, GicV3State
from pvtime.machine.layout import affinity, redistributors
from pvtime.snapshot.codec import decode, encode

MPIDRS = [0x0, 0x1, 0x100]
CPUS = len(MPIDRS)
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
    route: int = 0

    @property
    def pending(self) -> bool:
        return self.latched or (self.level and not self.edge)


class Model:
    """What the specification says, with a loop over everything at every question."""

    def __init__(self) -> None:
        self.private = [[Interrupt(enabled=n < 16, edge=n < 16) for n in range(32)] for _ in range(CPUS)]
        self.shared = [Interrupt() for _ in range(SPIS)]
        self.masks = [0] * CPUS
        self.points = [3] * CPUS
        self.drops_only = [False] * CPUS
        self.active: list[list[int]] = [[] for _ in range(CPUS)]

    def at(self, cpu: int, intid: int) -> Interrupt:
        return self.private[cpu][intid] if intid < 32 else self.shared[intid - 32]

    def best(self, cpu: int) -> int | None:
        ready = []
        for intid in range(32 + SPIS):
            one = self.at(cpu, intid)
            mine = intid < 32 or one.route == MPIDRS[cpu]
            if mine and one.pending and one.enabled and not one.active:
                ready.append((one.priority, intid))
        return min(ready)[1] if ready else None

    def group_priority(self, cpu: int, intid: int) -> int:
        low = self.points[cpu]
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
        self.at(cpu, intid).active = True
        self.at(cpu, intid).latched = False
        return intid

    def complete(self, cpu: int, intid: int) -> None:
        if self.active[cpu]:
            self.active[cpu].remove(min(self.active[cpu]))
        if not self.drops_only[cpu]:
            self.at(cpu, intid).active = False

    def wire(self, one: Interrupt, level: bool) -> None:
        if level and not one.level and one.edge:
            one.latched = True
        one.level = level


class Both:
    """The controller and the model, given the same."""

    def __init__(self) -> None:
        self.lines = [False] * CPUS
        self.gic = GicV3(MPIDRS, self.lines.__setitem__, SPIS)
        self.model = Model()
        self.gic.distributor.write(Gicd.CTLR, 4, GicdCtlr3.of(enable_group1=1))
        for cpu in range(CPUS):
            self.write(cpu, icc.ICC_IGRPEN1_EL1, 1)

    def write(self, cpu: int, register: SysReg, value: int) -> None:
        self.gic.current = cpu
        assert self.gic.write_register(register, value)

    def read(self, cpu: int, register: SysReg) -> int:
        self.gic.current = cpu
        value = self.gic.read_register(register)
        assert value is not None
        return value

    def store(self, cpu: int, intid: int, register: int, size: int, value: int) -> None:
        if intid < 32:
            self.gic.redistributors[0].write(cpu * REDISTRIBUTOR_SIZE + SGI_FRAME + register, size, value)
        else:
            self.gic.distributor.write(register, size, value)

    def bit(self, register: Gicd, cpu: int, intid: int) -> None:
        self.store(cpu, intid, register + intid // 32 * 4, 4, 1 << intid % 32)

    def set(self, what: str, cpu: int, intid: int, value: int) -> None:
        one = self.model.at(cpu, intid)
        on = bool(value & 1)
        match what:
            case "enable":
                self.bit(Gicd.ISENABLER if on else Gicd.ICENABLER, cpu, intid)
                one.enabled = on
            case "pend":
                self.bit(Gicd.ISPENDR if on else Gicd.ICPENDR, cpu, intid)
                one.latched = on
            case "active":
                self.bit(Gicd.ISACTIVER if on else Gicd.ICACTIVER, cpu, intid)
                one.active = on
            case "priority":
                self.store(cpu, intid, Gicd.IPRIORITYR + intid, 1, value)
                one.priority = value & 0xF8
            case "route":
                if intid >= 32:
                    one.route = [*MPIDRS, 0x2][value % 4]
                    self.gic.distributor.write(GICD_IROUTER + 8 * intid, 8, one.route | 1 << 31)
            case "edge":
                if intid >= 32:
                    word, shift = Gicd.ICFGR + intid // 16 * 4, intid % 16 * 2 + 1
                    old = self.gic.distributor.read(word, 4)
                    self.gic.distributor.write(word, 4, old & ~(1 << shift) | (value & 1) << shift)
                    one.edge = on
            case "wire":
                if intid >= 32:
                    self.gic.set_spi(intid - 32, on)
                elif intid >= 16:
                    self.gic.set_ppi(cpu, intid, on)
                if intid >= 16:
                    self.model.wire(one, on)
            case "sgi":
                self._send(cpu, intid & 15, value)
            case "mask":
                self.write(cpu, icc.ICC_PMR_EL1, value)
                self.model.masks[cpu] = value & 0xF8
            case "point":
                # With something active, a change would make the priorities already stacked mean others.
                if not self.model.active[cpu]:
                    self.write(cpu, icc.ICC_BPR1_EL1, value)
                    self.model.points[cpu] = max(3, value & 7)
            case "mode":
                self.write(cpu, icc.ICC_CTLR_EL1, IccCtlr.of(eoi_mode=value & 1))
                self.model.drops_only[cpu] = on
            case "acknowledge":
                assert self.read(cpu, icc.ICC_IAR1_EL1) == self.model.acknowledge(cpu)
            case "complete":
                self.write(cpu, icc.ICC_EOIR1_EL1, intid)
                self.model.complete(cpu, intid)
            case "deactivate":
                self.write(cpu, icc.ICC_DIR_EL1, intid)
                if self.model.drops_only[cpu]:
                    one.active = False

    def _send(self, cpu: int, intid: int, value: int) -> None:
        cluster, targets, others = value & 1, value >> 1 & 0xF, value >> 5 & 1
        sgi = IccSgi1r.of(aff1=cluster, targets=targets, intid=intid, to_others=others)
        self.write(cpu, icc.ICC_SGI1R_EL1, sgi)
        for target, mpidr in enumerate(MPIDRS):
            named = mpidr >> 8 == cluster and targets >> (mpidr & 0xF) & 1
            if target != cpu if others else named:
                self.model.at(target, intid).latched = True

    def check(self) -> None:
        for cpu in range(CPUS):
            assert self.lines[cpu] == self.gic.level(cpu) == (self.model.signalled(cpu) is not None)
            assert self.read(cpu, icc.ICC_RPR_EL1) == min(self.model.active[cpu], default=0xFF)
            best = self.model.best(cpu)
            assert self.read(cpu, icc.ICC_HPPIR1_EL1) == (SPURIOUS if best is None else best)


# Few interrupts, so that they meet: SGIs, PPIs and SPIs, at the ends of each range.
INTIDS = [0, 15, 16, 31, 32, 63]
VALUES = st.sampled_from([0, 1, 2, 3, 7, 0x20, 0x28, 0xA0, 0xF0, 0xFF])
RARE = ["enable", "active", "priority", "route", "edge", "mask", "point", "mode"]
OFTEN = ["wire", "sgi", "pend", "acknowledge", "acknowledge", "complete", "deactivate"] * 2
Operation = tuple[str, int, int, int]


def _operations(kinds: list[str]) -> st.SearchStrategy[Operation]:
    return st.tuples(st.sampled_from(kinds), st.integers(0, CPUS - 1), st.sampled_from(INTIDS), VALUES)


@settings(deadline=None, max_examples=100)
@given(
    setup=st.lists(_operations(["priority", "priority", "edge", "point", "route"]), max_size=20),
    operations=st.lists(_operations(RARE + OFTEN), min_size=20, max_size=60),
)
def test_it_does_what_the_model_does(setup: list[Operation], operations: list[Operation]) -> None:
    both = Both()
    for cpu in range(CPUS):
        both.set("mask", cpu, 0, 0xF0)
        for intid in INTIDS:
            both.set("enable", cpu, intid, 1)
    for operation in [*setup, *operations]:
        both.set(*operation)
        both.check()
    # A saved one goes on as this one does, with the wires where they are.
    other = GicV3(MPIDRS, lambda _cpu, _level: None, SPIS)
    for cpu in range(CPUS):
        for intid in range(16, 32):
            other.set_ppi(cpu, intid, both.model.at(cpu, intid).level)
    for spi in range(SPIS):
        other.set_spi(spi, both.model.shared[spi].level)
    other.restore(decode(GicV3State, encode(both.gic.state()), "state"))
    assert other.state() == both.gic.state()
    assert [other.level(cpu) for cpu in range(CPUS)] == both.lines


def test_every_redistributor_names_its_cpu_and_the_last_of_a_region_says_so() -> None:
    gic = GicV3([affinity(index) for index in range(130)], lambda _cpu, _level: None)
    assert [each.region for each in gic.redistributors] == redistributors(130)
    typers = [
        GicrTyper(each.read(at + Gicr.TYPER, 8))
        for each in gic.redistributors
        for at in range(0, each.region.size, REDISTRIBUTOR_SIZE)
    ]
    assert [typer.affinity for typer in typers] == [affinity(index) for index in range(130)]
    assert [typer.processor for typer in typers] == list(range(130))
    assert [index for index, typer in enumerate(typers) if typer.last] == [122, 129]
    low, high = (gic.redistributors[0].read(17 * REDISTRIBUTOR_SIZE + at, 4) for at in (8, 12))
    assert (low, high) == (17 << 8, 0x101)


def test_it_says_what_it_is() -> None:
    gic = Both().gic
    assert gic.distributor.read(Gicd.CTLR, 4) == GicdCtlr3.of(ds=1, are=1, enable_group1=1)
    assert gic.distributor.read(Gicd.TYPER, 4) == GicdTyper3.of(no_1_of_n=1, id_bits=9, lines=1)
    assert gic.distributor.read(GICD_PIDR2, 4) >> 4 == gic.redistributors[0].read(GICD_PIDR2, 4) >> 4 == 3
    assert gic.read_register(icc.ICC_SRE_EL1) == 7
    assert gic.read_register(icc.ICC_CTLR_EL1) == IccCtlr.of(priority_bits=4)


def test_all_interrupts_are_of_group_1() -> None:
    gic = Both().gic
    for device, at in (
        (gic.distributor, Gicd.IGROUPR + 4),
        (gic.redistributors[0], SGI_FRAME + Gicd.IGROUPR),
    ):
        device.write(at, 4, 0)
        assert device.read(at, 4) == 0xFFFF_FFFF
    assert gic.read_register(icc.ICC_IAR0_EL1) == SPURIOUS


@pytest.mark.parametrize(
    ("register", "readable", "writable"),
    [
        (icc.ICC_IAR1_EL1, True, False),
        (icc.ICC_EOIR1_EL1, False, True),
        (icc.ICC_SGI1R_EL1, False, True),
        (icc.ICC_RPR_EL1, True, False),
        (icc.ICC_SRE_EL1, True, True),
        (icc.ICC_AP0R0_EL1._replace(op2=5), False, False),
        (icc.ICC_AP1R0_EL1._replace(op2=1), False, False),
    ],
)
def test_a_register_that_cannot_be_read_or_written_is_undefined(
    register: SysReg, readable: bool, writable: bool
) -> None:
    gic = Both().gic
    assert (gic.read_register(register) is not None) is readable
    assert gic.write_register(register, 0) is writable


def test_with_a_common_binary_point_that_of_group_0_counts() -> None:
    both = Both()
    both.write(0, icc.ICC_CTLR_EL1, IccCtlr.of(common_bpr=1))
    both.write(0, icc.ICC_BPR0_EL1, 4)
    both.write(0, icc.ICC_BPR1_EL1, 7)
    assert both.read(0, icc.ICC_BPR1_EL1) == 5
    both.write(0, icc.ICC_CTLR_EL1, 0)
    assert both.read(0, icc.ICC_BPR1_EL1) == 3


def test_a_route_can_be_written_by_halves() -> None:
    distributor = Both().gic.distributor
    distributor.write(GICD_IROUTER + 8 * 40, 4, 0x8001_0203)
    distributor.write(GICD_IROUTER + 8 * 40 + 4, 4, 0x1FF)
    assert distributor.read(GICD_IROUTER + 8 * 40, 8) == 0xFF_0001_0203, "and has no bits but an affinity's"


@given(st.integers(0, 0x1_0000), st.sampled_from([1, 2, 4, 8]), st.integers(0, (1 << 64) - 1))
def test_no_access_raises(offset: int, size: int, value: int) -> None:
    gic = Both().gic
    for device, base in (
        (gic.distributor, 0),
        (gic.redistributors[0], 0),
        (gic.redistributors[0], SGI_FRAME),
    ):
        if base + offset + size <= device.region.size:
            device.write(base + offset, size, value)
            assert 0 <= device.read(base + offset, size) < 1 << 8 * size


def test_a_reset_is_as_power_on_but_for_the_wires() -> None:
    both = Both()
    both.set("mask", 0, 0, 0xF0)
    both.set("enable", 0, 16, 1)
    both.set("wire", 0, 16, 1)
    assert both.lines[0]
    both.gic.reset()
    assert not both.lines[0]
    fresh = GicV3(MPIDRS, lambda _cpu, _level: None, SPIS)
    assert both.gic.state() == fresh.state()


Change = Callable[[GicV3State], GicV3State]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: replace(state, cpus=state.cpus[1:]), "2 are saved, this machine has 3"),
        (lambda state: replace(state, priorities=state.priorities[1:]), "priorities"),
        (lambda state: replace(state, routes=[*state.routes, 0]), "routes"),
        (lambda state: replace(state, spi=replace(state.spi, enabled=1)), "spi"),
        (lambda state: replace(state, spi=replace(state.spi, group=1 << 40)), "spi"),
        (lambda state: _private(state, enabled=1 << 32), "bits"),
        (lambda state: _private(state, edge=0), "edge"),
    ],
)
def test_an_impossible_state_is_refused_and_nothing_changes(change: Change, named: str) -> None:
    gic = Both().gic
    before = gic.state()
    with pytest.raises(SavedStateError, match=f"{named}"):
        gic.restore(change(before))
    assert gic.state() == before


def _private(state: GicV3State, **bits: int) -> GicV3State:
    first = replace(state.cpus[0], bits=replace(state.cpus[0].bits, **bits))
    return replace(state, cpus=[first, *state.cpus[1:]])
