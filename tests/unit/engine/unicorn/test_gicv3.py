# SPDX-License-Identifier: GPL-2.0-or-later
"""The GICv3's system registers, which the library's CPU does not have: payloads that use them."""

from __future__ import annotations

from typing import Final

from framework.payload import Payload, both_cores, run
from pvtime.abi.arm64 import CNTP_CTL_EL0, ID_AA64PFR0_EL1, Esr, ExceptionClass, IdAa64Pfr0, SysReg
from pvtime.abi.gicv2 import SPURIOUS, Gicd
from pvtime.abi.gicv3 import (
    ICC_EOIR1_EL1,
    ICC_HPPIR1_EL1,
    ICC_IAR1_EL1,
    ICC_IGRPEN1_EL1,
    ICC_PMR_EL1,
    ICC_SGI1R_EL1,
    ICC_SRE_EL1,
    REDISTRIBUTOR_SIZE,
    SGI_FRAME,
    GicdCtlr3,
    IccSgi1r,
)
from pvtime.machine.gic import GicVersion
from pvtime.machine.layout import GIC_DISTRIBUTOR, affinity, redistributors
from pvtime.machine.timer import PHYSICAL_TIMER_PPI
from pvtime.probe.assembler import ELR_EL1, ESR_EL1

V3: Final = GicVersion.V3
TIMER: Final = 16 + PHYSICAL_TIMER_PPI
SGI: Final = 5
FAR: Final = 17
"""The vCPU that is the second of the second cluster."""
SPSR_EL1: Final = SysReg(3, 0, 4, 0, 0)

pytestmark = both_cores


class Interrupted(Payload):
    """A payload with a GICv3."""

    def use_gic(self, vcpu: int = 0) -> Interrupted:
        """Enable every private interrupt at this vCPU."""
        own = redistributors(FAR + 1)[0].base + vcpu * REDISTRIBUTOR_SIZE + SGI_FRAME
        self.use_vectors().mov(20, GIC_DISTRIBUTOR.base).mov(21, own)
        self.mov(1, 0xFFFF_FFFF).store(1, 21, Gicd.ISENABLER, size=4)
        self.mov(1, GicdCtlr3.of(enable_group1=1)).store(1, 20, Gicd.CTLR, size=4)
        self.mov(1, 0xFF).msr(ICC_PMR_EL1, 1).mov(1, 1).msr(ICC_IGRPEN1_EL1, 1)
        return self

    def acknowledge(self) -> Interrupted:
        """Take the interrupt into X22 and complete it."""
        self.mrs(22, ICC_IAR1_EL1).msr(ICC_EOIR1_EL1, 22)
        return self

    def send(self, sgi: IccSgi1r) -> Interrupted:
        """Send an SGI."""
        self.mov(1, sgi).msr(ICC_SGI1R_EL1, 1)
        return self


def test_the_cpu_says_that_it_has_a_gicv3(internals: str) -> None:
    payload = Payload().mrs(1, ID_AA64PFR0_EL1).keep(1, 0).mrs(1, ICC_SRE_EL1).keep(1, 1).power_off()
    features, enable = run(payload, internals, gic=V3).results[:2]
    assert (IdAa64Pfr0(features).gic, enable) == (1, 7)
    without = Payload().mrs(1, ID_AA64PFR0_EL1).keep(1, 0).power_off()
    assert features & ~(0xF << 24) == run(without, internals, gic=GicVersion.V2).results[0]


def test_a_machine_with_a_gicv2_has_none_of_the_registers(internals: str) -> None:
    payload = Payload().use_vectors().mrs(1, ICC_SRE_EL1).power_off()
    payload.vectors(sync="sync").label("sync").mov(1, 1).keep(1, 4).keep_fault(0).power_off()
    results = run(payload, internals, gic=GicVersion.V2).results
    assert results[4] == 1
    assert Esr(results[0]).ec == ExceptionClass.UNKNOWN


def test_a_register_that_no_gic_has_is_undefined(internals: str) -> None:
    payload = Payload().use_vectors().label("here").mrs(1, ICC_EOIR1_EL1).power_off()
    payload.vectors(sync="sync").label("sync").keep_fault(0).power_off()
    esr, _, elr = run(payload, internals, gic=V3).results[:3]
    assert (Esr(esr).ec, elr) == (ExceptionClass.UNKNOWN, payload.address("here"))


def test_a_program_at_el0_reaches_none_of_them(internals: str) -> None:
    payload = Payload().use_vectors().mov(1, 0).msr(SPSR_EL1, 1).adr(1, "user").msr(ELR_EL1, 1).eret()
    payload.label("user").mrs(1, ICC_IAR1_EL1).b("user").align(0x800).label("vectors")
    for offset in range(0, 0x800, 0x80):
        payload.b("lower" if offset == 0x400 else "stuck").align(0x80)
    payload.label("lower").mrs(1, ESR_EL1).keep(1, 0).mrs(1, ELR_EL1).keep(1, 1).label("stuck").power_off()
    esr, elr = run(payload, internals, gic=V3).results[:2]
    assert (Esr(esr).ec, elr) == (ExceptionClass.UNKNOWN, payload.address("user"))


def test_the_timer_interrupts_a_guest_that_spins(internals: str) -> None:
    payload = Interrupted().use_gic().mov(1, 1).msr(CNTP_CTL_EL0, 1).unmask_irq().label("spin").b("spin")
    payload.vectors(irq="irq").label("irq").mrs(22, ICC_IAR1_EL1).msr(CNTP_CTL_EL0, 31)
    payload.msr(ICC_EOIR1_EL1, 22).keep(22, 0).mrs(1, ICC_HPPIR1_EL1).keep(1, 1).power_off()
    assert run(payload, internals, gic=V3).results[:2] == (TIMER, SPURIOUS)


def test_a_message_reaches_a_vcpu_of_another_cluster_and_no_other(internals: str) -> None:
    mpidr = affinity(FAR)
    payload = Interrupted().use_gic().cpu_on(mpidr, "far").await_result(1)
    payload.send(IccSgi1r.of(aff1=mpidr >> 8, targets=1 << (mpidr & 0xF), intid=SGI)).await_result(0)
    payload.mrs(1, ICC_HPPIR1_EL1).keep(1, 2)
    payload.send(IccSgi1r.of(to_others=1, intid=SGI + 1)).await_result(3).mrs(1, ICC_HPPIR1_EL1).keep(1, 4)
    payload.power_off()
    payload.label("far").use_gic(FAR).mov(1, 1).keep(1, 1).wfi().acknowledge().keep(22, 0)
    payload.unmask_irq().label("sleep").wfi().b("sleep")
    payload.vectors(irq="irq").label("irq").acknowledge().keep(22, 3).label("over").wfi().b("over")
    results = run(payload, internals, vcpus=FAR + 1).results
    assert results[:5] == (SGI, 1, SPURIOUS, SGI + 1, SPURIOUS)
