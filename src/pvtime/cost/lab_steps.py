# SPDX-License-Identifier: GPL-2.0-or-later
"""Single steps through functions of the emulated host's kernel, from outside.

A breakpoint at the function's entry, then one step of QEMU's gdbstub after the other until it has returned:
every instruction is seen with its address, and nothing in the kernel is changed for it, so that no tracer's
cost has to be taken away. That is why it is preferred to function_graph and to kprobes, whose own
instructions are several times as many as the function's. QEMU takes no interrupt during a step.

What is observed lies between two calls of getsid(2) by the command that runs in the lab: a system call that
nothing else makes there.
"""

from __future__ import annotations

import bisect
import gzip
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pvtime.errors import UsageError
from pvtime.lab.gdbstub import GdbStub
from pvtime.lab.lab import Lab
from pvtime.lab.qemu import LabError
from pvtime.lab.result import CompletedRun

__all__ = [
    "ExecutedInstruction",
    "FunctionRun",
    "ObservedCommand",
    "Symbols",
    "function_run",
    "observe",
    "read_symbols",
    "step_through",
]

MARK: Final = "__arm64_sys_getsid"
"""The function of the system call that surrounds what is observed."""

MAX_STEPS: Final = 100_000
"""Instructions after which a function is given up."""

POLL_INTERVAL_S: Final = 0.5
"""Between two looks whether the command has ended without coming to a breakpoint."""

SYMBOLS: Final = "symbols.gz"
LIST_SYMBOLS: Final = f"grep -E ' [tTwW] ' /proc/kallsyms | gzip -1 > {SYMBOLS}"


class Symbols:
    """Functions of a kernel, from the lines of /proc/kallsyms; others are passed over."""

    def __init__(self, lines: Iterable[str]) -> None:
        found = [match for line in lines if (match := _SYMBOL.match(line))]
        pairs = sorted((int(match[1], 16), match[2]) for match in found)
        self._addresses = [address for address, _ in pairs]
        self._names = [name for _, name in pairs]
        self._by_name = {name: address for address, name in reversed(pairs)}

    def address(self, name: str) -> int | None:
        """Return a function's address; None: there is none of that name."""
        return self._by_name.get(name)

    def moved(self, offset: int) -> Symbols:
        """Return the same functions ``offset`` bytes further on."""
        moved = Symbols(())
        moved._addresses = [address + offset for address in self._addresses]
        moved._names = self._names
        moved._by_name = {name: address + offset for name, address in self._by_name.items()}
        return moved

    def function(self, address: int) -> tuple[str, int]:
        """Return the function that an address is in, and the offset there; no name before the first one."""
        index = bisect.bisect_right(self._addresses, address) - 1
        if index < 0:
            return "", address
        return self._names[index], address - self._addresses[index]


_SYMBOL: Final = re.compile(r"([0-9a-f]{1,16}) [tTwW] ([^\s$]\S*)")
"""A function, but not a mapping symbol (``$x``)."""


def read_symbols(lab: Lab) -> Symbols:
    """Return the functions of the lab's kernel.

    :raises LabError: the lab has stopped, or its kernel does not list them.
    """
    with tempfile.TemporaryDirectory(prefix="pvtime-cost-") as name:
        path = Path(name) / SYMBOLS
        lab.run(["sh", "-c", LIST_SYMBOLS], out_files={SYMBOLS: path})
        symbols = Symbols(gzip.decompress(path.read_bytes()).decode().splitlines()) if path.exists() else None
    if symbols is None or not symbols.address(MARK):
        raise LabError(f"/proc/kallsyms of the lab's kernel does not list {MARK}: use another kernel")
    return symbols


@dataclass(frozen=True)
class ExecutedInstruction:
    """An executed instruction."""

    function: str
    offset: int
    """Bytes from the function's start."""
    word: int


@dataclass(frozen=True)
class FunctionRun:
    """One call of a function, with what it called."""

    path: tuple[ExecutedInstruction, ...]

    def __len__(self) -> int:
        """Return the number of instructions."""
        return len(self.path)

    @property
    def function(self) -> str:
        """The name of the function."""
        return self.path[0].function


def step_through(stub: GdbStub) -> list[int]:
    """Step the CPU that stands at a function's entry until it has returned; return the addresses.

    :raises LabError: it does not return.
    """
    registers = stub.registers()
    back, stack = registers.x[30], registers.sp
    path: list[int] = []
    for _ in range(MAX_STEPS):
        path.append(registers.pc)
        registers = stub.step(registers)
        if (registers.pc, registers.sp) == (back, stack):
            return path
    raise LabError(f"the function at {path[0]:#x} did not return within {MAX_STEPS} instructions")


def observe(
    lab: Lab, symbols: Symbols, command: Sequence[str], functions: Sequence[str], calls: int
) -> Iterator[list[FunctionRun]]:
    """Run a command in the lab; yield the calls of ``functions`` between each two calls of getsid(2).

    Iterate to the end, or leave the lab.

    :param calls: the most that are stepped through, the first ones.
    :raises UsageError: the kernel has no such function, as the compiler has inlined it.
    :raises LabError: the lab has stopped, or the command failed.
    """
    entries = [_entry(symbols, name) for name in functions]
    mark = _entry(symbols, MARK)
    stub = lab.stub
    stub.interrupt()
    stub.set_breakpoint(mark)
    stub.resume()
    with ObservedCommand(lab, command) as running:
        while running.stops(stub):
            for entry in entries:
                stub.set_breakpoint(entry)
            runs: list[FunctionRun] = []
            stub.resume()
            while running.stops(stub) and stub.registers().pc != mark:
                runs.append(function_run(stub, symbols, step_through(stub)))
                if len(runs) == calls:
                    for entry in entries:
                        stub.delete_breakpoint(entry)
                stub.resume()
            if len(runs) < calls:
                for entry in entries:
                    stub.delete_breakpoint(entry)
            yield runs
            stub.resume()
    stub.interrupt()
    stub.delete_breakpoint(mark)
    stub.resume()


def _entry(symbols: Symbols, name: str) -> int:
    address = symbols.address(name)
    if address is None:
        raise UsageError(
            f"the lab's kernel has no function {name}: its compiler has inlined it, so use another kernel"
        )
    return address


def function_run(stub: GdbStub, symbols: Symbols, path: Sequence[int]) -> FunctionRun:
    """Return the run whose addresses were stepped through, before the CPU goes on."""
    words = {address: int.from_bytes(stub.read(address, 4), "little") for address in set(path)}
    return FunctionRun(
        tuple(ExecutedInstruction(*symbols.function(address), words[address]) for address in path),
    )


class ObservedCommand:
    """A command that runs in the lab beside its observation.

    :raises LabError: at the end: the lab has stopped, or the command failed.
    """

    def __init__(self, lab: Lab, argv: Sequence[str]) -> None:
        self._lab = lab
        self._executor = ThreadPoolExecutor(1, "pvtime-cost")
        self._argv = argv
        self._interrupted = False
        self._result: Future[CompletedRun] = self._executor.submit(lab.run, argv)

    def __enter__(self) -> Self:
        """It has started."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for its end; after an error it may still run, and ends with the lab."""
        self._executor.shutdown(wait=False)
        if kind is None:
            result = self._result.result()
            if result.exit_code and not self._interrupted:
                text = (result.stdout + result.stderr).decode(errors="replace").strip()
                last = text.splitlines()[-1] if text else "without a word"
                raise LabError(f"{' '.join(self._argv[:3])} failed in the lab: {last}")

    def stops(self, stub: GdbStub) -> bool:
        """Wait for the next stop; return false if the command has ended instead."""
        while not stub.stopped(POLL_INTERVAL_S):
            if self._result.done():
                return False
        return True

    def interrupt(self) -> None:
        """End it by Ctrl-C; it need not succeed then."""
        self._interrupted = True
        self._lab.interrupt()
