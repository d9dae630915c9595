# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of KVM's GICv3, register by register, as the attributes of its device name it.

Source: the kernel's Documentation/virt/kvm/devices/arm-vgic-v3.rst; offsets: Arm IHI 0069. Registers of LPIs
are not among them: a guest has none without an ITS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.abi.gicv2 import Gicd
from pvtime.abi.gicv3 import GICD_IROUTER, SGI_FRAME, IccCtlr
from pvtime.abi.kvm_device import VgicGroup
from pvtime.abi.kvm_reg import SysregIndex
from pvtime.abi.layout import Field, Register
from pvtime.records import dataclass

__all__ = ["ICC_CTLR_EL1", "VgicRegister", "cpu_registers", "distributor_registers"]

PRIVATE: Final = 32
"""SGIs and PPIs, which are every CPU's own."""


class RegisterAttr(Register):
    """Attribute of DIST_REGS, REDIST_REGS and CPU_SYSREGS."""

    mpidr = Field(63, 32)
    """Affinity fields, 3 to 0; the distributor has no use for them."""
    number = Field(31, 0)
    """Byte offset, or a system register's instruction."""


class LevelAttr(Register):
    """Attribute of LEVEL_INFO; ``info`` is 0, the lines' levels."""

    mpidr = Field(63, 32)
    info = Field(31, 10)
    intid = Field(9, 0)
    """The first of 32."""


@dataclass(frozen=True)
class VgicRegister:
    """A register: its name, and the attribute that it is, seen from the CPU with affinity 0."""

    name: str
    group: VgicGroup
    number: int

    @property
    def is_wide(self) -> bool:
        """It is a u64 by pointer; else a u32."""
        return self.group is VgicGroup.CPU_SYSREGS

    def attr(self, mpidr: int) -> int:
        """Return the attribute of the CPU with this affinity."""
        return int(RegisterAttr.of(mpidr=mpidr, number=self.number))


def distributor_registers(intids: int) -> Iterator[VgicRegister]:
    """Yield the distributor's registers where there are so many interrupts, in the order to set them."""
    group = VgicGroup.DIST_REGS
    yield VgicRegister("GICD_IIDR", group, Gicd.IIDR)
    yield VgicRegister("GICD_CTLR", group, Gicd.CTLR)
    for intid in range(PRIVATE, intids):
        for half, name in ((0, "low"), (4, "high")):
            yield VgicRegister(f"GICD_IROUTER{intid} {name}", group, GICD_IROUTER + 8 * intid + half)
    yield from _interrupts("GICD", group, 0, range(PRIVATE, intids))


def cpu_registers(control: IccCtlr) -> Iterator[VgicRegister]:
    """Yield a CPU's registers: redistributor, then CPU interface, whose ICC_CTLR_EL1 is ``control``."""
    yield from _interrupts("GICR", VgicGroup.REDIST_REGS, SGI_FRAME, range(PRIVATE))
    yield _icc("ICC_SRE_EL1", 12, 12, 5)
    yield ICC_CTLR_EL1
    yield _icc("ICC_IGRPEN0_EL1", 12, 12, 6)
    yield _icc("ICC_IGRPEN1_EL1", 12, 12, 7)
    yield _icc("ICC_PMR_EL1", 4, 6, 0)
    yield _icc("ICC_BPR0_EL1", 12, 8, 3)
    yield _icc("ICC_BPR1_EL1", 12, 12, 3)
    for index in range(control.active_priorities):
        yield _icc(f"ICC_AP0R{index}_EL1", 12, 8, 4 + index)
        yield _icc(f"ICC_AP1R{index}_EL1", 12, 9, index)


def _interrupts(prefix: str, group: VgicGroup, base: int, intids: range) -> Iterator[VgicRegister]:
    """Yield the per-interrupt registers in restore order.

    Configuration comes before the line levels, and these before pending and active state.
    """

    def array(register: Gicd, bits: int) -> Iterator[VgicRegister]:
        for index in range(intids.start * bits // 32, intids.stop * bits // 32):
            yield VgicRegister(f"{prefix}_{register.name}{index}", group, base + register + 4 * index)

    yield from array(Gicd.IGROUPR, 1)
    yield from array(Gicd.ISENABLER, 1)
    yield from array(Gicd.ICFGR, 2)
    yield from array(Gicd.IPRIORITYR, 8)
    for first in range(intids.start, intids.stop, 32):
        level = int(LevelAttr.of(info=0, intid=first))
        yield VgicRegister(f"{prefix} line levels {first}", VgicGroup.LEVEL_INFO, level)
    yield from array(Gicd.ISPENDR, 1)
    yield from array(Gicd.ISACTIVER, 1)


def _icc(name: str, crn: int, crm: int, op2: int) -> VgicRegister:
    index = SysregIndex.of(op0=3, op1=0, crn=crn, crm=crm, op2=op2)
    return VgicRegister(name, VgicGroup.CPU_SYSREGS, int(index))


ICC_CTLR_EL1: Final = _icc("ICC_CTLR_EL1", 12, 12, 4)
