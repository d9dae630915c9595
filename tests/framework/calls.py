# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypervisor calls as a guest makes them that means harm."""

from __future__ import annotations

import random
from typing import Final

from framework.power import FakePower
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime
from pvtime.abi.registration import RegisterCall
from pvtime.abi.smccc import Smccc
from pvtime.machine.layout import STOLEN_TIME
from pvtime.machine.memory_map import MemoryMap
from pvtime.machine.psci import PsciCalls
from pvtime.machine.smccc import hypercall
from pvtime.steal.account import Account
from pvtime.steal.placement import UserspacePlacement

__all__ = ["KNOWN", "VCPUS", "anything", "make_calls"]

VCPUS: Final = 4
KNOWN: Final[list[int]] = [*Psci, *PvTime, *Smccc, *RegisterCall]


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


def make_calls(chance: random.Random, count: int) -> None:
    """Make random calls; none may raise, or touch another vCPU's count."""
    power = FakePower(VCPUS)
    psci = PsciCalls(range(VCPUS), power)
    memories = MemoryMap([])
    placement = UserspacePlacement(memories, STOLEN_TIME.base)
    accounts = [Account(placement.structure(index)) for index in range(VCPUS)]
    for number in range(count):
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
