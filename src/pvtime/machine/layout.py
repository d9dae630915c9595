# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout of the guest's physical address space (IPA).

::

    0x0100_0000  +---------------------------+
                 | GICv3 redistributors,     |   those of vCPU 123 and up
                 | 128 KiB each              |
    0x0800_0000  +---------------------------+
                 | GIC distributor    64 KiB |
    0x0801_0000  +---------------------------+
                 | GICv2 CPU interf.  64 KiB |
    0x080a_0000  +---------------------------+
                 | GICv3 redistributors,     |   up to vCPU 122
                 | 128 KiB each              |
    0x0900_0000  +---------------------------+
                 | serial port 0      64 KiB |   the console
    0x0901_0000  +---------------------------+
                 | serial port 1      64 KiB |   the stock userland's agent
    0x090a_0000  +---------------------------+
                 | stolen time        64 KiB |   one 64-byte structure per vCPU; not in the memory node
    0x0a00_0000  +---------------------------+
                 | virtio devices            |   the disks of a machine that has some
                 | 64 KiB each               |
    0x4000_0000  +---------------------------+
                 | RAM            --memory   |
                 +---------------------------+

RAM, stolen time and the first disk are where QEMU's ``virt`` machine has them, so that dumps read alike.
Every region is aligned to 64 KiB, the largest page of an arm64 host: any of them can have a memory slot of
its own.
"""

from __future__ import annotations

import itertools
from typing import Final

from pvtime.abi.gicv3 import REDISTRIBUTOR_SIZE
from pvtime.abi.pvtime import REGION_ALIGN
from pvtime.errors import UsageError
from pvtime.records import dataclass

__all__ = [
    "AGENT",
    "CONSOLE",
    "DISKS",
    "GIC_CPU_INTERFACE",
    "GIC_DISTRIBUTOR",
    "IPA_END",
    "MAX_GICV2_VCPUS",
    "MAX_VCPUS",
    "RAM_BASE",
    "STOLEN_TIME",
    "Region",
    "affinity",
    "redistributors",
    "refuse_overlap",
]

MAX_GICV2_VCPUS: Final = 8
"""GICv2 addresses eight CPU interfaces."""

MAX_VCPUS: Final = 512
"""As many as KVM has with a GICv3 (KVM_MAX_VCPUS in arch/arm64/include/asm/kvm_host.h). The region for stolen
time has room for twice as many structures."""


@dataclass(frozen=True)
class Region:
    """``size`` bytes of guest physical address space from ``base`` on."""

    name: str
    base: int
    size: int

    @property
    def end(self) -> int:
        """First address behind the region."""
        return self.base + self.size

    def overlaps(self, other: Region) -> bool:
        """Whether the two share an address."""
        return self.base < other.end and other.base < self.end

    def __str__(self) -> str:
        return f"{self.name} ({self.base:#x}..{self.end - 1:#x})"


GIC_DISTRIBUTOR: Final = Region("GIC distributor", 0x0800_0000, 0x1_0000)
GIC_CPU_INTERFACE: Final = Region("GIC CPU interface", 0x0801_0000, 0x1_0000)
_REDISTRIBUTORS: Final = 0x080A_0000, 0x0100_0000
"""Base of the first ones, as in QEMU's machine, and of the others."""
CONSOLE: Final = Region("serial port 0", 0x0900_0000, 0x1_0000)
AGENT: Final = Region("serial port 1", 0x0901_0000, 0x1_0000)
STOLEN_TIME: Final = Region("stolen time", 0x090A_0000, REGION_ALIGN)
DISKS: Final = [Region(f"disk {index}", 0x0A00_0000 + index * 0x1_0000, 0x1_0000) for index in range(2)]
"""The places of disks; a machine has as many of them as it has disks."""
RAM_BASE: Final = 0x4000_0000

IPA_END: Final = 1 << 40
"""End of the guest physical address space of KVM's usual VM, and of the emulated CPU with the fewest bits."""


def affinity(index: int) -> int:
    """Return a vCPU's affinity fields in MPIDR_EL1, as KVM numbers vCPUs (reset_mpidr in its sys_regs.c).

    A GICv3 reaches 16 of them by one SGI.
    """
    return index & 0xF | (index >> 4 & 0xFF) << 8


def redistributors(vcpus: int) -> list[Region]:
    """Return the regions of a GICv3's redistributors, in the order of the vCPUs."""
    first, more = _REDISTRIBUTORS
    fit = min(vcpus, (CONSOLE.base - first) // REDISTRIBUTOR_SIZE)
    regions = [Region("GIC redistributors", first, fit * REDISTRIBUTOR_SIZE)]
    if vcpus > fit:
        regions.append(Region("more GIC redistributors", more, (vcpus - fit) * REDISTRIBUTOR_SIZE))
    return regions


def refuse_overlap(regions: list[Region]) -> None:
    """Check that no two regions share an address.

    :raises UsageError: two do; the message names both.
    """
    ordered = sorted(regions, key=lambda region: region.base)
    for below, above in itertools.pairwise(ordered):
        if below.overlaps(above):
            raise UsageError(f"{above} overlaps {below}: move one of them")
