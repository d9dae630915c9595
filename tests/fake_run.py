# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime`` with an engine without a guest, as a program: for tests that send signals to a process.

The kernel's command line says what the engine does: ``end`` powers off at once, ``trip`` raises in another
thread, ``panic`` prints what a kernel prints that panics, ``flood`` prints without end; else it runs until it
is stopped.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping

from framework.fakes import FakeEngine
from pvtime.__main__ import main
from pvtime.engine.base import Engine
from pvtime.engine.registry import EngineKind, preferred
from pvtime.inject.schedule import NOTHING, Schedule
from pvtime.machine.machine import Machine

__all__ = ["GREETING"]

GREETING = b"guest says hello\r\n"
FLOOD = 256 << 10
"""Bytes: a pipe holds 64 KiB."""


class GreetingEngine(FakeEngine):
    """Prints a line on the console when it starts, and then does what the command line says."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.config.vcpus)
        self._machine = machine

    def start(self) -> None:
        """Greet."""
        super().start()
        for byte in GREETING:
            self._machine.console.write(0, 1, byte)
        match self._machine.config.append:
            case "end":
                self.power_off()
            case "panic":
                for byte in b"[    1.000000] Kernel panic - not syncing: a test\r\n":
                    self._machine.console.write(0, 1, byte)
            case "flood":
                threading.Thread(target=self._flood, daemon=True).start()
            case "trip":
                self.fail(ZeroDivisionError("a bug"))

    def _flood(self) -> None:
        """Print at once what no pipe holds, and from then on a line now and then."""
        printed = 0
        while self.wait(0 if printed < FLOOD else 0.005) is None:
            for byte in GREETING:
                self._machine.console.write(0, 1, byte)
            printed += len(GREETING)


def build(machine: Machine, options: Mapping[str, str], steal: Schedule = NOTHING) -> Engine:
    """Make the engine, as the table of engines wants it."""
    return GreetingEngine(machine)


if __name__ == "__main__":
    with preferred(EngineKind("fake", "a test", lambda: None, lambda: "a test", build)):
        sys.exit(main())
