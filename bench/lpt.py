#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of a clock: the counter, a counter that traps, and Live Physical Time (never merged into Linux).

The guest's part is the time on the CPU of a loop of readings on the embedded engine, less that of an empty
loop: an emulated CPU's, so that the ratios count. The host's is this program's own code.
"""

from __future__ import annotations

import statistics
import timeit
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Final

from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime
from pvtime.engine.base import COUNTER_FREQUENCY
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME
from pvtime.machine.machine import MachineConfig
from pvtime.machine.memory_map import MemoryMap
from pvtime.machine.timer import MAX_HZ, MIN_HZ, NATIVE
from pvtime.probe.assembler import Program
from pvtime.probe.guest import guest, machine_with_engine
from pvtime.steal.account import Account
from pvtime.steal.live_physical_time import LivePhysicalTime, scale
from pvtime.steal.placement import PlacementName
from pvtime.steal.placements import make_placement

REPEATS: Final = 7
ROUNDS: Final = 20_000
FREQUENCY: Final = 25_000_000

PAIRS: Final = (
    (62_500_000, 25_000_000),
    (62_500_000, 1_000_000_000),
    (62_500_000, 19_200_000),
    (MAX_HZ - 1, MIN_HZ + 1),
)
"""Frequencies of Live Physical Time and of the host's counter; the last is the worst."""
SPANS: Final = {"an hour": 3600, "a century": 100 * 365 * 86_400 + 25 * 86_400}

_COUNTER: Final = (
    0xD503_3FDF,  # isb
    0xD53B_E041,  # mrs x1, cntvct_el0
)
_LPT: Final = (
    0xF940_0503,  # 0: ldr x3, [x8, #8]  sequence_number
    0xD503_39BF,  # dmb ishld
    *_COUNTER,
    0xF940_0D04,  # ldr x4, [x8, #24]  scale_mult
    0xB940_2905,  # ldr w5, [x8, #40]  fracbits
    0x9B01_7C86,  # mul x6, x4, x1
    0x9BC1_7C87,  # umulh x7, x4, x1
    0x9AC5_24C6,  # lsr x6, x6, x5
    0xCB05_03E5,  # neg x5, x5
    0x9AC5_20E7,  # lsl x7, x7, x5
    0xAA07_00C0,  # orr x0, x6, x7
    0xD503_39BF,  # dmb ishld
    0xF940_0504,  # ldr x4, [x8, #8]
    0xEB03_009F,  # cmp x4, x3
    0x54FF_FE21,  # b.ne 0b
)


@dataclass(frozen=True)
class Clock:
    """A way to read the time."""

    name: str
    instructions: tuple[int, ...]
    reads: int
    hz: int


CLOCKS: Final = (
    Clock("the counter", _COUNTER, 4_000_000, NATIVE.hz),
    Clock("Live Physical Time", _LPT, 4_000_000, NATIVE.hz),
    Clock("a counter that traps", _COUNTER, 200_000, FREQUENCY),
    Clock("Live Physical Time, trapping", _LPT, 200_000, FREQUENCY),
)


def run_ns(instructions: tuple[int, ...], reads: int, hz: int) -> int:
    """Return the time that a guest runs which reads a clock so often."""
    code = Program(RAM_BASE)
    code.mov(0, PvTime.LPT).hvc().add(8, 0, 0).mov(9, reads).label("again").word(*instructions)
    code.sub(9, 9, 1).cbnz(9, "again").mov(0, Psci.SYSTEM_OFF).hvc()
    kernel = KernelImage(code.assemble(), 0, 0x1000, None)
    config: MachineConfig = replace(guest(1), kernel=kernel, lpt=NATIVE.hz)
    options = {COUNTER_FREQUENCY: str(hz)}
    with machine_with_engine(lambda machine: UnicornEngine(machine, options), config) as (_, engine):
        engine.start()
        engine.wait()
        return engine.sample()[0].ran_ns


def guest_costs() -> dict[str, list[float]]:
    """Return the time of a reading, in ns, by the clock; in turn."""
    costs: dict[str, list[float]] = {clock.name: [] for clock in CLOCKS}
    for _ in range(REPEATS):
        for clock in CLOCKS:
            empty = run_ns((), clock.reads, clock.hz)
            costs[clock.name].append(
                (run_ns(clock.instructions, clock.reads, clock.hz) - empty) / clock.reads
            )
    return costs


def host_costs() -> tuple[float, float]:
    """Return the time, in ns, of the structure's update at a run, and of stolen time's at a vCPU load."""
    memories = MemoryMap([])
    placement = make_placement(PlacementName.USERSPACE, memories, 1, STOLEN_TIME.base)
    lpt, account = LivePhysicalTime(placement.lpt(), NATIVE.hz), Account(placement.structure(0))
    run = timeit.repeat(partial(lpt.begin_run, FREQUENCY), number=ROUNDS, repeat=REPEATS)
    delays = iter(range(1, (REPEATS + 1) * ROUNDS + 2))
    load = timeit.repeat(lambda: account.update_stolen_time(next(delays)), number=ROUNDS, repeat=REPEATS)
    memories.close()
    return statistics.median(run) / ROUNDS * 1e9, statistics.median(load) / ROUNDS * 1e9


def scale_error(pv_hz: int, native_hz: int, seconds: int) -> float:
    """Return by how much the scale alone makes a clock slow after so long, in ticks of its own."""
    factor = scale(pv_hz, native_hz)
    exact = Fraction(pv_hz, native_hz) - Fraction(factor.mult, 1 << factor.fracbits)
    return float(exact * seconds * native_hz)


def main() -> None:
    """Print a line for each."""
    costs = guest_costs()
    raw = statistics.median(costs[CLOCKS[0].name])
    for clock in CLOCKS:
        ns = statistics.median(costs[clock.name])
        print(
            f"{clock.name:30} {len(clock.instructions):3} instructions  {ns:7.0f} ns "
            f"({min(costs[clock.name]):.0f} to {max(costs[clock.name]):.0f}), {ns / raw:5.1f} times"
        )
    run, load = host_costs()
    print(f"host: the structure, once a run of the machine: {run:.0f} ns")
    print(f"host: a count of stolen time, at each load of a vCPU: {load:.0f} ns")
    for pv_hz, native_hz in PAIRS:
        errors = ", ".join(
            f"{scale_error(pv_hz, native_hz, span):.1g} in {name}" for name, span in SPANS.items()
        )
        bits = scale(pv_hz, native_hz).fracbits
        print(f"{native_hz} Hz as {pv_hz} Hz: {bits} bits behind the point; slow by {errors}, in ticks")


if __name__ == "__main__":
    main()
