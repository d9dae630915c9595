# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that executes random instructions, each once, with registers that point to where it hurts.

As a program, outside of ``make test``: ``PYTHONPATH=tests python -m framework.hostile [--calls N]
[--instructions N] [--seed N]``, a million of each by default, instructions on both cores.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from functools import partial
from typing import Final

from framework.calls import make_calls
from framework.payload import RESULTS, Payload, boot
from pvtime.abi.arm64 import SysReg
from pvtime.abi.pvtime import STRUCTURE_STRIDE, PvTime
from pvtime.engine.base import Outcome
from pvtime.machine.layout import AGENT, GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, RAM_BASE, STOLEN_TIME
from pvtime.probe.assembler import ELR_EL1

__all__ = ["run_instructions"]

DONE, LEFT, GO, FAULTS = range(4)
"""Results: the hostile vCPU has finished; how many instructions are left; they are in memory; exceptions."""

STATE: Final = RAM_BASE + (6 << 20)
"""The next slot, then the number of those left."""
DATA: Final = RAM_BASE + (4 << 20)
SLOTS: Final = RAM_BASE + (8 << 20)
"""For each instruction: itself, and a branch back. Farther from the code than a store with an offset."""
BATCH: Final = 500_000
"""Instructions in one guest: its memory has room for no more."""

CPACR_EL1: Final = SysReg(3, 0, 1, 0, 2)
SPSR_EL1: Final = SysReg(3, 0, 4, 0, 0)
AT_EL1_MASKED: Final = 0x3C5

_CONTROL_CRN: Final = (1, 2, 12)
"""Of EL1's registers: those of the MMU, of traps and of the vectors."""


def words(chance: random.Random, count: int) -> Iterator[int]:
    """Yield random instructions, a quarter of them in the space of system instructions.

    Those are left out after which this very program could not continue, which is no fault of an engine: an
    endless loop, a sleep, a return to itself, and new vectors or page tables.
    """
    while count:
        word = chance.getrandbits(32)
        if chance.randrange(4) == 0:
            word = 0xD500_0000 | word & 0x3F_FFFF
        if not _ends_the_program(word):
            count -= 1
            yield word


def _ends_the_program(word: int) -> bool:
    loops = (
        (word & 0x7FFF_FFFF) == 0x1400_0000  # b, bl
        or (word & 0x7EFF_FFE0) == 0x3400_0000  # cbz, cbnz
        or (word & 0x7E07_FFE0) == 0x3600_0000  # tbz, tbnz
        or (word & 0xFFFF_FFE0) == 0x5400_0000  # b.cond
    )
    sleeps = (word & 0xFFFF_FFDF) == 0xD503_205F or (
        word & 0xFFFF_FFC0
    ) == 0xD503_1000  # wfe, wfi, wfet, wfit
    returns = (word & 0xFFBF_0000) == 0xD69F_0000  # eret, drps
    writes = (word & 0xFFF0_0000) == 0xD510_0000  # msr to a register
    op0, crn = 2 + (word >> 19 & 1), word >> 12 & 0xF
    return loops or sleeps or returns or (writes and (op0 == 2 or crn in _CONTROL_CRN))


def payload() -> Payload:
    """Return the program: vCPU 1 executes the slots, vCPU 0 waits until it has."""
    code = Payload().call(PvTime.ST).cpu_on(1, "hostile").await_result(DONE).power_off()
    code.label("hostile").await_result(GO).use_vectors().mov(1, 3 << 20).msr(CPACR_EL1, 1).isb()
    code.label("next").mov(30, STATE).load(29, 30, 8).keep(29, LEFT).cbz(29, "over")
    code.sub(29, 29, 1).store(29, 30, 8).load(28, 30).msr(ELR_EL1, 28).add(28, 28, 8).store(28, 30)
    code.mov(1, AT_EL1_MASKED).msr(SPSR_EL1, 1).mov(30, DATA).add(31, 30, 2048)
    values = [
        *(STOLEN_TIME.base + STRUCTURE_STRIDE, GIC_DISTRIBUTOR.base, GIC_CPU_INTERFACE.base, AGENT.base),
        *(DATA, DATA + 1, (1 << 64) - 1, 0, 1, 1 << 63, 0x7FF0_0000_0000_0001, PvTime.ST),
    ]
    for register, value in enumerate(values):
        code.mov(register, value)
    for register in range(len(values), 31):
        code.copy(register, register % len(values))
    code.eret()
    code.label("over").mov(1, 1).keep(1, DONE).label("rest").halt().b("rest")
    code.align(0x800).label("vectors")
    for _ in range(16):
        code.b("recover").align(0x80)
    code.label("recover").mov(24, RESULTS).load(25, 24, 8 * FAULTS).add(25, 25, 1).store(25, 24, 8 * FAULTS)
    code.adr(24, "next").msr(ELR_EL1, 24).mov(24, AT_EL1_MASKED).msr(SPSR_EL1, 24)
    return code.eret()


def _branch(origin: int, target: int) -> int:
    return 0x1400_0000 | (target - origin) // 4 & 0x3FF_FFFF


def run_instructions(internals: str, seed: int, count: int) -> int:
    """Execute random instructions in one guest; return how many of them were exceptions."""
    code = payload()
    back = code.address("next")
    slots = bytearray()
    for index, word in enumerate(words(random.Random(seed), count)):
        slots += word.to_bytes(4, "little")
        slots += _branch(SLOTS + 8 * index + 4, back).to_bytes(4, "little")
    with boot(code, internals, vcpus=2) as guest:
        guest.engine.start()
        guest.engine.call(partial(guest.machine.memory.write, SLOTS, bytes(slots)))
        guest.machine.memory.write(STATE, SLOTS.to_bytes(8, "little") + count.to_bytes(8, "little"))
        guest.tell(GO)
        last = guest.engine.sample()[0]
        while guest.engine.wait(0.05) is None:
            now = guest.engine.sample()[0]
            assert not last.enabled or now.truth_ns >= last.truth_ns
            last = now
        assert guest.engine.wait(0) is Outcome.POWER_OFF
        assert guest.result(LEFT) == 0
        return guest.result(FAULTS)


def main() -> None:
    """Run as many calls and instructions as the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--instructions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    start = time.monotonic()
    make_calls(random.Random(options.seed), options.calls)
    print(f"{options.calls} calls: {time.monotonic() - start:.0f} s")
    for internals in ("on", "off"):
        start, faults = time.monotonic(), 0
        for first in range(0, options.instructions, BATCH):
            count = min(BATCH, options.instructions - first)
            faults += run_instructions(internals, options.seed + first, count)
        print(
            f"{options.instructions} instructions, internals={internals}: {faults} of them faults, "
            f"{time.monotonic() - start:.0f} s"
        )


if __name__ == "__main__":
    main()
