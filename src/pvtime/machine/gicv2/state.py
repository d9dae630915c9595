# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of a GICv2, and the choice of the interrupt that a CPU takes (IHI 0048B chapter 3).

The saved form has neither wires nor what follows from the rest; it is checked before a controller is brought
into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace
from typing import Annotated, Final, TypeAlias

from pvtime.abi.gicv2 import SGIS, SPI_BASE, GiccCtlr, GicdCtlr
from pvtime.errors import SavedStateError
from pvtime.machine.interrupts import (
    IDLE,
    MIN_BPR,
    PRIORITY_MASK,
    PRIVATE_MASK,
    SGI_MASK,
    Interrupts,
    Priority,
    SavedInterrupts,
    private_interrupts,
)
from pvtime.records import dataclass
from pvtime.schema import U32, bits, length, within

__all__ = [
    "GICC_CTLR_WRITABLE",
    "GicCpu",
    "GicState",
    "GicV2State",
    "restore",
    "save",
]

GICC_CTLR_WRITABLE: Final = GiccCtlr.of(
    eoi_mode=1, common_bpr=1, ack_control=1, enable_group1=1, enable_group0=1
)
"""FIQEn and the bypass bits read as zero: each CPU has one input, IRQ."""


@dataclass(slots=True)
class GicCpu:
    """A CPU's banked interrupts, and its interface."""

    index: int
    bits: Interrupts = field(default_factory=private_interrupts)
    priorities: list[int] = field(default_factory=lambda: [0] * SPI_BASE)
    sources: list[int] = field(default_factory=lambda: [0] * SGIS)
    """For each SGI, the CPUs that sent it and are not acknowledged yet, one bit each."""
    targeted: int = 0
    """SPIs with this CPU among their targets."""
    gate: int = 0
    """Interrupts whose group is enabled in this interface and in the distributor."""
    ctlr: GiccCtlr = field(default_factory=GiccCtlr)
    pmr: int = 0
    bpr: int = MIN_BPR
    abpr: int = MIN_BPR + 1
    group_masks: tuple[int, int] = (PRIORITY_MASK, PRIORITY_MASK)
    """Group priority field, the part that decides on preemption, for group 0 and 1."""
    apr: int = 0
    """Active priorities: bit n is group priority n << 3."""
    running: int = IDLE
    best: int = -1
    """The highest-priority pending interrupt, or -1."""
    best_group: int = 0
    best_running: int = IDLE
    """Running priority after its acknowledgement."""
    line: bool = False
    """Level of the CPU's IRQ input."""

    def set_binary_points(self, bpr: int, abpr: int) -> None:
        """Set GICC_BPR and GICC_ABPR, and derive the group priority masks (3.3.3)."""
        self.bpr = max(bpr & 7, MIN_BPR)
        self.abpr = max(abpr & 7, MIN_BPR + 1)
        group0 = PRIORITY_MASK << self.bpr - MIN_BPR & PRIORITY_MASK
        group1 = PRIORITY_MASK << self.abpr - MIN_BPR - 1 & PRIORITY_MASK
        self.group_masks = (group0, group0 if self.ctlr.common_bpr else group1)

    def set_active_priorities(self, apr: int) -> None:
        """Set GICC_APR0, and derive the running priority."""
        self.apr = apr
        self.running = ((apr & -apr).bit_length() - 1) << 3 if apr else IDLE


class GicState:
    """The state of all CPUs and of the shared interrupts."""

    def __init__(self, vcpus: int, spis: int, on_change: Callable[[int, bool], None]) -> None:
        self.count = SPI_BASE + spis
        self.cpus = [GicCpu(index) for index in range(vcpus)]
        self.spi = Interrupts()
        self._on_change = on_change
        self.reset()

    def reset(self) -> None:
        """Return to the state after power-on. Input wires keep their levels: their drivers own them."""
        for cpu in self.cpus:
            if cpu.line:
                self._on_change(cpu.index, False)
        self.cpus = [
            GicCpu(cpu.index, bits=replace(private_interrupts(), level=cpu.bits.level)) for cpu in self.cpus
        ]
        self.current = 0
        self.spi = Interrupts(level=self.spi.level)
        self.priorities = [0] * self.count
        """Of the SPIs, by INTID."""
        self.targets = [0] * self.count
        """Target CPUs of the SPIs, one bit each, by INTID."""
        self.ctlr = GicdCtlr(0)

    def bits_of(self, cpu: GicCpu, intid: int) -> Interrupts:
        """Return the states that hold ``intid``, seen from ``cpu``: its banked ones or the shared ones."""
        return cpu.bits if intid < SPI_BASE else self.spi

    def set_targets(self, intid: int, targets: int) -> None:
        """Set an SPI's target CPUs."""
        self.targets[intid] = targets
        bit = 1 << intid
        for cpu in self.cpus:
            cpu.targeted = cpu.targeted | bit if targets >> cpu.index & 1 else cpu.targeted & ~bit

    def set_gates(self) -> None:
        """Derive the interrupts of enabled groups."""
        for cpu in self.cpus:
            group1 = cpu.bits.group | self.spi.group
            cpu.gate = 0
            if self.ctlr.enable_group0 and cpu.ctlr.enable_group0:
                cpu.gate = ((1 << self.count) - 1) & ~group1
            if self.ctlr.enable_group1 and cpu.ctlr.enable_group1:
                cpu.gate |= group1

    def refresh_all(self) -> None:
        """:meth:`refresh` every CPU."""
        for cpu in self.cpus:
            self.refresh(cpu)

    def refresh(self, cpu: GicCpu) -> None:
        """Find the highest-priority pending interrupt of a CPU, and set its IRQ input."""
        own, spi = cpu.bits, self.spi
        ready = (own.latched | own.level & ~own.edge) & own.enabled & ~own.active
        if spi.enabled:
            ready |= spi.pending() & spi.enabled & ~spi.active & cpu.targeted
        ready &= cpu.gate
        if ready:
            line = self._choose(cpu, ready)
        else:
            cpu.best = -1
            line = False
        if line is not cpu.line:
            cpu.line = line
            self._on_change(cpu.index, line)

    def _choose(self, cpu: GicCpu, ready: int) -> bool:
        """Record the highest-priority interrupt of ``ready``; return whether it may interrupt now (3.3)."""
        best, priority = -1, IDLE
        while ready:
            bit = ready & -ready
            intid = bit.bit_length() - 1
            candidate = cpu.priorities[intid] if intid < SPI_BASE else self.priorities[intid]
            if candidate < priority:
                best, priority = intid, candidate
            ready ^= bit
        cpu.best = best
        cpu.best_group = self.bits_of(cpu, best).group >> best & 1
        cpu.best_running = priority & cpu.group_masks[cpu.best_group]
        return priority < cpu.pmr and cpu.best_running < cpu.running


CpuBits: TypeAlias = Annotated[int, bits(0xFF)]


@dataclass(frozen=True)
class SavedGicCpu:
    """A CPU's banked interrupts, and its interface's registers."""

    bits: SavedInterrupts
    priorities: Annotated[list[Priority], length(SPI_BASE, SPI_BASE)]
    sources: Annotated[list[CpuBits], length(SGIS, SGIS)]
    ctlr: Annotated[int, bits(GICC_CTLR_WRITABLE)]
    pmr: Priority
    bpr: Annotated[int, within(MIN_BPR, 7)]
    abpr: Annotated[int, within(MIN_BPR + 1, 7)]
    apr: U32


@dataclass(frozen=True)
class GicV2State:
    """A GICv2 without its wires and without derived state."""

    ctlr: Annotated[int, bits(GicdCtlr.of(enable_group0=1, enable_group1=1))]
    """GICD_CTLR."""
    spi: SavedInterrupts
    priorities: list[Priority]
    """Of the SPIs, from INTID 32 on."""
    targets: list[CpuBits]
    cpus: list[SavedGicCpu]


def save(state: GicState) -> GicV2State:
    """Return a controller's state to save."""
    return GicV2State(
        ctlr=int(state.ctlr),
        spi=SavedInterrupts.of(state.spi),
        priorities=state.priorities[SPI_BASE:],
        targets=state.targets[SPI_BASE:],
        cpus=[
            SavedGicCpu(
                bits=SavedInterrupts.of(cpu.bits),
                priorities=list(cpu.priorities),
                sources=list(cpu.sources),
                ctlr=int(cpu.ctlr),
                pmr=cpu.pmr,
                bpr=cpu.bpr,
                abpr=cpu.abpr,
                apr=cpu.apr,
            )
            for cpu in state.cpus
        ],
    )


def restore(state: GicState, new: GicV2State) -> None:
    """Bring a controller into a saved state. Its input wires keep their levels: their drivers own them.

    :raises SavedStateError: no such controller can be in this state.
    """
    _check(state, new)
    state.ctlr = GicdCtlr(new.ctlr)
    new.spi.restore(state.spi)
    state.priorities[SPI_BASE:] = new.priorities
    for intid, targets in enumerate(new.targets, SPI_BASE):
        state.set_targets(intid, targets)
    for cpu, saved in zip(state.cpus, new.cpus, strict=True):
        saved.bits.restore(cpu.bits)
        cpu.priorities, cpu.sources = list(saved.priorities), list(saved.sources)
        cpu.ctlr, cpu.pmr = GiccCtlr(saved.ctlr), saved.pmr
        cpu.set_binary_points(saved.bpr, saved.abpr)
        cpu.set_active_priorities(saved.apr)
    state.set_gates()
    state.refresh_all()


def _check(state: GicState, new: GicV2State) -> None:
    """Check that the controller of ``state`` can be in the ``new`` state, whose fields have their ranges.

    :raises SavedStateError: it cannot.
    """
    if len(new.cpus) != len(state.cpus):
        raise SavedStateError(
            f"cpus of the GICv2: {len(new.cpus)} are saved, this machine has {len(state.cpus)}"
        )
    spis = state.count - SPI_BASE
    everyone = (1 << len(state.cpus)) - 1
    _expect("spi", new.spi.has_only((1 << state.count) - (1 << SPI_BASE)))
    _expect("priorities", len(new.priorities) == spis)
    _expect("targets", len(new.targets) == spis and not any(target & ~everyone for target in new.targets))
    for cpu in new.cpus:
        _expect("bits", cpu.bits.has_only(PRIVATE_MASK))
        _expect("edge", cpu.bits.edge == SGI_MASK)
        _expect("sources", not any(source & ~everyone for source in cpu.sources))
        pending = sum(1 << sgi for sgi, sources in enumerate(cpu.sources) if sources)
        _expect("latched bits and sources of the SGIs", cpu.bits.latched & SGI_MASK == pending)


def _expect(what: str, possible: bool) -> None:
    if not possible:
        raise SavedStateError(f"{what} of the GICv2: the values are impossible in this machine")
