# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that tries many thousand calls, accesses and instructions: nothing happens to anybody else.

A million of each: :mod:`framework.hostile` and :mod:`framework.hostile_user` as programs.
"""

from __future__ import annotations

import random

import pytest

from framework.calls import KNOWN, VCPUS, anything, make_calls
from framework.hostile import run_instructions
from framework.hostile_user import A32, A64, T32, Isa, run_user_instructions
from framework.payload import Payload, boot, both_cores
from pvtime.abi.arm64 import SysReg
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime
from pvtime.machine.device import MmioDevice
from pvtime.machine.gicv2 import GicV2
from pvtime.machine.gicv3 import GicV3
from pvtime.machine.layout import AGENT, CONSOLE, GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, RAM_BASE, STOLEN_TIME
from pvtime.machine.uart import Ns16550
from pvtime.probe.assembler import ELR_EL1

CALLS = 100_000
ACCESSES = 100_000
INSTRUCTIONS = {"on": 50_000, "off": 15_000}
"""By core: the public one enters each exception in Python."""
USER_INSTRUCTIONS = 5_000
"""Of each instruction set."""
FROM_INSIDE = {"on": 20_000, "off": 6_000}

SPSR_EL1 = SysReg(3, 0, 4, 0, 0)
RAM_END = RAM_BASE + (64 << 20)

HARMLESS = [
    function
    for function in KNOWN
    if function
    not in (
        Psci.SYSTEM_OFF,
        Psci.SYSTEM_RESET,
        Psci.SYSTEM_RESET2,
        Psci.SYSTEM_RESET2_64,
        Psci.CPU_OFF,
        Psci.CPU_SUSPEND,
        Psci.CPU_SUSPEND_64,
    )
]
"""Calls that return to whoever makes them."""


def test_no_call_raises_or_touches_another_vcpus_count() -> None:
    make_calls(random.Random(57), CALLS)


@both_cores
def test_no_instruction_ends_the_engine_or_is_left_out(internals: str) -> None:
    count = INSTRUCTIONS[internals]
    assert 0 < run_instructions(internals, 59, count) < count


@pytest.mark.parametrize(
    ("isa", "internals"),
    [(A64, "on"), (A64, "off"), (A32, "on"), (T32, "on")],
    ids=["a64", "a64-off", "a32", "t32"],
)
def test_no_instruction_of_a_program_ends_the_engine(isa: Isa, internals: str) -> None:
    # With internals=off an AArch32 program ends the run.
    assert run_user_instructions(isa, internals, 61, USER_INSTRUCTIONS) >= USER_INSTRUCTIONS


def access_all(chance: random.Random, gic: GicV2 | GicV3, devices: list[MmioDevice], count: int) -> None:
    """Access devices of a machine at random."""
    for _ in range(count):
        device = chance.choice(devices)
        gic.current = chance.randrange(VCPUS)
        size = chance.choice((1, 2, 4, 8))
        offset = chance.randrange(device.region.size - size + 1)
        if chance.randrange(2):
            offset %= 0x100
        if chance.randrange(2):
            device.write(offset, size, anything(chance) & (1 << 8 * size) - 1)
        else:
            assert 0 <= device.read(offset, size) < 1 << 8 * size


def test_no_access_to_a_device_raises_or_returns_more_than_its_size() -> None:
    gic = GicV2(VCPUS, on_change=lambda index, level: None)
    ports = [Ns16550(region, lambda _: None, lambda _: None) for region in (CONSOLE, AGENT)]
    access_all(random.Random(58), gic, [gic.distributor, gic.cpu_interface, *ports], ACCESSES)


def test_no_access_to_a_gicv3_raises_or_returns_more_than_its_size() -> None:
    chance = random.Random(60)
    gic = GicV3(range(VCPUS), on_change=lambda index, level: None)
    for _ in range(10):
        access_all(chance, gic, gic.devices, ACCESSES // 40)
        for _ in range(ACCESSES // 40):
            gic.current = chance.randrange(VCPUS)
            register = SysReg(3, 0, chance.choice((4, 12)), chance.randrange(16), chance.randrange(8))
            if chance.randrange(2):
                gic.write_register(register, anything(chance))
            else:
                assert 0 <= (gic.read_register(register) or 0) < 1 << 64
            gic.set_ppi(gic.current, chance.randrange(16, 32), bool(chance.randrange(2)))


def hostile(rounds: int) -> Payload:
    """Return a payload whose vCPU 1 calls and stores at random; it keeps X20, its chance, and X21, its count.

    It chooses by xorshift among a table of functions, devices and sizes, and starts over at a fault.
    """
    payload = Payload().call(PvTime.ST).cpu_on(1, "second").await_result(0).power_off()
    payload.label("second").use_vectors().mov(20, 0x9E37_79B9_7F4A_7C15).mov(21, rounds)
    payload.label("again").word(
        0xCA14_3694,  # eor x20, x20, x20, lsl #13
        0xCA54_1E94,  # eor x20, x20, x20, lsr #7
        0xCA14_4694,  # eor x20, x20, x20, lsl #17
    )
    for function in HARMLESS:
        payload.mov(0, function).copy(1, 20).add(2, 20, 1).copy(3, 20).hvc()
    payload.mov(0, 0xC600_0000).add_register(0, 0, 20, shift=32).hvc()
    for region in STOLEN_TIME, GIC_DISTRIBUTOR, GIC_CPU_INTERFACE, AGENT:
        payload.mov(5, region.base).low_bits(6, 20, 11)
        payload.add_register(5, 5, 6)
        for size in 1, 2, 4, 8:
            payload.load(7, 5, size=size)
            if region is not STOLEN_TIME:
                payload.store(20, 5, size=size)
    payload.label("next").sub(21, 21, 1).cbnz(21, "again").mov(1, 1).keep(1, 0).label("rest").b("rest")
    payload.vectors(sync="fault", irq="fault").label("fault").mov(24, 0x3C5)
    payload.msr(SPSR_EL1, 24).adr(24, "next").msr(ELR_EL1, 24).eret()
    return payload


@both_cores
def test_a_guest_that_tries_everything_ends_neither_the_engine_nor_anothers_count(internals: str) -> None:
    rounds = FROM_INSIDE[internals] // len(HARMLESS)
    with boot(hostile(rounds), internals, vcpus=2) as guest:
        guest.engine.start()
        last = guest.engine.sample()[0]
        while guest.engine.wait(0.02) is None:
            now = guest.engine.sample()[0]
            assert now.truth_ns == now.structure_ns
            if last.enabled:
                assert now.truth_ns >= last.truth_ns
            last = now
        assert guest.result(0) == 1
        assert guest.engine.sample()[0].enabled


@both_cores
def test_memory_beside_the_guests_is_not_touched(internals: str) -> None:
    payload = Payload().mov(2, (1 << 64) - 1).mov(4, 0)
    outside = [
        *(start + offset for start in (RAM_BASE, STOLEN_TIME.base) for offset in (-4096, -64, -16, -8)),
        *(end + offset for end in (RAM_END, STOLEN_TIME.end) for offset in (0, 8, 64, 4096)),
    ]
    for address in outside:
        payload.mov(1, address).store(2, 1).load(3, 1).add_register(4, 4, 3)
    payload.keep(4, 0)
    with boot(payload.power_off(), internals) as guest:
        before = guest.machine.stolen_time.read(STOLEN_TIME.end - 64, 64)
        guest.finish()
        assert guest.result(0) == 0, "something was read back"
        assert guest.machine.stolen_time.read(STOLEN_TIME.end - 64, 64) == before
        assert guest.machine.memory.read(RAM_END - 64, 64) == bytes(64)
