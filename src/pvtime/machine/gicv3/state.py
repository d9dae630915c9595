# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of a GICv3, and the choice of the interrupt that a CPU takes (IHI 0069 chapter 4).

The saved form has neither wires nor what follows from the rest; it is checked before a controller is brought
into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field, replace
from typing import Annotated, Final

from pvtime.abi.gicv2 import SPI_BASE
from pvtime.abi.gicv3 import GicdCtlr3, IccCtlr
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
from pvtime.machine.psci import MPIDR_AFFINITY
from pvtime.records import dataclass
from pvtime.schema import U32, bits, length, within

__all__ = [
    "GICD_CTLR_WRITABLE",
    "ICC_CTLR_WRITABLE",
    "GicV3Cpu",
    "GicV3Internals",
    "GicV3State",
    "restore",
    "save",
]

GICD_CTLR_WRITABLE: Final = GicdCtlr3.of(enable_group1=1)
"""Affinity routing and the one Security state cannot be switched off; there is no group 0."""

ICC_CTLR_WRITABLE: Final = IccCtlr.of(eoi_mode=1, common_bpr=1)


@dataclass(slots=True)
class GicV3Cpu:
    """A CPU's redistributor and interface."""

    index: int
    mpidr: int
    """The CPU's affinity fields, as in MPIDR_EL1."""
    bits: Interrupts = field(default_factory=private_interrupts)
    priorities: list[int] = field(default_factory=lambda: [0] * SPI_BASE)
    targeted: int = 0
    """SPIs that are routed to this CPU."""
    ctlr: IccCtlr = field(default_factory=IccCtlr)
    """ICC_CTLR_EL1, the bits that can be written."""
    enabled: bool = False
    """ICC_IGRPEN1_EL1."""
    pmr: int = 0
    bpr0: int = MIN_BPR
    bpr1: int = MIN_BPR + 1
    group_mask: int = PRIORITY_MASK
    """Group priority field, the part that decides on preemption."""
    apr: int = 0
    """Active priorities (ICC_AP1R0_EL1): bit n is group priority n << 3."""
    running: int = IDLE
    best: int = -1
    """The highest-priority pending interrupt, or -1."""
    best_running: int = IDLE
    """Running priority after its acknowledgement."""
    line: bool = False
    """Level of the CPU's IRQ input."""

    def set_binary_points(self, bpr0: int, bpr1: int) -> None:
        """Set ICC_BPR0_EL1 and ICC_BPR1_EL1, and derive the group priority mask (4.8.2)."""
        self.bpr0 = max(bpr0 & 7, MIN_BPR)
        self.bpr1 = max(bpr1 & 7, MIN_BPR + 1)
        point = self.bpr0 + 1 if self.ctlr.common_bpr else self.bpr1
        self.group_mask = PRIORITY_MASK << point - MIN_BPR - 1 & PRIORITY_MASK

    def set_active_priorities(self, apr: int) -> None:
        """Set ICC_AP1R0_EL1, and derive the running priority."""
        self.apr = apr
        self.running = ((apr & -apr).bit_length() - 1) << 3 if apr else IDLE


class GicV3Internals:
    """The state of all CPUs and of the shared interrupts.

    :param mpidrs: each CPU's affinity fields.
    """

    def __init__(self, mpidrs: Sequence[int], spis: int, on_change: Callable[[int, bool], None]) -> None:
        self.count = SPI_BASE + spis
        self.cpus = [GicV3Cpu(index, mpidr) for index, mpidr in enumerate(mpidrs)]
        self.by_mpidr = dict(zip(mpidrs, range(len(mpidrs)), strict=True))
        """Each CPU's index."""
        self.spi = Interrupts()
        self._on_change = on_change
        self.reset()

    def reset(self) -> None:
        """Return to the state after power-on. Input wires keep their levels: their drivers own them."""
        for cpu in self.cpus:
            if cpu.line:
                self._on_change(cpu.index, False)
        self.cpus = [
            GicV3Cpu(cpu.index, cpu.mpidr, bits=replace(private_interrupts(), level=cpu.bits.level))
            for cpu in self.cpus
        ]
        self.current = 0
        self.spi = Interrupts(level=self.spi.level)
        self.priorities = [0] * self.count
        """Of the SPIs, by INTID."""
        self.routes = [0] * self.count
        """GICD_IROUTER: the affinity fields of the CPU that each SPI goes to, by INTID."""
        self.cpus[0].targeted = (1 << self.count) - (1 << SPI_BASE) if 0 in self.by_mpidr else 0
        self.enabled = False
        """GICD_CTLR.EnableGrp1."""

    def set_route(self, intid: int, affinity: int) -> None:
        """Route an SPI to a CPU. Where there is no such CPU it stays pending."""
        bit = 1 << intid
        for mpidr, add in ((self.routes[intid], False), (affinity, True)):
            index = self.by_mpidr.get(mpidr)
            if index is not None:
                cpu = self.cpus[index]
                cpu.targeted = cpu.targeted | bit if add else cpu.targeted & ~bit
                if not add:
                    self.refresh(cpu)
        self.routes[intid] = affinity

    def refresh_target(self, intid: int) -> None:
        """:meth:`refresh` the CPU that an SPI is routed to."""
        index = self.by_mpidr.get(self.routes[intid])
        if index is not None:
            self.refresh(self.cpus[index])

    def refresh_all(self) -> None:
        """:meth:`refresh` every CPU."""
        for cpu in self.cpus:
            self.refresh(cpu)

    def refresh(self, cpu: GicV3Cpu) -> None:
        """Find the highest-priority pending interrupt of a CPU, and set its IRQ input."""
        own, spi = cpu.bits, self.spi
        ready = (own.latched | own.level & ~own.edge) & own.enabled & ~own.active
        if cpu.targeted and spi.enabled:
            ready |= spi.pending() & spi.enabled & ~spi.active & cpu.targeted
        if ready and cpu.enabled and self.enabled:
            line = self._choose(cpu, ready)
        else:
            cpu.best = -1
            line = False
        if line is not cpu.line:
            cpu.line = line
            self._on_change(cpu.index, line)

    def _choose(self, cpu: GicV3Cpu, ready: int) -> bool:
        """Record the highest-priority interrupt of ``ready``; return whether it may interrupt now (4.8)."""
        best, priority = -1, IDLE
        while ready:
            bit = ready & -ready
            intid = bit.bit_length() - 1
            candidate = cpu.priorities[intid] if intid < SPI_BASE else self.priorities[intid]
            if candidate < priority:
                best, priority = intid, candidate
            ready ^= bit
        cpu.best = best
        cpu.best_running = priority & cpu.group_mask
        return priority < cpu.pmr and cpu.best_running < cpu.running


@dataclass(frozen=True)
class SavedRedistributor:
    """A CPU's SGIs and PPIs, and its interface's registers."""

    bits: SavedInterrupts
    priorities: Annotated[list[Priority], length(SPI_BASE, SPI_BASE)]
    ctlr: Annotated[int, bits(ICC_CTLR_WRITABLE)]
    enabled: bool
    pmr: Priority
    bpr0: Annotated[int, within(MIN_BPR, 7)]
    bpr1: Annotated[int, within(MIN_BPR + 1, 7)]
    apr: U32


@dataclass(frozen=True)
class GicV3State:
    """A GICv3 without its wires and without derived state."""

    enabled: bool
    """GICD_CTLR.EnableGrp1."""
    spi: SavedInterrupts
    priorities: list[Priority]
    """Of the SPIs, from INTID 32 on."""
    routes: list[Annotated[int, bits(MPIDR_AFFINITY)]]
    cpus: list[SavedRedistributor]


def save(state: GicV3Internals) -> GicV3State:
    """Return a controller's state to save."""
    return GicV3State(
        enabled=state.enabled,
        spi=SavedInterrupts.of(state.spi),
        priorities=state.priorities[SPI_BASE:],
        routes=state.routes[SPI_BASE:],
        cpus=[
            SavedRedistributor(
                bits=SavedInterrupts.of(cpu.bits),
                priorities=list(cpu.priorities),
                ctlr=int(cpu.ctlr),
                enabled=cpu.enabled,
                pmr=cpu.pmr,
                bpr0=cpu.bpr0,
                bpr1=cpu.bpr1,
                apr=cpu.apr,
            )
            for cpu in state.cpus
        ],
    )


def restore(state: GicV3Internals, new: GicV3State) -> None:
    """Bring a controller into a saved state. Its input wires keep their levels: their drivers own them.

    :raises SavedStateError: no such controller can be in this state.
    """
    _check(state, new)
    state.enabled = new.enabled
    new.spi.restore(state.spi)
    state.priorities[SPI_BASE:] = new.priorities
    for intid, affinity in enumerate(new.routes, SPI_BASE):
        state.set_route(intid, affinity)
    for cpu, saved in zip(state.cpus, new.cpus, strict=True):
        saved.bits.restore(cpu.bits)
        cpu.priorities = list(saved.priorities)
        cpu.ctlr, cpu.enabled, cpu.pmr = IccCtlr(saved.ctlr), saved.enabled, saved.pmr
        cpu.set_binary_points(saved.bpr0, saved.bpr1)
        cpu.set_active_priorities(saved.apr)
    state.refresh_all()


def _check(state: GicV3Internals, new: GicV3State) -> None:
    """Check that the controller of ``state`` can be in the ``new`` state, whose fields have their ranges.

    :raises SavedStateError: it cannot.
    """
    if len(new.cpus) != len(state.cpus):
        raise SavedStateError(
            f"cpus of the GICv3: {len(new.cpus)} are saved, this machine has {len(state.cpus)}"
        )
    spis = state.count - SPI_BASE
    _expect("spi", new.spi.has_only((1 << state.count) - (1 << SPI_BASE)) and not new.spi.group)
    _expect("priorities", len(new.priorities) == spis)
    _expect("routes", len(new.routes) == spis)
    for cpu in new.cpus:
        _expect("bits", cpu.bits.has_only(PRIVATE_MASK) and not cpu.bits.group)
        _expect("edge", cpu.bits.edge == SGI_MASK)


def _expect(what: str, possible: bool) -> None:
    if not possible:
        raise SavedStateError(f"{what} of the GICv3: the values are impossible in this machine")
