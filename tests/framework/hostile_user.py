# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose programs at EL0 execute random instructions: of A64, A32 and T32.

Each is followed by an SVC, which returns to EL1; what loops is ended by an interrupt. As a program, outside
of ``make test``: ``PYTHONPATH=tests python -m framework.hostile_user [--instructions N] [--seed N]``, a
million of each set by default.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from framework.hostile import CPACR_EL1, DATA, DONE, FAULTS, GO, LEFT, SLOTS, SPSR_EL1, STATE
from framework.payload import RESULTS, Payload, boot
from pvtime.abi.gicv2 import SPI_BASE, Gicc, Gicd
from pvtime.abi.pvtime import STRUCTURE_STRIDE, PvTime
from pvtime.engine.base import Outcome
from pvtime.machine.layout import AGENT, CONSOLE, GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, RAM_BASE, STOLEN_TIME
from pvtime.probe.assembler import ELR_EL1

__all__ = ["A32", "A64", "T32", "Isa", "run_user_instructions"]

SPI: Final = 20
MEMORY_END: Final = RAM_BASE + (64 << 20)
STUCK_LOOKS: Final = 10
"""Looks, 20 ms apart, at an instruction that does not end until an interrupt ends it."""


@dataclass(frozen=True)
class Isa:
    """An instruction set."""

    spsr: int
    """Of a program at EL0."""
    svc: int
    undefined: bytes
    """What the memory behind the slots is full of: of A32, zeros are 64 MiB of NOPs."""


A64: Final = Isa(0x00, 0xD400_0001, bytes(4))
A32: Final = Isa(0x10, 0xEF00_0000, bytes.fromhex("f000f0e7"))
T32: Final = Isa(0x30, 0xDF00_DF00, bytes.fromhex("dededede"))


def words(isa: Isa, chance: random.Random, count: int) -> Iterator[int]:
    """Yield random instructions, many of them for the system and for coprocessors."""
    for _ in range(count):
        word = chance.getrandbits(32)
        kind = chance.randrange(12)
        if isa is A64 and kind < 3:
            word = 0xD500_0000 | word & 0x3F_FFFF
        elif isa is A32 and kind < 6:
            word = word & 0x0FFF_FFFF | 0xE000_0000  # always
            if kind < 2:
                word = word & 0xF0FF_FFFF | chance.choice((0xC, 0xD, 0xE)) << 24  # coprocessors
            elif kind == 2:
                word = 0xE320_F003 - chance.randrange(3)  # wfi, wfe, yield
        elif isa is T32 and kind < 4:
            word = word & 0xFFFF_0FFF | 0xEE00  # coprocessors
        elif isa is T32 and kind == 4:
            word = 0xBF30_BF30  # wfi
        yield word


def payload(isa: Isa) -> Payload:
    """Return the program: vCPU 1 has the slots executed, vCPU 0 waits until it has."""
    code = Payload().call(PvTime.ST).cpu_on(1, "hostile").await_result(DONE).power_off()
    code.label("hostile").await_result(GO).use_vectors().mov(1, 3 << 20).msr(CPACR_EL1, 1)
    code.mov(2, GIC_DISTRIBUTOR.base).mov(1, 1).store(1, 2, Gicd.CTLR, size=4)
    code.mov(1, 1 << SPI).store(1, 2, Gicd.ISENABLER + SPI_BASE // 8, size=4)
    code.mov(1, 1 << 1).store(1, 2, Gicd.ITARGETSR + SPI_BASE + SPI, size=1)
    code.mov(2, GIC_CPU_INTERFACE.base).mov(1, 0xFF).store(1, 2, Gicc.PMR, size=4)
    code.mov(1, 1).store(1, 2, Gicc.CTLR, size=4).isb()
    code.label("next").mov(30, STATE).load(29, 30, 8).keep(29, LEFT).cbz(29, "over")
    code.sub(29, 29, 1).store(29, 30, 8).load(28, 30).msr(ELR_EL1, 28).add(28, 28, 8).store(28, 30)
    code.mov(1, isa.spsr).msr(SPSR_EL1, 1)
    values = [STOLEN_TIME.base + STRUCTURE_STRIDE, AGENT.base, CONSOLE.base, DATA, DATA + 1, (1 << 64) - 1]
    values += [0, 1, 1 << 31, 0x7FF0_0000_0000_0001, PvTime.ST]
    for register in range(31):
        code.mov(register, values[register % len(values)])
    code.eret()
    code.label("over").mov(1, 1).keep(1, DONE).label("rest").halt().b("rest")
    code.align(0x800).label("vectors")
    for _ in range(16):
        code.b("recover").align(0x80)
    code.label("recover").mov(24, RESULTS).load(25, 24, 8 * FAULTS).add(25, 25, 1)
    return code.store(25, 24, 8 * FAULTS).b("next")


def run_user_instructions(isa: Isa, internals: str, seed: int, count: int) -> int:
    """Execute random instructions at EL0 in one guest; return how many exceptions came of them."""
    slots = bytearray()
    for word in words(isa, random.Random(seed), count):
        slots += word.to_bytes(4, "little") + isa.svc.to_bytes(4, "little")
    rest = isa.undefined * ((MEMORY_END - SLOTS - len(slots)) // 4)
    with boot(payload(isa), internals, vcpus=2) as guest:
        guest.engine.start()
        guest.engine.call(partial(guest.machine.memory.write, SLOTS, bytes(slots) + rest))
        guest.machine.memory.write(STATE, SLOTS.to_bytes(8, "little") + count.to_bytes(8, "little"))
        guest.tell(GO)
        last, looks = 0, 0
        while guest.engine.wait(0.02) is None:
            left = guest.result(LEFT)
            looks = looks + 1 if left == last else 0
            guest.engine.set_irq(SPI, looks > STUCK_LOOKS)
            last = left
        assert guest.engine.wait(0) is Outcome.POWER_OFF
        assert guest.result(LEFT) == 0
        return guest.result(FAULTS)


def main() -> None:
    """Execute as many instructions of each set as the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instructions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for name, isa in {"A64": A64, "A32": A32, "T32": T32}.items():
        start = time.monotonic()
        faults = run_user_instructions(isa, "on", options.seed, options.instructions)
        print(f"{options.instructions} of {name}: {faults} exceptions, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
