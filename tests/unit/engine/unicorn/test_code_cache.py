# SPDX-License-Identifier: GPL-2.0-or-later
"""The room that translated code takes."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from framework.payload import Payload, boot, both_cores
from framework.traps import NoTraps
from pvtime.engine.registry import ENGINES
from pvtime.engine.unicorn.code_cache import CODE_CACHE_SIZE
from pvtime.engine.unicorn.core import CoreConfig, Exit
from pvtime.engine.unicorn.public_core import PublicCore
from pvtime.errors import UsageError
from pvtime.inject.schedule import Schedule
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import RAM_BASE
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.memory import GuestMemory
from pvtime.probe.assembler import Program

MIB = 1 << 20


def resident() -> int:
    """Return the process's resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@both_cores
def test_a_guest_that_rewrites_its_code_does_not_grow_the_process_without_end(internals: str) -> None:
    # Each round translates a block of 400 loads, 21 KiB of host code: more than the bound in all.
    rounds = 10_000
    payload = Payload().mov(20, rounds).adr(21, "code").mov(22, 0x9100_0463).mov(3, 0)
    payload.label("again").store(22, 21, size=4).dsb().isb()
    payload.blr(21).sub(20, 20, 1).cbnz(20, "again").keep(3, 0).power_off()
    payload.align(0x1000).label("code").add(3, 3, 2)  # each time replaced by add x3, x3, #1
    for _ in range(400):
        payload.load(4, 21)
    payload.ret()
    with boot(payload, internals) as guest:
        before = resident()
        guest.finish()
        assert guest.result(0) == rounds
        assert resident() - before < CODE_CACHE_SIZE + 32 * MIB


def test_a_machine_whose_memory_leaves_no_room_for_it_is_refused() -> None:
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    config = MachineConfig(1, host // MIB * MIB, KernelImage(bytes(4), 0, MIB, None))
    machine = Machine(config, lambda _: None, lambda _: None)
    (unicorn,) = (kind for kind in ENGINES if kind.name == "unicorn")
    try:
        with pytest.raises(UsageError, match="128M for the engine"):
            unicorn.build(machine, {}, Schedule())
    finally:
        machine.close()


class _Mallinfo2(ctypes.Structure):
    """struct mallinfo2 of the C library."""

    _fields_ = (("others", ctypes.c_size_t * 7), ("uordblks", ctypes.c_size_t), ("more", ctypes.c_size_t * 2))

    uordblks: int
    """Bytes in use."""


def allocated() -> int:
    """Return the bytes that the C library's heap has in use."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    return int(mallinfo2().uordblks)


class ForgetfulCore(PublicCore):
    """Translates few blocks before it has their records freed."""

    block_limit = 1000


def make_blocks(kind: type[PublicCore]) -> tuple[int, int]:
    """Have a CPU call 15,000 functions of one instruction; return how its heap grew, and its runs."""
    functions = 15_000
    code = Program(RAM_BASE).adr(21, "functions").mov(22, functions)
    code.label("again").blr(21).add(21, 21, 4).sub(22, 22, 1).cbnz(22, "again").label("rest").wfi().b("rest")
    code.label("functions")
    for _ in range(functions):
        code.ret()
    memory = GuestMemory(RAM_BASE, 0x1_0000, "RAM")
    try:
        memory.write(RAM_BASE, code.assemble())
        core = kind(CoreConfig("cortex-a72", [memory], [], NoTraps()))
        core.contexts.load(core.contexts.new(0, RAM_BASE, 0))
        before, runs = allocated(), 1
        while core.run() is Exit.STOPPED:
            runs += 1
        assert core.registers()[22] == 0
        return allocated() - before, runs
    finally:
        memory.close()


def test_records_of_blocks_are_freed_before_a_guest_has_made_many() -> None:
    # With internals=off the library keeps one of each block and hook: 900 MiB after a minute of such a guest.
    kept, runs = make_blocks(PublicCore)
    assert runs == 1
    grown, runs = make_blocks(ForgetfulCore)
    assert runs > 15
    assert grown < kept / 4
