# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that idle, compute, or leave all the time: a few instructions each, for the kvm engine."""

from __future__ import annotations

from enum import Enum
from typing import Final

from pvtime.abi.arm64 import SysReg
from pvtime.abi.gicv2 import PPI_BASE, Gicd, GicdCtlr
from pvtime.abi.gicv3 import ICC_EOIR1_EL1, ICC_IAR1_EL1, ICC_IGRPEN1_EL1, ICC_PMR_EL1, SGI_FRAME
from pvtime.abi.ns16550 import Reg
from pvtime.abi.psci import Psci
from pvtime.abi.smccc import Smccc
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import AGENT, GIC_DISTRIBUTOR, RAM_BASE, redistributors
from pvtime.machine.machine import MachineConfig
from pvtime.machine.memory import MIN_MEMORY
from pvtime.probe.assembler import MPIDR_EL1, XZR, Program

__all__ = ["Workload", "workload_guest"]


class Workload(Enum):
    """The work of a guest."""

    IDLE = "idle"
    """It sleeps in WFI; a timer wakes it 250 times a second, as Linux' tick."""
    COMPUTE = "compute"
    """It never leaves by itself."""
    MMIO = "MMIO"
    """It reads a register of a device in user space, and again."""
    HYPERCALL = "hypercalls"
    """It makes a call that the kernel answers, and again."""
    WFI = "WFI"
    """It sleeps in WFI; a timer wakes it 10,000 times a second."""


TIMER_HZ: Final = {Workload.IDLE: 250, Workload.WFI: 10_000}

CNTFRQ_EL0: Final = SysReg(3, 3, 14, 0, 0)
CNTV_TVAL_EL0: Final = SysReg(3, 3, 14, 3, 0)
CNTV_CTL_EL0: Final = SysReg(3, 3, 14, 3, 1)

VIRTUAL_TIMER: Final = PPI_BASE + 11
REDISTRIBUTOR_SHIFT: Final = 17
"""Of the size of a redistributor."""
COUNTER_HZ: Final = 62_500_000
"""CNTFRQ_EL0 of QEMU's CPUs."""
MPIDR_AFF0: Final = 8
"""Bits."""
SLOT_BYTES: Final = 0x1000
"""Bytes of memory that the guest's image takes."""


def workload_guest(workload: Workload, vcpus: int) -> MachineConfig:
    """Return a machine whose vCPUs all do this."""
    program = Program(RAM_BASE)
    for target in range(1, vcpus):
        program.mov(0, Psci.CPU_ON_64).mov(1, target).adr(2, "start").mov(3, 0).hvc()
    program.label("start")
    if workload in TIMER_HZ:
        _sleep(program, COUNTER_HZ // TIMER_HZ[workload])
    elif workload is Workload.MMIO:
        program.mov(1, AGENT.base + Reg.LSR).label("again").load(2, 1, size=1).b("again")
    elif workload is Workload.HYPERCALL:
        program.label("again").mov(0, Smccc.VERSION).hvc().b("again")
    else:
        program.label("again").add(2, 2, 1).b("again")
    return MachineConfig(vcpus, MIN_MEMORY, KernelImage(program.assemble(), 0, SLOT_BYTES, None))


def _sleep(program: Program, ticks: int) -> None:
    """Sleep until the virtual timer's interrupt, acknowledge it, and again: interrupts stay masked."""
    program.mov(1, GIC_DISTRIBUTOR.base).mov(2, GicdCtlr.of(enable_group0=1, enable_group1=1))
    program.store(2, 1, Gicd.CTLR, size=4)
    program.mrs(3, MPIDR_EL1).low_bits(3, 3, MPIDR_AFF0)
    program.mov(1, redistributors(1)[0].base + SGI_FRAME).add_register(1, 1, 3, shift=REDISTRIBUTOR_SHIFT)
    program.mov(2, 1 << VIRTUAL_TIMER).store(2, 1, Gicd.ISENABLER, size=4)
    program.mov(2, 0xFF).msr(ICC_PMR_EL1, 2).mov(2, 1).msr(ICC_IGRPEN1_EL1, 2).isb()
    program.label("again").mov(2, ticks).msr(CNTV_TVAL_EL0, 2).mov(2, 1).msr(CNTV_CTL_EL0, 2).isb()
    program.wfi().msr(CNTV_CTL_EL0, XZR).isb()
    program.mrs(2, ICC_IAR1_EL1).dsb().msr(ICC_EOIR1_EL1, 2).isb().b("again")
