# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that tries everything: 140 000 calls and accesses, and nothing happens to anybody else."""

from __future__ import annotations

import random

from framework.payload import Payload, boot, both_cores
from framework.power import FakePower
from pvtime.abi.arm64 import SysReg
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime
from pvtime.abi.smccc import Smccc
from pvtime.machine.device import MmioDevice
from pvtime.machine.gicv2 import GicV2
from pvtime.machine.layout import AGENT, CONSOLE, GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, RAM_BASE, STOLEN_TIME
from pvtime.machine.memory_map import MemoryMap
from pvtime.machine.psci import PsciCalls
from pvtime.machine.smccc import hypercall
from pvtime.machine.uart import Ns16550
from pvtime.probe.assembler import ELR_EL1
from pvtime.steal.account import Account
from pvtime.steal.placement import UserspacePlacement

CALLS = 60_000
ACCESSES = 60_000
FROM_INSIDE = 20_000
VCPUS = 4

SPSR_EL1 = SysReg(3, 0, 4, 0, 0)
RAM_END = RAM_BASE + (64 << 20)

KNOWN: list[int] = [*Psci, *PvTime, *Smccc]
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


def anything(chance: random.Random) -> int:
    """Return a value as a guest would choose that means harm."""
    match chance.randrange(5):
        case 0:
            return chance.getrandbits(64)
        case 1:
            return chance.randrange(9)
        case 2:
            return ((1 << chance.randrange(65)) - chance.randrange(3)) % (1 << 64)
        case 3:
            return chance.choice(KNOWN) | chance.getrandbits(32) << 32
        case _:
            return STOLEN_TIME.base + chance.randrange(0x400)


def test_no_call_raises_or_touches_another_vcpus_count() -> None:
    chance = random.Random(57)
    power = FakePower(VCPUS)
    psci = PsciCalls(range(VCPUS), power)
    memories = MemoryMap([])
    placement = UserspacePlacement(memories, STOLEN_TIME.base)
    accounts = [Account(placement.structure(index)) for index in range(VCPUS)]
    for number in range(CALLS):
        caller = chance.randrange(VCPUS)
        others = [(a.structure(), a.truth(number), a.use) for a in accounts]
        registers = [anything(chance) for _ in range(4)]
        answer = hypercall(caller, accounts[caller], number, psci, registers)
        assert -(1 << 63) <= answer < 1 << 63
        after = [(a.structure(), a.truth(number), a.use) for a in accounts]
        assert after[:caller] + after[caller + 1 :] == others[:caller] + others[caller + 1 :]
    touched = {asked[1] for asked in power.asked if len(asked) > 1}
    assert touched <= set(range(VCPUS))
    memories.close()


def test_no_access_to_a_device_raises_or_returns_more_than_its_size() -> None:
    chance = random.Random(58)
    gic = GicV2(VCPUS, on_change=lambda index, level: None)
    ports = [Ns16550(region, lambda _: None, lambda _: None) for region in (CONSOLE, AGENT)]
    devices: list[MmioDevice] = [gic.distributor, gic.cpu_interface, *ports]
    for _ in range(ACCESSES):
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
    rounds = FROM_INSIDE // len(HARMLESS)
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
