# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of taking turns: the engine's time beside its vCPUs', with 1 to 32 of them busy.

Bare vCPUs that only spin, so that nothing else leaves the emulated CPU. The figure is the share of the engine
thread's CPU time that it spends outside the library, in windows of a fixed amount of CPU time.
"""

from __future__ import annotations

import argparse
import time
from typing import Final

from table import Row, print_rows

from pvtime.abi.psci import Psci
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import RAM_BASE
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.probe.assembler import Program

VCPUS: Final = (1, 2, 8, 32)
GOAL: Final = 0.03
WINDOW_NS: Final = 300_000_000
"""CPU time of the engine's thread in a round."""
COUNTS: Final = RAM_BASE + (1 << 20)
"""Address of the words that each vCPU sets when it spins."""


def spinner(vcpus: int) -> Program:
    """Return a guest whose vCPUs are all on and spin."""
    program = Program(RAM_BASE)
    for target in range(1, vcpus):
        program.mov(0, Psci.CPU_ON_64).mov(1, (target >> 4 << 8) | (target & 15)).adr(2, "spin").mov(
            3, target
        )
        program.hvc()
    program.mov(0, 0).label("spin").mov(10, COUNTS).add_register(10, 10, 0, shift=3).mov(12, 1)
    return program.store(12, 10).label("again").b("again")


def shares(vcpus: int, rounds: int) -> list[float]:
    """Return the share of each round."""
    config = MachineConfig(vcpus, 64 << 20, KernelImage(spinner(vcpus).assemble(), 0, 2 << 20, None))
    machine = Machine(config, lambda _: None, lambda _: None)
    engine = UnicornEngine(machine)
    core = engine.vm.core
    execute, inside = core._execute, 0

    def timed() -> int:
        nonlocal inside
        begin = time.thread_time_ns()
        status = execute()
        inside += time.thread_time_ns() - begin
        return status

    def read() -> tuple[int, int]:
        return time.thread_time_ns(), inside

    core._execute = timed  # type: ignore[method-assign]
    found = []
    try:
        engine.start()
        while not all(machine.memory.load_u64(COUNTS + 8 * vcpu) for vcpu in range(vcpus)):
            if engine.wait(0.01) is not None:
                raise SystemExit("the guest that spins ended by itself")
        for _ in range(rounds):
            began = now = engine.call(read)
            while now[0] - began[0] < WINDOW_NS:
                time.sleep(0.05)
                now = engine.call(read)
            total = now[0] - began[0]
            found.append((total - (now[1] - began[1])) / total)
    finally:
        engine.stop()
        machine.close()
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="windows for each (default: 5)")
    rounds = max(1, parser.parse_args().rounds)
    for vcpus in VCPUS:
        name = f"share of the engine beside {vcpus} busy vCPU{'s' if vcpus > 1 else ''}"
        print_rows([Row(6, name, shares(vcpus, rounds), GOAL)])


if __name__ == "__main__":
    main()
