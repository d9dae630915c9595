# SPDX-License-Identifier: GPL-2.0-or-later
"""Warm starts: a stock guest is booted once, kept in the cache as it reports first, and resumed from there.

A kept guest is found by all that it depends on: kernel and userland, the machine and its command line, the
engine with its options, the CPU emulator or the host's kernel, and pvtime's own files. It is a saved machine
(docs/saved.md), verified whenever it is resumed; a damaged one is booted again. Together they are bounded in
size: those that were used the longest time ago go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from dataclasses import field, replace
from pathlib import Path
from typing import Final

from pvtime.engine import registry
from pvtime.engine.base import Engine
from pvtime.errors import EngineError, SavedStateError, UsageError
from pvtime.images import manifest
from pvtime.images.cache import cache_directory, cache_errors, exclusive, silent
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.records import dataclass
from pvtime.run.guest_files import GuestFiles
from pvtime.run.inbox import Inbox
from pvtime.run.options import GuestOptions, RunOptions
from pvtime.run.source import BuiltMachine, FromKernel, FromSaved
from pvtime.run.timetable import SessionTimeouts
from pvtime.snapshot.description import Description
from pvtime.snapshot.directory import write
from pvtime.snapshot.state import SavedState
from pvtime.userland.build import SCRIPTS
from pvtime.userland.protocol import AgentDecoder, Ready, StatReport, encode

__all__ = ["FromWarm", "WarmGuest", "evict"]

LIMIT: Final = 2 << 30
"""Bytes on the disk of all kept guests. One of 512 MB that has just booted takes 80 MiB."""

POLL_INTERVAL_S: Final = 0.1
"""Between two checks whether the guest has ended."""


@dataclass(frozen=True)
class FromWarm:
    """Resume a stock guest that was kept at the start of its userland; boot and keep it if there is none."""

    guest: GuestOptions

    def build(self, options: RunOptions, inbox: Inbox, screen: os.terminal_size) -> BuiltMachine:
        """Find the guest, or boot it, and build the machine that continues it.

        :raises UsageError: the guest cannot be saved, or an image is invalid or not available.
        :raises EngineError: it did not reach its userland.
        """
        kept = WarmGuest.of(self.guest, options)
        resumed = kept.resume(options, inbox, screen)
        if resumed is None:
            kind, _ = registry.choose(self.guest.engine)
            config = FromKernel(self.guest).config(kind, options, inbox, screen, GuestFiles())
            kept = WarmGuest.of(self.guest, options)  # the stock images may have been fetched just now
            with exclusive(kept.lock, silent):
                # Another process may have booted it meanwhile.
                resumed = kept.resume(options, inbox, screen)
                if resumed is None:
                    _boot(kept, config, kind, options)
                    resumed = kept.resume(options, inbox, screen)
        if resumed is None:
            raise EngineError(f"{kept.directory} has gone: another process needed its room; try again")
        agent = resumed.machine.agent
        seed = encode("seed", *(secrets.randbits(63) for _ in range(4)))
        return replace(
            resumed, reason=f"{resumed.engine.name}: warm start", on_start=lambda: agent.receive(seed)
        )


def _boot(kept: WarmGuest, config: MachineConfig, kind: registry.EngineKind, options: RunOptions) -> None:
    """Boot the guest, and keep it."""
    if options.progress_output is not None:
        print("pvtime: booting a guest for this and later warm starts", file=options.output, flush=True)
    booted = Booted()
    machine = Machine(config, console=booted.console, agent=booted.agent)
    with contextlib.ExitStack() as stack:
        stack.callback(machine.close)
        engine = kind.build(machine, options.engine_options)
        stack.callback(engine.stop)
        try:
            engine.check_savable()
        except EngineError as error:
            raise UsageError(f"--warm: {error}") from error
        engine.start()
        booted.wait(engine, options.boot_timeout or SessionTimeouts().boot)
        engine.pause()
        kept.write(config, machine, engine, booted.release)


class Booted:
    """A guest's first words, from the engine's thread."""

    def __init__(self) -> None:
        self.release: str | None = None
        self._decoder = AgentDecoder()
        self._reported = threading.Event()
        self._last = b""

    def console(self, data: bytes) -> None:
        """Take output of its console."""
        self._last = (self._last + data)[-400:]

    def agent(self, data: bytes) -> None:
        """Take output of its agent."""
        for message in self._decoder.feed(data):
            if isinstance(message, Ready):
                self.release = message.release
            elif isinstance(message, StatReport) and self.release is not None:
                self._reported.set()

    def wait(self, engine: Engine, seconds: float) -> None:
        """Wait for its first report of /proc/stat: its busy loops have been started then.

        :raises EngineError: it ended before, or took longer.
        """
        end = time.monotonic() + seconds
        while not self._reported.wait(POLL_INTERVAL_S):
            if engine.wait(0) is not None or time.monotonic() > end:
                lines = self._last.decode("ascii", "replace").splitlines()
                last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
                raise EngineError(
                    f"--warm: the guest did not reach its userland in {seconds:g} s: leave out --warm to see "
                    f"its console, whose last line is: {last}"
                )


@dataclass(frozen=True)
class WarmGuest:
    """Place of a kept guest in the cache."""

    directory: Path
    lock: Path = field(init=False)
    """Held while it is booted."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lock", self.directory.with_suffix(".lock"))

    @classmethod
    def of(cls, guest: GuestOptions, options: RunOptions) -> WarmGuest:
        """Return the place of the guest that these options describe; it may be empty.

        :raises UsageError: an image of the user's is invalid.
        """
        kind, _ = registry.choose(guest.engine)
        cache = cache_directory()
        parts = {
            "images": _images(cache, guest),
            "guest": repr(replace(guest, kernel=None, engine=registry.AUTO, no_pvtime=frozenset())),
            "without": sorted(guest.no_pvtime),
            "lpt": options.lpt,
            "engine": [kind.name, kind.identity(), sorted(options.engine_options.items())],
            "pvtime": _own_files(),
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return cls(cache / "warm" / digest[:32])

    def resume(self, options: RunOptions, inbox: Inbox, screen: os.terminal_size) -> BuiltMachine | None:
        """Return the machine that continues it; None if there is none, or none that is sound."""
        if not self.directory.is_dir():
            return None
        try:
            built = FromSaved(self.directory).build(options, inbox, screen)
        except SavedStateError as error:
            if options.progress_output is not None:
                print(f"pvtime: {error}: it is booted again", file=options.output, flush=True)
            shutil.rmtree(self.directory, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(self.directory)  # as used now
        return built

    def write(self, config: MachineConfig, machine: Machine, engine: Engine, release: str | None) -> None:
        """Keep a paused guest, and give up others where there is no room.

        :raises SavedStateError: it cannot be written.
        """
        with cache_errors(self.directory):
            self.directory.parent.mkdir(parents=True, exist_ok=True)
        description = Description(engine.name, config, agent=True, release=release)
        write(self.directory, description, SavedState.of(machine, engine), machine.memories)
        evict(self.directory.parent, LIMIT, keep=self.directory)


def evict(folder: Path, limit: int, *, keep: Path) -> None:
    """Remove the guests that were used the longest time ago, until all take ``limit`` bytes at most.

    :param keep: the guest that stays in any case.
    """
    found = [path for path in folder.iterdir() if path.is_dir() and path != keep]
    left = limit - _size(keep)
    for path in sorted(found, key=_used, reverse=True):
        left -= _size(path)
        if left < 0:
            shutil.rmtree(path, ignore_errors=True)
            path.with_suffix(".lock").unlink(missing_ok=True)


def _used(path: Path) -> float:
    """Return the time at which a guest was used last; 0 if it has gone."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _size(path: Path) -> int:
    """Return the bytes that a directory's files take on the disk."""
    size = 0
    with contextlib.suppress(OSError):
        for file in path.iterdir():
            size += file.stat().st_blocks * 512
    return size


def _images(cache: Path, guest: GuestOptions) -> list[str]:
    """Return what tells kernel and userland from others: the checksums of the stock ones are on record."""
    stock = manifest.read(cache)
    images = [stock[name].sha256 if name in stock else "" for name in manifest.STOCK]
    if guest.kernel is not None:
        with contextlib.suppress(OSError):  # it is refused, by name, where it is read
            images[0] = hashlib.sha256(guest.kernel.read_bytes()).hexdigest()
    return [*images, *(hashlib.sha256(script.read_bytes()).hexdigest() for script in SCRIPTS)]


def _own_files() -> list[tuple[str, int, int]]:
    """Return what tells this pvtime's files from those of another: 220 names, sizes and times take 2 ms."""
    files = []
    folders = [str(Path(__file__).parents[1])]
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                elif entry.name.endswith(".py"):
                    status = entry.stat()
                    files.append((entry.path, status.st_size, status.st_mtime_ns))
    return sorted(files)
