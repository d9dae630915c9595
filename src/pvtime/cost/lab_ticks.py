# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions of a Linux guest's tick that account for time, with stolen time and without.

The guest runs Debian's kernel, as its host does, so that the host's list of functions serves for both: the
guest's are where they were linked, the host's KERNELOFFSET further on (KASLR), and a breakpoint stops the
guest alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pvtime.cost.lab_parts import function_counts
from pvtime.cost.lab_steps import FunctionRun, ObservedCommand, Symbols, function_run, step_through
from pvtime.errors import UsageError
from pvtime.lab.lab import Lab
from pvtime.lab.qemu import LabError

__all__ = ["TICK", "TickCost", "kernel_offset", "measure_ticks", "tick_cost"]

TICK: Final = "account_process_tick"
"""The kernel's kernel/sched/cputime.c; it is called at each tick of a CPU."""
USERLAND: Final = "__arm64_sys_execve"
"""The guest's userland is up when it first executes a program."""

ACCOUNTS: Final = "account_user_time"
"""It is called if not all of the tick was stolen."""

TICKS: Final = 3
"""Ticks of the kind that is compared."""
MOST_TICKS: Final = 200
"""Ticks after which no more are stepped through."""

GUEST: Final = ("pvtime", "run", "--engine", "kvm", "--memory", "256M", "--duration", "60", "--quiet")
WITHOUT: Final = ("--without", "0")
OFFSET: Final = "grep -a -o -m 1 'KERNELOFFSET=[0-9a-f]*' /proc/kcore | head -n 1"


@dataclass(frozen=True)
class TickCost:
    """Instructions of :data:`TICK`, with all that it calls, where the tick came while user space ran."""

    stolen_time: bool
    accounted: tuple[int, ...]
    """Ticks of which time was left to be accounted to the task."""
    stolen: tuple[int, ...]
    """Ticks of which all time was stolen: Linux accounts for nothing more."""
    functions: dict[str, int]
    """Of the first of :attr:`accounted`."""


def kernel_offset(text: str) -> int:
    """Return KERNELOFFSET of the vmcoreinfo.

    :raises ValueError: it is not in the text.
    """
    match = re.search(r"KERNELOFFSET=([0-9a-f]+)", text)
    if match is None:
        raise ValueError("no KERNELOFFSET")
    return int(match[1], 16)


def measure_ticks(lab: Lab, symbols: Symbols) -> list[TickCost]:
    """Boot a guest with stolen time and one without; step through ticks of each.

    :raises UsageError: the kernel has no such function.
    :raises LabError: the lab has stopped, or its guest ended.
    """
    try:
        offset = kernel_offset(lab.run(["sh", "-c", OFFSET]).stdout.decode(errors="replace"))
    except ValueError:
        raise LabError("the lab's kernel does not tell its KERNELOFFSET in /proc/kcore") from None
    guest = symbols.moved(-offset)
    return [_measure(lab, guest, stolen_time) for stolen_time in (True, False)]


def _measure(lab: Lab, guest: Symbols, stolen_time: bool) -> TickCost:
    tick, command = (_entry(guest, name) for name in (TICK, USERLAND))
    stub = lab.stub
    stub.interrupt()
    stub.set_breakpoint(command)
    stub.resume()
    runs: list[FunctionRun] = []
    with ObservedCommand(lab, [*GUEST, *(() if stolen_time else WITHOUT)]) as running:
        while sum(map(_accounts, runs)) < TICKS and len(runs) < MOST_TICKS:
            if not running.stops(stub):
                raise LabError(f"the lab's guest ended before {TICKS} of its ticks were seen")
            registers = stub.registers()
            if registers.pc == command:
                stub.delete_breakpoint(command)
                stub.set_breakpoint(tick)
            elif registers.x[1]:  # user_tick: it came while user space ran
                runs.append(function_run(stub, guest, step_through(stub)))
            stub.resume()
        stub.interrupt()
        stub.delete_breakpoint(tick)
        stub.resume()
        running.interrupt()
    return tick_cost(stolen_time, runs)


def _entry(guest: Symbols, name: str) -> int:
    address = guest.address(name)
    if address is None:
        raise UsageError(f"the lab's kernel has no function {name}: use another kernel")
    return address


def _accounts(run: FunctionRun) -> bool:
    return any(each.function == ACCOUNTS for each in run.path)


def tick_cost(stolen_time: bool, runs: Sequence[FunctionRun]) -> TickCost:
    """Return the cost that ticks have shown.

    :raises LabError: all of all of them was stolen.
    """
    accounted = [run for run in runs if _accounts(run)]
    if not accounted:
        raise LabError(f"all of the guest's {len(runs)} ticks were stolen: try again on a less busy machine")
    stolen = [run for run in runs if not _accounts(run)]
    return TickCost(
        stolen_time,
        tuple(len(run) for run in accounted),
        tuple(len(run) for run in stolen),
        function_counts(accounted[0]),
    )
