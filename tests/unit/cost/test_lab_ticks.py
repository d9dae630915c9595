# SPDX-License-Identifier: GPL-2.0-or-later
"""Ticks of a guest: where its kernel is, and which of its ticks are compared."""

from __future__ import annotations

import pytest

from pvtime.cost.lab_steps import ExecutedInstruction, FunctionRun, Symbols
from pvtime.cost.lab_ticks import ACCOUNTS, TICK, kernel_offset, tick_cost
from pvtime.lab.qemu import LabError


def run(*functions: str) -> FunctionRun:
    """Return a run of one instruction in each function."""
    return FunctionRun(tuple(ExecutedInstruction(name, 0, 0) for name in functions))


def test_ticks_that_were_stolen_as_a_whole_are_told_apart() -> None:
    cost = tick_cost(True, [run(TICK), run(TICK, ACCOUNTS, ACCOUNTS), run(TICK, "para_steal_clock")])
    assert (cost.accounted, cost.stolen) == ((3,), (1, 2))
    assert cost.functions == {ACCOUNTS: 2, TICK: 1}


def test_ticks_that_were_all_stolen_cannot_be_compared() -> None:
    with pytest.raises(LabError, match="less busy"):
        tick_cost(True, [run(TICK)])


def test_the_offset_is_found_among_other_bytes() -> None:
    assert kernel_offset("\ufffdKERNELOFFSET=42e4ef400000\n") == 0x42E4EF400000
    for text in ("", "KERNELOFFSET=", "KERNELOFFSET=xyz"):
        with pytest.raises(ValueError, match="KERNELOFFSET"):
            kernel_offset(text)


def test_functions_can_be_moved() -> None:
    symbols = Symbols(["ffff800008000100 t first", "ffff800008000200 t second"])
    moved = symbols.moved(-0x100)
    assert moved.address("first") == 0xFFFF800008000000
    assert moved.function(0xFFFF800008000104) == ("second", 4)
    assert symbols.address("first") == 0xFFFF800008000100
