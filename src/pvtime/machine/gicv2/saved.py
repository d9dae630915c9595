# SPDX-License-Identifier: GPL-2.0-or-later
"""What is saved of the interrupt controller, and whether a controller can be in such a state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pvtime.abi.gicv2 import SGIS, SPI_BASE, GiccCtlr, GicdCtlr
from pvtime.errors import SavedStateError
from pvtime.machine.gicv2.state import (
    GICC_CTLR_KEPT,
    MIN_BPR,
    PRIORITY_MASK,
    SGI_MASK,
    Bits,
    GicState,
)

__all__ = ["GicBits", "GicCpuState", "GicV2State", "restore", "take"]


@dataclass(frozen=True)
class GicBits:
    """States of interrupts, without the wires; bit n is INTID n."""

    enabled: int
    latched: int
    edge: int
    active: int
    group: int


@dataclass(frozen=True)
class GicCpuState:
    """What is banked for a CPU, and its interface's registers."""

    bits: GicBits
    priorities: list[int]
    sources: list[int]
    ctlr: int
    pmr: int
    bpr: int
    abpr: int
    apr: int


@dataclass(frozen=True)
class GicV2State:
    """All of a GICv2 but its wires, and what follows from the rest."""

    ctlr: int
    """GICD_CTLR."""
    spi: GicBits
    priorities: list[int]
    """Of SPIs; the first is INTID 32's."""
    targets: list[int]
    cpus: list[GicCpuState]


def take(state: GicState) -> GicV2State:
    """Return what is to be saved of a controller."""
    return GicV2State(
        ctlr=int(state.ctlr),
        spi=_bits(state.spi),
        priorities=state.priorities[SPI_BASE:],
        targets=state.targets[SPI_BASE:],
        cpus=[
            GicCpuState(
                bits=_bits(cpu.bits),
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
    """Bring a controller into a saved state; its wires stay as whoever drives them has them.

    :raises SavedStateError: it cannot be in this state.
    """
    _check(state, new)
    state.ctlr = GicdCtlr(new.ctlr)
    _set_bits(state.spi, new.spi)
    state.priorities[SPI_BASE:] = new.priorities
    for intid, targets in enumerate(new.targets, SPI_BASE):
        state.set_targets(intid, targets)
    for cpu, its in zip(state.cpus, new.cpus, strict=True):
        _set_bits(cpu.bits, its.bits)
        cpu.priorities, cpu.sources = list(its.priorities), list(its.sources)
        cpu.ctlr, cpu.pmr = GiccCtlr(its.ctlr), its.pmr
        cpu.set_binary_points(its.bpr, its.abpr)
        cpu.set_active_priorities(its.apr)
    state.set_gates()
    state.refresh_all()


def _bits(bits: Bits) -> GicBits:
    return GicBits(bits.enabled, bits.latched, bits.edge, bits.active, bits.group)


def _set_bits(bits: Bits, new: GicBits) -> None:
    bits.enabled, bits.latched, bits.edge = new.enabled, new.latched, new.edge
    bits.active, bits.group = new.active, new.group


def _check(state: GicState, new: GicV2State) -> None:
    """Check that ``state``'s controller can be in the ``new`` state.

    :raises SavedStateError: it cannot.
    """
    if len(new.cpus) != len(state.cpus):
        raise SavedStateError(f"the saved GICv2 has {len(new.cpus)} CPUs, this machine {len(state.cpus)}")
    spis = state.count - SPI_BASE
    everyone = (1 << len(state.cpus)) - 1
    shared = (1 << state.count) - (1 << SPI_BASE)
    _expect("GICD_CTLR", _within(new.ctlr, GicdCtlr.of(enable_group0=1, enable_group1=1)))
    _expect("SPI", _bits_within(new.spi, shared))
    _expect("SPI priority", _all_within(new.priorities, spis, PRIORITY_MASK))
    _expect("SPI target", _all_within(new.targets, spis, everyone))
    for cpu in new.cpus:
        _check_cpu(cpu, everyone)


def _check_cpu(cpu: GicCpuState, everyone: int) -> None:
    _expect("SGI or PPI", _bits_within(cpu.bits, (1 << SPI_BASE) - 1))
    _expect("SGI or PPI priority", _all_within(cpu.priorities, SPI_BASE, PRIORITY_MASK))
    _expect("SGI source", _all_within(cpu.sources, SGIS, everyone))
    pending = sum(1 << sgi for sgi, sources in enumerate(cpu.sources) if sources)
    _expect("pending SGI", cpu.bits.latched & SGI_MASK == pending)
    _expect("GICD_ICFGR0 or GICD_ICFGR1", cpu.bits.edge == SGI_MASK)
    _expect("GICC_CTLR", _within(cpu.ctlr, GICC_CTLR_KEPT))
    _expect("GICC_PMR", _within(cpu.pmr, PRIORITY_MASK))
    _expect("GICC_BPR", MIN_BPR <= cpu.bpr <= 7)
    _expect("GICC_ABPR", MIN_BPR < cpu.abpr <= 7)
    _expect("GICC_APR0", _within(cpu.apr, (1 << 32) - 1))


def _expect(what: str, possible: bool) -> None:
    if not possible:
        raise SavedStateError(f"the saved GICv2 has an impossible {what}")


def _within(value: int, mask: int) -> bool:
    return value & ~mask == 0


def _all_within(values: Sequence[int], count: int, mask: int) -> bool:
    return len(values) == count and all(_within(value, mask) for value in values)


def _bits_within(bits: GicBits, mask: int) -> bool:
    return all(_within(value, mask) for value in vars(bits).values())
