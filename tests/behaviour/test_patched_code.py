# SPDX-License-Identifier: GPL-2.0-or-later
"""Code that a guest changes through another mapping of its page, as Linux does, and then invalidates by the
instructions that the architecture has for it (Arm ARM, B2.4.4).
"""

from __future__ import annotations

from typing import Final

import pytest

from framework.engines import Choice
from framework.payload import Payload, run_on
from pvtime.abi.arm64 import IC_IALLU, IC_IALLUIS, IC_IVAU, SysReg
from pvtime.machine.layout import RAM_BASE
from pvtime.probe.assembler import Program

ALIAS: Final = 2 << 30
"""Virtual address of a second mapping of RAM, which is not executable."""

TTBR0_EL1: Final = SysReg(3, 0, 2, 0, 0)
TCR_EL1: Final = SysReg(3, 0, 2, 0, 2)
MAIR_EL1: Final = SysReg(3, 0, 10, 2, 0)
SCTLR_EL1: Final = SysReg(3, 0, 1, 0, 0)
DC_CVAU: Final = SysReg(1, 3, 7, 11, 1)

SECOND: Final = 64
"""Offset of the second function in the page."""

BLOCK: Final = 1 | 1 << 10
"""A block descriptor that may be accessed."""
NORMAL: Final = 3 << 8
"""Inner shareable, of MAIR_EL1's first kind."""
DEVICE: Final = 1 << 2
NO_EXECUTION: Final = 3 << 53

WAYS: Final = {
    "IVAU": (IC_IVAU, 0),
    "IVAU by the alias": (IC_IVAU, ALIAS - RAM_BASE),
    "IALLU": (IC_IALLU, 0),
    "IALLUIS": (IC_IALLUIS, 0),
}
"""Instructions that invalidate, and the distance of their address from the code's."""


class Mapped(Payload):
    """A payload whose functions ``f`` and ``g`` share a page of RAM that is mapped twice."""

    def sync(self) -> Program:
        """DSB SY, ISB."""
        return self.dsb().isb()

    def use_tables(self) -> None:
        """Switch the MMU on: 39 bits of addresses, in blocks of 1 GiB."""
        self.adr(1, "tables").msr(TTBR0_EL1, 1)
        self.mov(1, 0x04FF).msr(MAIR_EL1, 1)
        # T0SZ = 25, write-back, inner shareable, no TTBR1, 40 bits of physical addresses.
        self.mov(1, 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32).msr(TCR_EL1, 1)
        self.sync()
        self.tlbi()
        self.sync()
        self.mov(1, 0x30D0_1805).msr(SCTLR_EL1, 1)
        self.sync()

    def function(self, register: int, name: str) -> None:
        """Call a function and have its result in a register."""
        self.adr(1, name).blr(1)
        self.copy(register, 0)

    def patch(self, name: str, value: int, way: str) -> None:
        """Have a function return another value, written through the alias. X1 to X4 are lost."""
        operation, distance = WAYS[way]
        self.adr(1, name).mov(2, ALIAS - RAM_BASE).add_register(2, 1, 2)
        self.mov(3, 0xD280_0000 | value << 5).store(3, 2, size=4)
        self.msr(DC_CVAU, 2)
        self.sync()
        if operation is IC_IVAU:
            self.mov(4, distance).add_register(4, 1, 4)
            self.msr(operation, 4)
        else:
            self.msr(operation, 31)
        self.sync()

    def touch_alias(self) -> None:
        """Write to the page through the alias, before anything in it was executed."""
        self.adr(1, "f").mov(2, ALIAS - RAM_BASE).add_register(2, 1, 2).store(31, 2, 2 * SECOND)

    def data(self) -> None:
        """Emit the page and the tables."""
        self.align(0x1000).label("f").mov(0, 1).ret()
        self.align(SECOND).label("g").mov(0, 2).ret()
        self.align(0x1000).label("tables")
        blocks = (
            BLOCK | DEVICE | NO_EXECUTION,
            BLOCK | NORMAL | RAM_BASE,
            BLOCK | NORMAL | RAM_BASE | NO_EXECUTION,
        )
        for block in blocks:
            self.word(block & 0xFFFF_FFFF, block >> 32)


@pytest.mark.parametrize("way", WAYS)
def test_invalidated_code_is_fetched_again(engine: Choice, way: str) -> None:
    # The embedded engine ran the old code on: its library marks pages with code by virtual address.
    payload = Mapped()
    payload.use_tables()
    payload.touch_alias()
    payload.function(20, "f")
    payload.function(21, "g")
    payload.patch("f", 11, way)
    payload.function(22, "f")
    payload.patch("g", 12, way)
    payload.function(23, "g")
    payload.patch("f", 21, way)
    payload.patch("g", 22, way)
    payload.function(24, "f")
    payload.function(25, "g")
    for slot, register in enumerate(range(20, 26)):
        payload.keep(register, slot)
    payload.power_off()
    payload.data()
    assert run_on(engine, payload).results[:6] == (1, 2, 11, 12, 21, 22)


@pytest.mark.parametrize("way", ["IVAU", "IVAU by the alias", "IALLUIS"])
def test_invalidated_code_is_fetched_again_by_another_vcpu(engine: Choice, way: str) -> None:
    payload = Mapped()
    payload.use_tables()
    payload.touch_alias()
    payload.cpu_on(1, "other").await_result(0)
    payload.patch("f", 11, way)
    payload.patch("g", 12, way)
    payload.mov(1, 1).keep(1, 2).await_result(4).power_off()
    payload.label("other").use_tables()
    payload.function(21, "g")
    payload.function(20, "f")
    payload.keep(21, 1).keep(20, 0).await_result(2).sync()
    payload.function(20, "f")
    payload.function(21, "g")
    payload.keep(20, 3).keep(21, 5).mov(1, 1).keep(1, 4).label("rest").wfi().b("rest")
    payload.data()
    results = run_on(engine, payload, vcpus=2).results
    assert (results[0], results[1]) == (1, 2)
    assert (results[3], results[5]) == (11, 12)
