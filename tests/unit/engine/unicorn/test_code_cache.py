# SPDX-License-Identifier: GPL-2.0-or-later
"""The room that translated code takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from framework.payload import Payload, boot, both_cores
from pvtime.engine.registry import ENGINES
from pvtime.engine.unicorn.code_cache import CODE_CACHE_SIZE
from pvtime.errors import UsageError
from pvtime.inject.schedule import Schedule
from pvtime.machine.image import KernelImage
from pvtime.machine.machine import Machine, MachineConfig

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
