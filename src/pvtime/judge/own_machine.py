# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of the embedded engine as the subject of a judgement."""

from __future__ import annotations

import contextlib
import queue
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pvtime import __version__
from pvtime.engine.base import Engine
from pvtime.judge.growth import Restored
from pvtime.judge.subject import Subject
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.probe.guest import machine_with_engine
from pvtime.snapshot.description import Description
from pvtime.snapshot.directory import load, write
from pvtime.snapshot.state import SavedState

__all__ = ["OwnMachine"]

GUEST: Final = "guest"


class OwnMachine(Subject):
    """A machine in this process, whose engine knows what it steals; the schedule that it was given steals.

    It runs for the time of a ``with`` block.

    :param build: makes the engine, also that of the machine which is restored.
    """

    def __init__(self, build: Callable[[Machine], Engine], config: MachineConfig) -> None:
        self._build = build
        self._config = config
        self._console: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._starts: dict[int, int] = {}
        self._life = contextlib.ExitStack()

    def __enter__(self) -> OwnMachine:
        with contextlib.ExitStack() as life:
            self._machine, self._engine = self._make(life)
            self._engine.start()
            self._life = life.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._life.close()

    def _make(self, life: contextlib.ExitStack) -> tuple[Machine, Engine]:
        return life.enter_context(machine_with_engine(self._build, self._config, self._console.put))

    def read(self, timeout_s: float) -> bytes | None:
        """See :meth:`Subject.read`."""
        ended = self._engine.wait(0) is not None
        output = b""
        with contextlib.suppress(queue.Empty):
            output = self._console.get(timeout=0 if ended else timeout_s)
            while True:
                output += self._console.get_nowait()
        return None if ended and not output else output

    def run_delays(self) -> dict[int, int]:
        """Return what was stolen since each vCPU's last PV_TIME_ST.

        A vCPU that has made one since the last reading is left out.
        """
        samples = self._engine.sample()
        before, self._starts = self._starts, {sample.index: sample.starts for sample in samples}
        return {
            sample.index: sample.truth_ns for sample in samples if before.get(sample.index) == sample.starts
        }

    @contextlib.contextmanager
    def stealing(self) -> Iterator[None]:
        """Do nothing more than the machine's schedule."""
        yield

    def pause(self, seconds: float) -> None:
        """See :meth:`Subject.pause`."""
        self._engine.pause()
        time.sleep(seconds)
        self._engine.resume()

    def migrate(self) -> Restored:
        """Save the machine to a directory and restore it in another engine, on another thread."""
        self._engine.pause()
        description = Description(self._engine.name, self._config, agent=False, release=None)
        with tempfile.TemporaryDirectory(prefix="pvtime-judge-") as folder:
            path = Path(folder) / GUEST
            write(path, description, SavedState.of(self._machine, self._engine), self._machine.memories)
            at_rest = {sample.index: sample.truth_ns for sample in self._engine.sample()}
            self._life.close()
            with contextlib.ExitStack() as life:
                self._machine, self._engine = self._make(life)
                with load(path) as saved:
                    saved.restore(self._machine, self._engine)
                self._engine.start()
                self._life = life.pop_all()
        return Restored(at_rest)

    def complaint(self) -> str:
        """Return nothing: an engine's failure is an exception."""
        return ""

    def version(self) -> str:
        """Return pvtime's version."""
        return f"pvtime {__version__}"
