# SPDX-License-Identifier: GPL-2.0-or-later
"""States of interrupts, as GICv2 and GICv3 have them alike (IHI 0048B and IHI 0069).

Each state is an int with a bit for every interrupt, so that "pending, enabled, not active, for this CPU" is a
handful of operations for all interrupts at once. The saved form has no wires: their drivers restore them.
"""

from __future__ import annotations

from typing import Annotated, Final, Self, TypeAlias

from pvtime.abi.gicv2 import SGIS, SPI_BASE
from pvtime.records import dataclass
from pvtime.schema import bits

__all__ = [
    "IDLE",
    "MIN_BPR",
    "PRIORITY_MASK",
    "PRIVATE_MASK",
    "SGI_MASK",
    "Interrupts",
    "Priority",
    "SavedInterrupts",
    "private_interrupts",
]

PRIORITY_MASK: Final = 0xF8
"""Five bits of priority, as KVM has (VGIC_PRI_BITS); the others read as zero."""

IDLE: Final = 0x100
"""Running priority with nothing active: lower than any."""

MIN_BPR: Final = 2
"""With five bits of priority, the binary point cannot be below this (IHI 0048B 3.3.3);
in GICC_ABPR and ICC_BPR1_EL1 one more."""

MAX_INTIDS: Final = 1020
"""INTIDs without an ITS, but for the special ones (IHI 0048B 3.1.1)."""

SGI_MASK: Final = (1 << SGIS) - 1
PRIVATE_MASK: Final = (1 << SPI_BASE) - 1


@dataclass(slots=True)
class Interrupts:
    """States of interrupts; bit n is INTID n."""

    enabled: int = 0
    latched: int = 0
    """Pending, by an edge or by software."""
    level: int = 0
    """The wire."""
    edge: int = 0
    """Edge-triggered; the others are pending while their wire is high."""
    active: int = 0
    group: int = 0
    """In group 1."""

    def pending(self) -> int:
        """Return the pending interrupts."""
        return self.latched | self.level & ~self.edge

    def set_wire(self, bit: int, level: bool) -> bool:
        """Set one wire; return whether it changed."""
        if bool(self.level & bit) == level:
            return False
        self.level ^= bit
        if level:
            self.latched |= self.edge & bit
        return True


def private_interrupts() -> Interrupts:
    """Return a CPU's SGIs and PPIs after power-on.

    As KVM's: SGIs are always enabled to begin with (kvm_vgic_vcpu_init), and are edge-triggered.
    """
    return Interrupts(enabled=SGI_MASK, edge=SGI_MASK)


InterruptBits: TypeAlias = Annotated[int, bits((1 << MAX_INTIDS) - 1)]
Priority: TypeAlias = Annotated[int, bits(PRIORITY_MASK)]


@dataclass(frozen=True)
class SavedInterrupts:
    """States of interrupts, without their wires; bit n is INTID n."""

    enabled: InterruptBits
    latched: InterruptBits
    edge: InterruptBits
    active: InterruptBits
    group: InterruptBits

    @classmethod
    def of(cls, interrupts: Interrupts) -> Self:
        """Return the states to save."""
        return cls(
            interrupts.enabled, interrupts.latched, interrupts.edge, interrupts.active, interrupts.group
        )

    def restore(self, interrupts: Interrupts) -> None:
        """Set ``interrupts`` to these states; their wires keep their levels."""
        interrupts.enabled, interrupts.latched, interrupts.edge = self.enabled, self.latched, self.edge
        interrupts.active, interrupts.group = self.active, self.group

    def has_only(self, mask: int) -> bool:
        """Whether only interrupts of ``mask`` have any state."""
        return not any(value & ~mask for value in vars(self).values())
