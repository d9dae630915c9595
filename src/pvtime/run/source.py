# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the machine that is run comes from: a kernel that boots, a saved machine, or another process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from pvtime.engine import registry
from pvtime.engine.base import Engine
from pvtime.errors import UsageError
from pvtime.inject.schedule import Schedule
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.run import guest
from pvtime.run.inbox import Inbox
from pvtime.steal.placement import PlacementName

if TYPE_CHECKING:
    from pvtime.snapshot.contents import SavedMachine

__all__ = ["Arriving", "Booting", "Made", "Restoring", "Source"]


@dataclass(frozen=True)
class Made:
    """A machine with an engine that has not started."""

    machine: Machine
    engine: Engine
    agent: bool
    """The stock userland answers on the second serial port."""
    reason: str
    """Why this engine."""
    resumed: bool = False
    release: str | None = None
    on_start: Callable[[], object] | None = None


class Source(Protocol):
    """Makes the machine."""

    def make(self, inbox: Inbox, screen: os.terminal_size, output: TextIO | None) -> Made:
        """Make it, and the engine.

        :param screen: the size of an interactive guest's terminal; (0, 0) where there is none.
        :param output: where to tell what takes its time; None: nowhere.
        :raises PvtimeError: it cannot be had, or not be run here.
        """


RESUMED: Final = "it ran on that"
"""Why a machine that comes from elsewhere has its engine."""


def _same_engine(saved: SavedMachine) -> registry.EngineKind:
    """Return the engine that a machine ran on.

    :raises UsageError: there is no such engine, or this host cannot use it.
    """
    kind, _ = registry.choose(saved.engine)
    if kind.name != saved.engine:
        raise UsageError(f"the machine ran on {saved.engine!r}, which is no engine")
    return kind


def _build(
    config: MachineConfig, kind: registry.EngineKind, options: Mapping[str, str], inbox: Inbox
) -> tuple[Machine, Engine]:
    machine = Machine(config, console=inbox.console, agent=inbox.agent)
    try:
        return machine, kind.build(machine, options)
    except BaseException:
        machine.close()
        raise


@dataclass(frozen=True)
class Booting:
    """A kernel that boots. ``memory`` in bytes."""

    wishes: guest.Wishes
    memory: int
    cpu: str | None
    engine: str
    options: Mapping[str, str]
    placement: PlacementName
    no_pvtime: frozenset[int]
    steal: Schedule

    def make(self, inbox: Inbox, screen: os.terminal_size, output: TextIO | None) -> Made:
        """See :meth:`Source.make`."""
        kind, reason = registry.choose(self.engine)
        chosen = guest.choose(self.wishes, screen, os.environ.get("TERM", ""), output)
        config = MachineConfig(
            vcpus=self.wishes.vcpus,
            memory=self.memory,
            kernel=chosen.kernel,
            initrd=chosen.initrd,
            append=chosen.append,
            cpu=self.cpu,
            placement=self.placement,
            no_pvtime=self.no_pvtime,
            steal=self.steal,
        )
        machine, engine = _build(config, kind, self.options, inbox)
        return Made(machine, engine, chosen.agent, f"{kind.name}: {reason}")


@dataclass(frozen=True)
class Restoring:
    """A saved machine."""

    directory: Path
    options: Mapping[str, str]
    steal: Schedule

    def make(self, inbox: Inbox, screen: os.terminal_size, output: TextIO | None) -> Made:
        """See :meth:`Source.make`."""
        from pvtime.snapshot.description import about, config_of
        from pvtime.snapshot.load import load
        from pvtime.snapshot.state import restore

        with load(self.directory) as saved:
            its = about(saved.machine)
            kind = _same_engine(saved.machine)
            config = replace(config_of(saved.machine), steal=self.steal)
            machine, engine = _build(config, kind, self.options, inbox)
            with contextlib.ExitStack() as undo:
                undo.callback(machine.close)
                saved.fill(machine.memories)
                restore(saved.machine.state, machine, engine)
                undo.pop_all()
        return Made(machine, engine, its.agent, f"{kind.name}: {RESUMED}", resumed=True, release=its.release)


@dataclass(frozen=True)
class Arriving:
    """A machine that another process sends to ``address``."""

    address: str
    options: Mapping[str, str]
    steal: Schedule

    def make(self, inbox: Inbox, screen: os.terminal_size, output: TextIO | None) -> Made:
        """See :meth:`Source.make`."""
        from pvtime.snapshot.address import Address, first_peer
        from pvtime.snapshot.description import about, config_of
        from pvtime.snapshot.receive import confirm, receive
        from pvtime.snapshot.stream import Stream

        address = Address.parse(self.address)
        described: list[SavedMachine] = []

        def build(saved: SavedMachine) -> tuple[Machine, Engine]:
            kind = _same_engine(saved)
            config = replace(config_of(saved), steal=self.steal)
            described.append(saved)
            return _build(config, kind, self.options, inbox)

        listener = address.listen()
        if output is not None:
            print(f"pvtime: waiting for a machine at {address}", file=output, flush=True)
        stream = Stream(first_peer(listener))
        machine, engine = receive(stream, build)
        its = about(described[0])
        return Made(
            machine,
            engine,
            its.agent,
            f"{engine.name}: {RESUMED}",
            resumed=True,
            release=its.release,
            on_start=lambda: confirm(stream),
        )
