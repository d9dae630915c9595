# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU's registers by name, against everything that the library has of it; programs at random."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final

import pytest

from framework.context import refuse_loss
from framework.payload import Guest, Payload, boot, both_cores
from pvtime.abi.arm64 import SysReg
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.engine.unicorn.registers import SYSTEM_REGISTERS, CpuRegisters
from pvtime.engine.unicorn.vcpu import SchedState

MODELS: Final = ["cortex-a53", "cortex-a57", "cortex-a72"]

SPSEL: Final = SysReg(3, 0, 4, 2, 0)
FPCR: Final = SysReg(3, 3, 4, 4, 0)
FPSR: Final = SysReg(3, 3, 4, 4, 1)
KEPT_FROM_PROGRAMS: Final = {SYSTEM_REGISTERS["SCTLR_EL1"], SYSTEM_REGISTERS["VBAR_EL1"], SPSEL}
"""With a random value in one of these nothing further would be executed."""

WORDS: Final = 4000

pytestmark = both_cores


def settable() -> Iterator[SysReg]:
    """Yield every name that an MSR at EL1 can have; most are undefined, whatever our table says."""
    for op0, op1 in ((2, 0), (2, 3), (3, 0), (3, 2), (3, 3)):
        for crn, crm, op2 in product(range(16), range(16), range(8)):
            if (register := SysReg(op0, op1, crn, crm, op2)) not in KEPT_FROM_PROGRAMS:
                yield register


def everything(chance: random.Random, registers: Iterable[SysReg]) -> Payload:
    """Return a program that sets all it can to anything, then computes at random, and tells when it has."""
    payload = Payload().use_vectors()
    for register in registers:
        payload.mov(1, chance.getrandbits(64)).msr(register, 1)
    payload.mov(0, 3 << 20).msr(SYSTEM_REGISTERS["CPACR_EL1"], 0)
    for number in range(32):
        payload.mov(1, chance.getrandbits(64)).word(0x4E08_1C20 | number)  # mov vN.d[0], x1
        payload.mov(1, chance.getrandbits(64)).word(0x4E18_1C20 | number)  # mov vN.d[1], x1
    payload.mov(1, chance.getrandbits(27)).msr(FPCR, 1)
    payload.mov(1, chance.getrandbits(32)).msr(FPSR, 1)
    payload.mov(1, chance.getrandbits(48) & ~15).word(0x9100_003F)  # mov sp, x1
    for number in range(26):
        payload.mov(number, chance.getrandbits(64))
    for _ in range(WORDS):
        payload.word(_arithmetic(chance))
    payload.mov(27, 1).keep(27, 0)
    if chance.randrange(2):
        payload.wfi()
    payload.label("rest").b("rest")
    payload.vectors(sync="skip").label("skip").mrs(26, SYSTEM_REGISTERS["ELR_EL1"])
    return payload.add(26, 26, 4).msr(SYSTEM_REGISTERS["ELR_EL1"], 26).eret()


def _arithmetic(chance: random.Random) -> int:
    """Return a word from where the integer, floating-point and vector instructions are; or undefined."""
    registers = chance.randrange(26) | chance.randrange(26) << 5 | chance.randrange(26) << 16
    kind = chance.choice([0x0A00_0000, 0x0B00_0000, 0x1A00_0000, 0x1B00_0000, 0x1E20_0000, 0x0E20_0000])
    return (
        kind
        | chance.getrandbits(1) << 31
        | chance.getrandbits(2) << 29
        | chance.getrandbits(6) << 10
        | registers
    )


def run_to_result(guest: Guest[UnicornEngine]) -> None:
    """Wait until the program has come to its end, where it spins or sleeps."""
    while guest.result(0) == 0:
        assert guest.engine.wait(0.001) is None, "the program has ended"


@pytest.mark.parametrize("model", MODELS)
def test_the_names_are_all_that_a_program_can_set(model: str, internals: str) -> None:
    registers = list(settable())
    # The library's CPU, and so the names that it has, are the same with both cores: all once, some with each.
    for seed in range(0 if internals == "on" else 1, 6):
        chance = random.Random(f"{seed} {model}")
        some = registers if seed == 0 else chance.sample(registers, 500)
        with boot(everything(chance, some), internals, cpu=model) as guest:
            guest.engine.start()
            run_to_result(guest)
            guest.engine.pause()
            state = refuse_loss(guest.engine.vm.core, 0, guest.engine.vm.vcpus[0].context)
            assert len({*state.v}) > 16, "the program did nothing"


def test_anything_in_the_registers_neither_is_lost_nor_ends_the_engine(internals: str) -> None:
    # What a peer sends may be of no guest's making.
    chance = random.Random(6)
    with boot(Payload().mov(1, 1).keep(1, 0).label("rest").b("rest"), internals) as guest:
        guest.engine.start()
        run_to_result(guest)
        guest.engine.pause()
        core, vcpu = guest.engine.vm.core, guest.engine.vm.vcpus[0]
        usual = core.contexts.read(vcpu.context)
        for _ in range(200):
            state = anything(chance, usual)
            state.check(0)
            vcpu.context = core.contexts.make(0, state)
            again = core.contexts.read(vcpu.context)
            assert (again.x, again.v, again.pc, again.sp_el0, again.sp_el1) == (
                state.x,
                state.v,
                state.pc,
                state.sp_el0,
                state.sp_el1,
            )
            vcpu.state = SchedState.RUNNABLE
            loads = vcpu.loads
            guest.engine.resume()
            while vcpu.loads == loads:
                assert guest.engine.wait(0.0005) is None, "the engine has ended"
            guest.engine.pause()


def anything(chance: random.Random, usual: CpuRegisters) -> CpuRegisters:
    """Return a state that passes the check."""
    return CpuRegisters(
        x=[chance.getrandbits(64) for _ in usual.x],
        sp_el0=chance.getrandbits(64),
        sp_el1=chance.getrandbits(64),
        pc=chance.choice([usual.pc, chance.getrandbits(64), chance.getrandbits(30) & ~3]),
        pstate=chance.getrandbits(32) & ~0x1F | chance.choice([0, 4, 5]),
        v=[chance.getrandbits(128) for _ in usual.v],
        fpcr=chance.getrandbits(32),
        fpsr=chance.getrandbits(32),
        system={name: chance.getrandbits(64) for name in SYSTEM_REGISTERS},
    )


def test_a_register_that_is_missing_in_the_table_is_noticed(
    internals: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with boot(Payload().mov(1, 1).keep(1, 0).label("rest").b("rest"), internals) as guest:
        guest.engine.start()
        run_to_result(guest)
        guest.engine.pause()
        core, context = guest.engine.vm.core, guest.engine.vm.vcpus[0].context
        monkeypatch.delitem(SYSTEM_REGISTERS, "MAIR_EL1")
        refuse_loss(core, 0, context)
        core.contexts.load(context)
        core._uc.cpr_write(3, 0, 10, 2, 0, 0xFF)
        core.contexts.save(context)
        with pytest.raises(AssertionError, match=r"ff00000000000000"):
            refuse_loss(core, 0, context)
