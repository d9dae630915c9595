# SPDX-License-Identifier: GPL-2.0-or-later
"""x86's programs, executed by the emulator's x86 CPU: they do what their entries promise."""

from __future__ import annotations

import re
from importlib import resources

import pytest
from unicorn import UC_ARCH_X86, UC_HOOK_CODE, UC_MODE_16, Uc
from unicorn.x86_const import UC_X86_REG_IP

from pvtime.probe.x86 import CODE, RAM, STRUCTURES, Entry, Word, x86_image

LIMIT = 1000
"""Instructions, at most."""


@pytest.fixture
def cpu() -> Uc:
    """Return a CPU in real mode with the programs."""
    cpu = Uc(UC_ARCH_X86, UC_MODE_16)
    cpu.mem_map(RAM.base, RAM.size)
    cpu.mem_map(STRUCTURES.base, STRUCTURES.size)
    cpu.mem_write(CODE, x86_image())
    return cpu


def run(cpu: Uc, entry: int, instructions: int = LIMIT) -> int:
    """Run a program to its HLT, or so many instructions; return the address behind the last."""
    cpu.emu_start(entry, 0xFFFF, count=instructions)
    return int(cpu.reg_read(UC_X86_REG_IP))


def word(cpu: Uc, address: int) -> int:
    """Return a word of host and guest."""
    return int.from_bytes(cpu.mem_read(address, 4), "little")


def test_words_have_the_addresses_that_the_source_gives_them() -> None:
    source = (resources.files("pvtime.probe") / "guests" / "x86.S").read_text()
    assert {name: int(value, 0) for name, value in re.findall(r"\.equ\s+(\w+), (\w+)", source)} == {
        each.name: each.value for each in Word
    }


@pytest.mark.parametrize("entry", [Entry.LEAVE, Entry.WRITE_MSR, Entry.FAULT])
def test_a_program_halts_and_does_so_again(entry: Entry) -> None:
    code = x86_image()[entry - CODE :]
    hlt = entry + code.index(b"\xf4")
    assert code[hlt + 1 - entry] == 0xEB, "HLT is followed by a short jump"
    offset = int.from_bytes(code[hlt + 2 - entry : hlt + 3 - entry], signed=True)
    assert hlt + 3 + offset == entry


def test_the_program_that_writes_the_msr_begins_with_wrmsr() -> None:
    assert x86_image()[Entry.WRITE_MSR - CODE :].startswith(b"\x0f\x30\xf4")


def test_a_fault_is_noted(cpu: Uc) -> None:
    run(cpu, Entry.FAULT)
    assert word(cpu, Word.FAULTED) == 1


def test_a_loop_ends_only_when_it_is_told_to(cpu: Uc) -> None:
    entry = Entry.SPIN
    halted = entry + x86_image()[entry - CODE :].index(b"\xf4") + 1
    executed: list[int] = []
    cpu.hook_add(UC_HOOK_CODE, lambda _cpu, address, _size, _data: executed.append(address))
    run(cpu, entry)
    assert len(executed) == LIMIT
    assert halted - 1 not in executed
    cpu.mem_write(Word.STOP, b"\x01\0\0\0")
    assert run(cpu, entry) == halted
