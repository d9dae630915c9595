# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt that wakes a vCPU of the probe from WFI: a wire of its own, which the host pulls.

The vCPU neither takes the interrupt nor acknowledges it: that it is pending ends a WFI, and it is pending for
as long as the wire is high.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pvtime.abi.gicv2 import SPI_BASE, Gicc, GiccCtlr, Gicd, GicdCtlr
from pvtime.abi.gicv3 import GICD_IROUTER, ICC_IGRPEN1_EL1, ICC_PMR_EL1
from pvtime.machine.layout import GIC_CPU_INTERFACE, GIC_DISTRIBUTOR
from pvtime.probe.instruction import ID_AA64PFR0_EL1, MPIDR_EL1, IdAa64Pfr0

if TYPE_CHECKING:
    from pvtime.probe.probe import Probe

__all__ = ["FIRST_SPI", "enable_wakeup"]

FIRST_SPI: Final = 16
"""vCPU 0's, counted from 0; the others' follow. The serial ports have the first ones."""

_ANY_PRIORITY: Final = 0xFF
_WORD: Final = 4


def enable_wakeup(probe: Probe, vcpu: int) -> None:
    """Have the interrupt controller, a GICv2 or GICv3, pass a vCPU's interrupt on; harmless when repeated."""
    intid = SPI_BASE + FIRST_SPI + vcpu
    distributor = GIC_DISTRIBUTOR.base
    if IdAa64Pfr0(probe.read_register(vcpu, ID_AA64PFR0_EL1)).gic:
        affinity = probe.read_register(vcpu, MPIDR_EL1) & 0xFF
        probe.store(vcpu, distributor + GICD_IROUTER + 8 * intid, affinity)
        probe.write_register(vcpu, ICC_PMR_EL1, _ANY_PRIORITY)
        probe.write_register(vcpu, ICC_IGRPEN1_EL1, 1)
    else:
        probe.store(vcpu, distributor + Gicd.ITARGETSR + intid, 1 << vcpu, size=1)
        probe.store(vcpu, GIC_CPU_INTERFACE.base + Gicc.PMR, _ANY_PRIORITY, _WORD)
        on = GiccCtlr.of(enable_group0=1, enable_group1=1)
        probe.store(vcpu, GIC_CPU_INTERFACE.base + Gicc.CTLR, on, _WORD)
    # KVM's are edge-triggered at reset; nobody else has one of these sixteen.
    probe.store(vcpu, distributor + Gicd.ICFGR + intid // 16 * _WORD, 0, _WORD)
    enabled = Gicd.ISENABLER + intid // 32 * _WORD
    probe.store(vcpu, distributor + enabled, 1 << intid % 32, _WORD)
    probe.store(vcpu, distributor + Gicd.CTLR, GicdCtlr.of(enable_group0=1, enable_group1=1), _WORD)
