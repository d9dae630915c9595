# SPDX-License-Identifier: GPL-2.0-or-later
"""The saved state of the interrupt controller, and the check of one that is restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pvtime.abi.gicv2 import SGIS, SPI_BASE, GiccCtlr, GicdCtlr
from pvtime.errors import SavedStateError
from pvtime.machine.gicv2.state import (
    GICC_CTLR_WRITABLE,
    MIN_BPR,
    PRIORITY_MASK,
    SGI_MASK,
    GicState,
    Interrupts,
)

__all__ = ["GicV2State", "SavedGicCpu", "SavedInterrupts", "restore", "take"]


@dataclass(frozen=True)
class SavedInterrupts:
    """States of interrupts, without their wires; bit n is INTID n."""

    enabled: int
    latched: int
    edge: int
    active: int
    group: int


@dataclass(frozen=True)
class SavedGicCpu:
    """A CPU's banked interrupts, and its interface's registers."""

    bits: SavedInterrupts
    priorities: list[int]
    sources: list[int]
    ctlr: int
    pmr: int
    bpr: int
    abpr: int
    apr: int


@dataclass(frozen=True)
class GicV2State:
    """A GICv2 without its wires and without derived state."""

    ctlr: int
    """GICD_CTLR."""
    spi: SavedInterrupts
    priorities: list[int]
    """Of the SPIs, from INTID 32 on."""
    targets: list[int]
    cpus: list[SavedGicCpu]


def take(state: GicState) -> GicV2State:
    """Return a controller's state to save."""
    return GicV2State(
        ctlr=int(state.ctlr),
        spi=_bits(state.spi),
        priorities=state.priorities[SPI_BASE:],
        targets=state.targets[SPI_BASE:],
        cpus=[
            SavedGicCpu(
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
    """Bring a controller into a saved state. Its input wires keep their levels: their drivers own them.

    :raises SavedStateError: no such controller can be in this state.
    """
    _check(state, new)
    state.ctlr = GicdCtlr(new.ctlr)
    _set_bits(state.spi, new.spi)
    state.priorities[SPI_BASE:] = new.priorities
    for intid, targets in enumerate(new.targets, SPI_BASE):
        state.set_targets(intid, targets)
    for cpu, saved in zip(state.cpus, new.cpus, strict=True):
        _set_bits(cpu.bits, saved.bits)
        cpu.priorities, cpu.sources = list(saved.priorities), list(saved.sources)
        cpu.ctlr, cpu.pmr = GiccCtlr(saved.ctlr), saved.pmr
        cpu.set_binary_points(saved.bpr, saved.abpr)
        cpu.set_active_priorities(saved.apr)
    state.set_gates()
    state.refresh_all()


def _bits(bits: Interrupts) -> SavedInterrupts:
    return SavedInterrupts(bits.enabled, bits.latched, bits.edge, bits.active, bits.group)


def _set_bits(bits: Interrupts, new: SavedInterrupts) -> None:
    bits.enabled, bits.latched, bits.edge = new.enabled, new.latched, new.edge
    bits.active, bits.group = new.active, new.group


def _check(state: GicState, new: GicV2State) -> None:
    """Check that the controller of ``state`` can be in the ``new`` state.

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


def _check_cpu(cpu: SavedGicCpu, everyone: int) -> None:
    _expect("SGI or PPI", _bits_within(cpu.bits, (1 << SPI_BASE) - 1))
    _expect("SGI or PPI priority", _all_within(cpu.priorities, SPI_BASE, PRIORITY_MASK))
    _expect("SGI source", _all_within(cpu.sources, SGIS, everyone))
    pending = sum(1 << sgi for sgi, sources in enumerate(cpu.sources) if sources)
    _expect("pending SGI", cpu.bits.latched & SGI_MASK == pending)
    _expect("GICD_ICFGR0 or GICD_ICFGR1", cpu.bits.edge == SGI_MASK)
    _expect("GICC_CTLR", _within(cpu.ctlr, GICC_CTLR_WRITABLE))
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


def _bits_within(bits: SavedInterrupts, mask: int) -> bool:
    return all(_within(value, mask) for value in vars(bits).values())
