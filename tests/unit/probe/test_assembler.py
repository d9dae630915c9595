# SPDX-License-Identifier: GPL-2.0-or-later
"""The assembler: every instruction is the one that binutils make of the same text."""

from __future__ import annotations

import doctest
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pvtime.abi.arm64 import SysReg
from pvtime.probe import assembler, encoding
from pvtime.probe.assembler import MPIDR_EL1, VBAR_EL1, XZR, Program

BASE: Final = 0x4000_0000
BINUTILS: Final = "aarch64-linux-gnu-"
TPIDR_EL0: Final = SysReg(3, 3, 13, 0, 2)

INSTRUCTIONS: Final[list[tuple[Callable[[Program], Program], str, list[int]]]] = [
    (lambda p: p.mov(3, 0), "mov x3, #0", [0xD280_0003]),
    (
        lambda p: p.mov(30, 0x8400_0008),
        "movz x30, #8; movk x30, #0x8400, lsl #16",
        [0xD280_011E, 0xF2B0_801E],
    ),
    (lambda p: p.mov(1, 0xFFFF << 48), "movz x1, #0; movk x1, #0xffff, lsl #48", [0xD280_0001, 0xF2FF_FFE1]),
    (lambda p: p.copy(9, 30), "mov x9, x30", [0xAA1E_03E9]),
    (lambda p: p.add(1, 2, 4095), "add x1, x2, #4095", [0x913F_FC41]),
    (lambda p: p.add_register(1, 2, 3, 6), "add x1, x2, x3, lsl #6", [0x8B03_1841]),
    (lambda p: p.sub(28, 28, 1), "sub x28, x28, #1", [0xD100_079C]),
    (lambda p: p.compare(12, 13), "cmp x12, x13", [0xEB0D_019F]),
    (lambda p: p.low_bits(6, 20, 11), "and x6, x20, #0x7ff", [0x9240_2A86]),
    (lambda p: p.low_bits(6, 20, 63), "and x6, x20, #0x7fffffffffffffff", [0x9240_FA86]),
    (lambda p: p.shift_right(11, 11, 62), "lsr x11, x11, #62", [0xD37E_FD6B]),
    (lambda p: p.load(1, 2, 4095, 1), "ldrb w1, [x2, #4095]", [0x397F_FC41]),
    (lambda p: p.load(1, 2, 2, 2), "ldrh w1, [x2, #2]", [0x7940_0441]),
    (lambda p: p.load(1, 2, 4, 4), "ldr w1, [x2, #4]", [0xB940_0441]),
    (lambda p: p.load(1, 2, 32760), "ldr x1, [x2, #32760]", [0xF97F_FC41]),
    (lambda p: p.store(XZR, 2, 1, 1), "strb wzr, [x2, #1]", [0x3900_045F]),
    (lambda p: p.store(1, 2, 2, 2), "strh w1, [x2, #2]", [0x7900_0441]),
    (lambda p: p.store(1, 2, 4, 4), "str w1, [x2, #4]", [0xB900_0441]),
    (lambda p: p.store(1, 2, 8), "str x1, [x2, #8]", [0xF900_0441]),
    (lambda p: p.load_exclusive(1, 2), "ldxr x1, [x2]", [0xC85F_7C41]),
    (lambda p: p.store_exclusive(3, 1, 2), "stxr w3, x1, [x2]", [0xC803_7C41]),
    (lambda p: p.label("l").nop().b("l"), "1: nop; b 1b", [0xD503_201F, 0x17FF_FFFF]),
    (lambda p: p.b("l").nop().label("l").nop(), "b 1f; nop; 1: nop", [0x1400_0002, *[0xD503_201F] * 2]),
    (lambda p: p.label("l").b_if("eq", "l"), "1: b.eq 1b", [0x5400_0000]),
    (lambda p: p.nop().label("l").b_if("ne", "l"), "nop; 1: b.ne 1b", [0xD503_201F, 0x5400_0001]),
    (lambda p: p.label("l").nop().b_if("hs", "l"), "1: nop; b.hs 1b", [0xD503_201F, 0x54FF_FFE2]),
    (lambda p: p.label("l").nop().b_if("lo", "l"), "1: nop; b.lo 1b", [0xD503_201F, 0x54FF_FFE3]),
    (lambda p: p.label("l").nop().cbz(27, "l"), "1: nop; cbz x27, 1b", [0xD503_201F, 0xB4FF_FFFB]),
    (lambda p: p.cbnz(27, "l").label("l").nop(), "cbnz x27, 1f; 1: nop", [0xB500_003B, 0xD503_201F]),
    (lambda p: p.adr(2, "l").label("l").nop(), "adr x2, 1f; 1: nop", [0x1000_0022, 0xD503_201F]),
    (lambda p: p.label("l").nop().adr(2, "l"), "1: nop; adr x2, 1b", [0xD503_201F, 0x10FF_FFE2]),
    (lambda p: p.br(20), "br x20", [0xD61F_0280]),
    (lambda p: p.blr(21), "blr x21", [0xD63F_02A0]),
    (Program.ret, "ret", [0xD65F_03C0]),
    (Program.eret, "eret", [0xD69F_03E0]),
    (Program.halt, "b .", [0x1400_0000]),
    (Program.hvc, "hvc #0", [0xD400_0002]),
    (Program.smc, "smc #0", [0xD400_0003]),
    (lambda p: p.brk(0x123), "brk #0x123", [0xD420_2460]),
    (Program.nop, "nop", [0xD503_201F]),
    (Program.wfi, "wfi", [0xD503_207F]),
    (Program.dsb, "dsb sy", [0xD503_3F9F]),
    (Program.isb, "isb", [0xD503_3FDF]),
    (Program.mask_irq, "msr daifset, #2", [0xD503_42DF]),
    (Program.unmask_irq, "msr daifclr, #2", [0xD503_42FF]),
    (Program.tlbi, "tlbi vmalle1", [0xD508_871F]),
    (lambda p: p.mrs(9, MPIDR_EL1), "mrs x9, mpidr_el1", [0xD538_00A9]),
    (lambda p: p.msr(VBAR_EL1, 26), "msr vbar_el1, x26", [0xD518_C01A]),
    (lambda p: p.msr(TPIDR_EL0, 1), "msr tpidr_el0, x1", [0xD51B_D041]),
    (lambda p: p.msr(SysReg(1, 3, 7, 5, 1), 5), "ic ivau, x5", [0xD50B_7525]),
]
"""An instruction, its text for binutils, and its code."""


def words(code: bytes) -> list[int]:
    """Return machine code as instructions."""
    return [word for (word,) in struct.iter_unpack("<I", code)]


@pytest.mark.parametrize(("emit", "text", "code"), INSTRUCTIONS, ids=[text for _, text, _ in INSTRUCTIONS])
def test_an_instruction_has_its_code(emit: Callable[[Program], Program], text: str, code: list[int]) -> None:
    assert [hex(word) for word in words(emit(Program(BASE)).assemble())] == [hex(word) for word in code], text


def test_binutils_assemble_the_same_text_to_the_same_code(tmp_path: Path) -> None:
    if shutil.which(f"{BINUTILS}as") is None:
        pytest.skip(f"{BINUTILS}as is missing: install binutils-aarch64-linux-gnu (tools/need-cross does)")
    source, built, binary = tmp_path / "all.S", tmp_path / "all.o", tmp_path / "all.bin"
    source.write_text("".join(f"{text}\n" for _, text, _ in INSTRUCTIONS))
    subprocess.run([f"{BINUTILS}as", "-march=armv8-a", "-o", built, source], check=True)
    subprocess.run([f"{BINUTILS}objcopy", "-O", "binary", "-j", ".text", built, binary], check=True)
    assert [hex(word) for word in words(binary.read_bytes())] == [
        hex(word) for _, _, code in INSTRUCTIONS for word in code
    ]


def test_every_method_that_emits_an_instruction_is_compared() -> None:
    source = Path(__file__).read_text().partition("INSTRUCTIONS: Final")[2].partition('"""')[0]
    methods = {name for name in vars(Program) if not name.startswith("_")}
    not_instructions = {"address", "align", "assemble", "here", "word"}
    assert {name for name in methods - not_instructions if f".{name}" not in source} == set()


@pytest.mark.parametrize(
    "emit",
    [
        lambda p: p.add(1, 2, 4096),
        lambda p: p.sub(1, 2, -1),
        lambda p: p.copy(32, 0),
        lambda p: p.low_bits(1, 2, 0),
        lambda p: p.load(1, 2, 4),
        lambda p: p.store(1, 2, 32768),
        lambda p: p.b("nowhere"),
        lambda p: p.label("twice").label("twice"),
        lambda p: p.b_if("eq", "far").word(*[0] * (1 << 18)).label("far"),
        lambda p: p.label("far").word(*[0] * ((1 << 18) + 1)).cbz(1, "far"),
    ],
    ids=["imm12", "negative", "register", "no bits", "alignment", "offset", "label", "twice", "far", "back"],
)
def test_what_does_not_fit_is_refused_and_not_cut_off(emit: Callable[[Program], Program]) -> None:
    with pytest.raises(ValueError, match=r"does not fit|not a multiple|label"):
        emit(Program(BASE)).assemble()


def test_the_farthest_branches_fit() -> None:
    program = Program(BASE).label("back").b_if("eq", "far").word(*[0] * ((1 << 18) - 2)).label("far")
    assert words(program.assemble())[0] == 0x5400_0000 | ((1 << 18) - 1) << 5
    program = Program(BASE).label("back").word(*[0] * (1 << 18)).cbz(1, "back")
    assert words(program.assemble())[-1] == 0xB400_0001 | (1 << 18) << 5


def test_code_is_aligned_with_instructions_that_do_nothing() -> None:
    program = Program(BASE).hvc().align(16)
    assert program.here == BASE + 16
    assert program.label("next").address("next") == BASE + 16
    assert words(program.assemble())[1:] == [0xD503_201F] * 3


@pytest.mark.parametrize("module", [assembler, encoding], ids=lambda module: module.__name__)
def test_the_examples_in_the_documentation_are_true(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]
