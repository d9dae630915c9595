# SPDX-License-Identifier: GPL-2.0-or-later
"""A 32-bit program at EL0: saved right, its faults told right; by the public interface alone refused."""

from __future__ import annotations

from typing import Final

import pytest

from framework.moved import restored, take
from framework.payload import Payload, boot, run
from framework.wait import DEADLINE
from pvtime.abi.arm64 import CNTP_CTL_EL0, CNTP_TVAL_EL0, Esr, ExceptionClass, SysReg
from pvtime.abi.gicv2 import Gicc, Gicd
from pvtime.errors import EngineError
from pvtime.machine.layout import GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, RAM_BASE
from pvtime.probe.assembler import ELR_EL1

SPSR_EL1: Final = SysReg(3, 0, 4, 0, 0)
USER: Final = 0x10
"""SPSR_EL1: AArch32 state, A32, User mode."""
T32: Final = 1 << 5
IRQ_MASKED: Final = 1 << 7

LOWER_32: Final = 0x600
"""The vectors' offset for exceptions from AArch32."""
SVC_32: Final = 0x11
TICK: Final = 62_500
"""1 ms of the timer."""
COUNTS: Final = RAM_BASE + (1 << 20) + 8 * 100
"""Where a program counts, so that it shows in memory what its registers hold."""

COUNT: Final = (
    0xE5812000,  # 1: str r2, [r1]
    0xE2822001,  # add r2, r2, #1
    0xE5913000,  # ldr r3, [r1]
    0xE2833001,  # add r3, r3, #1
    0xE1520003,  # cmp r2, r3
    0x0AFFFFF9,  # beq 1b
    0xEF000001,  # svc #1: a register is older than the memory
)


def drop_to(name: str, spsr: int = USER, waits: bool = False) -> Payload:
    """Return a payload that starts the program at a label, in A32 or T32, with vectors for its exceptions.

    :param waits: it gets interrupts, the first one in 1 ms.
    """
    payload = Payload().use_vectors()
    if waits:
        payload.mov(1, GIC_DISTRIBUTOR.base).mov(2, 0xFFFF_FFFF).store(2, 1, Gicd.ISENABLER, size=4)
        payload.mov(2, 1).store(2, 1, Gicd.CTLR, size=4).mov(1, GIC_CPU_INTERFACE.base).mov(3, 0xFF)
        payload.store(3, 1, Gicc.PMR, size=4).store(2, 1, Gicc.CTLR, size=4)
        payload.mov(3, TICK).msr(CNTP_TVAL_EL0, 3).msr(CNTP_CTL_EL0, 2)
    payload.mov(1, spsr).msr(SPSR_EL1, 1).adr(2, name).msr(ELR_EL1, 2)
    payload.mov(1, COUNTS).mov(2, 0).mov(14, 0xCAFE).eret()
    payload.align(0x800).label("vectors")
    for offset in range(0, 0x800, 0x80):
        payload.b({LOWER_32: "sync", LOWER_32 + 0x80: "irq"}.get(offset, "stuck")).align(0x80)
    return payload.label("stuck").power_off()


def counting(spsr: int = USER) -> Payload:
    """Return a payload whose program counts until its memory is told to stop."""
    payload = drop_to("program", spsr).label("irq").eret()
    payload.label("sync").keep_fault(0).mov(1, 1).keep(1, 9).power_off()
    return payload.align(8).label("program").word(*COUNT)


def test_a_saved_program_goes_on_with_the_registers_that_it_had() -> None:
    # PC and the general registers were those of the last exception: its count went back.
    with boot(counting(), "on") as guest:
        guest.engine.start()
        for _ in range(5):
            before = guest.result(100)
            while guest.result(100) <= before + 1000:
                assert guest.result(9) == 0
            guest.engine.pause()
            image = take(guest.machine, guest.engine)
            guest.engine.resume()
        last = guest.result(100)
    with restored(image, "on") as guest:
        start = guest.result(100)
        assert start <= last
        guest.engine.start()
        while guest.result(100) <= start + 100_000:
            assert guest.result(9) == 0, hex(guest.result(0))
            assert guest.engine.wait(0) is None


def test_a_program_with_interrupts_masked_is_not_saved() -> None:
    with boot(counting(USER | IRQ_MASKED), "on") as guest:
        guest.engine.start()
        while not guest.result(100):
            pass
        guest.engine.pause()
        with pytest.raises(EngineError, match="interrupts masked: try again"):
            guest.engine.state()


def test_a_program_that_jumps_to_where_no_memory_is_is_told_on_with_its_own_address() -> None:
    # The abort said EL1, and the address of the last exception's return.
    payload = drop_to("program").label("irq").label("sync").keep_fault(0).power_off()
    payload.align(8).label("program").word(0xE3A0FA01)  # mov pc, #0x1000
    esr, far, elr = run(payload, "on").results[:3]
    assert (Esr(esr).ec, Esr(esr).fault_status) == (ExceptionClass.INSTRUCTION_ABORT_LOWER, 0x10)
    assert (far, elr) == (0x1000, 0x1000)


@pytest.mark.parametrize(
    ("state", "program"),
    [
        (USER, (0xE320F003, 0xE3A02005, 0xEF000007)),  # wfi; mov r2, #5; svc #7
        (USER | T32, (0x2205_BF30, 0xDF07_BF00)),  # wfi; movs r2, #5; nop; svc #7
    ],
)
def test_a_program_that_waits_for_an_interrupt_goes_on_behind_it(
    state: int, program: tuple[int, ...]
) -> None:
    payload = drop_to("program", state, waits=True).label("irq").mov(5, TICK).msr(CNTP_TVAL_EL0, 5).eret()
    payload.label("sync").keep_fault(0).keep(2, 3).power_off().align(8).label("program").word(*program)
    esr, _, _, x2 = run(payload, "on").results[:4]
    assert (Esr(esr).ec, x2) == (SVC_32, 5)


def test_by_the_public_interface_it_ends_the_run_and_says_why() -> None:
    # The exceptions were entered with the AArch64 registers: the vCPU hung, and a save had its state wrong.
    payload = drop_to("program").label("irq").label("sync").power_off()
    payload.align(8).label("program").word(0xEF000000)  # svc #0
    with boot(payload, "off") as guest:
        guest.engine.start()
        with pytest.raises(EngineError, match="AArch32 program: that needs internals=on"):
            guest.engine.wait(DEADLINE)


def test_by_the_public_interface_it_is_not_saved() -> None:
    with boot(counting(), "off") as guest:
        guest.engine.start()
        while not guest.result(100):
            pass
        guest.engine.pause()
        with pytest.raises(EngineError, match="AArch32 program: that needs internals=on"):
            guest.engine.state()


def test_a_kernel_that_is_first_run_after_a_t32_program_executes_each_instruction_once() -> None:
    # Translation of T32 code re-enables exits behind each load and store, with the program counter of an
    # earlier instruction: Linux read a device's register twice, the second time at the value as an address.
    loads, cell = 16, COUNTS + 64
    payload = drop_to("program", USER | T32).label("irq").label("sync").mov(20, cell).add(21, 20, 8)
    payload.store(21, 20).mov(23, loads * (cell + 8)).mov(1, 1).keep(1, 9)
    payload.label("again").mov(22, 0).b("block").label("block")
    for _ in range(loads):
        payload.copy(21, 20).load(21, 21).add_register(22, 22, 21)
    payload.compare(22, 23).b_if("eq", "again").keep(22, 5).power_off()
    payload.align(8).label("program").word(0xDF07_BF00)  # nop; svc #7
    with boot(payload, "on") as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(9))
        for _ in range(500):
            guest.engine.pause()
            guest.engine.resume()
        assert guest.engine.wait(0) is None, f"{guest.result(5):#x} is not {loads} loads"


A32_ADDITIONS: Final = (
    0xE1913F9F,  # 1: ldrex r3, [r1]
    0xE2833001,  # add r3, r3, #1
    0xE1814F93,  # strex r4, r3, [r1]
    0xE3540000,  # cmp r4, #0
    0x1AFFFFFA,  # bne 1b
    0xE2822001,  # add r2, r2, #1
    0xE5913000,  # ldr r3, [r1]
    0xE1530002,  # cmp r3, r2
    0x0AFFFFF6,  # beq 1b
    0xEF000001,  # svc #1: a store was executed twice
)
T32_ADDITIONS: Final = (
    0x3F00_E851,  # 1: ldrex r3, [r1]
    0xE841_3301,  # adds r3, #1; strex r4, r3, [r1]
    0x2C00_3400,  # cmp r4, #0
    0x3201_D1F8,  # bne 1b; adds r2, #1
    0x4293_680B,  # ldr r3, [r1]; cmp r3, r2
    0xDF01_D0F4,  # beq 1b; svc #1: a store was executed twice
)


@pytest.mark.parametrize(("state", "program"), [(USER, A32_ADDITIONS), (USER | T32, T32_ADDITIONS)])
def test_a_program_that_is_interrupted_executes_each_store_once(state: int, program: tuple[int, ...]) -> None:
    # A T32 program's STREX was executed twice, and failed: busybox waited for a lock that it had itself.
    payload = drop_to("program", state).label("irq").eret()
    payload.label("sync").keep(2, 5).power_off().align(8).label("program").word(*program)
    with boot(payload, "on") as guest:
        guest.engine.start()
        for _ in range(500):
            guest.engine.pause()
            guest.engine.resume()
        assert guest.engine.wait(0) is None, f"{guest.result(5)} additions made {guest.result(100)}"
