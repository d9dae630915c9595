# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that leave their machine, and come to life in another after."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pvtime.engine.base import Engine, VcpuSample
from pvtime.errors import MigrationError, PvtimeError
from pvtime.machine.layout import RAM_BASE, Region
from pvtime.machine.machine import Machine
from pvtime.probe.probe import Probe
from pvtime.run.exporter import Exporter
from pvtime.scenario.env import EVENT_TIMEOUT_S, ScenarioEnv, await_stolen, device_attributes
from pvtime.scenario.events import Finding
from pvtime.scenario.guest_side import GuestSide
from pvtime.snapshot.description import Description
from pvtime.snapshot.directory import load
from pvtime.snapshot.receive import ReceivedMachine, confirm, receive
from pvtime.snapshot.send import MigrationResult, send
from pvtime.snapshot.stream import MigrationStream

__all__ = ["CountingGuest", "count_after", "exporter", "guest_with_count", "migrated", "needs", "revived"]

MEMORY: Final = RAM_BASE + (16 << 20)


@dataclass(frozen=True)
class CountingGuest:
    """A guest with two vCPUs that have stolen time."""

    probe: Probe
    kernel: GuestSide
    structures: list[int]
    """Address of each vCPU's structure."""


@contextlib.contextmanager
def guest_with_count(env: ScenarioEnv) -> Iterator[CountingGuest]:
    """Start a guest, and wait until something was stolen from each of its vCPUs."""
    kernel = env.guest_side(MEMORY)
    with env.boot() as probe:
        guest = CountingGuest(probe, kernel, [kernel.enable(probe, index) for index in range(2)])
        await_stolen(probe, 0, 1)
        yield guest


def exporter(probe: Probe) -> Exporter:
    """Return an exporter of the probe's machine, which it pauses when that has left."""
    ended = probe.engine.pause
    return Exporter(probe.engine, probe.machine, agent=False, release=lambda: None, ended=lambda _: ended())


@contextlib.contextmanager
def revived(env: ScenarioEnv, path: Path, stolen_time: Region | None = None) -> Iterator[Probe]:
    """Start a machine that was saved.

    :param stolen_time: give the structures this region, and not the one that they had.
    :raises PvtimeError: it cannot be restored so.
    """
    with load(path) as saved:
        machine, engine = _make(env, saved.description, stolen_time)
        with _running(machine, engine):
            saved.restore(machine, engine)
            engine.start()
            yield Probe(machine, engine)


@contextlib.contextmanager
def migrated(env: ScenarioEnv, probe: Probe) -> Iterator[tuple[Probe, MigrationResult]]:
    """Move a machine to another engine, over a socket, and resume it there."""
    here, there = socket.socketpair()
    target = _Target(env, MigrationStream(there))
    target.start()
    stream = MigrationStream(here)
    description = Description(probe.engine.name, probe.machine.config, agent=False, release=None)
    try:
        moved = send(stream, probe.machine, probe.engine, description, paused_timeout_s=EVENT_TIMEOUT_S)
    finally:
        stream.close()  # whatever went wrong, the target hears of it
        target.join()
    if target.arrived is None:
        raise target.error or MigrationError("no machine has arrived")
    machine, engine = target.arrived.machine, target.arrived.engine
    with _running(machine, engine):
        yield Probe(machine, engine), moved


class _Target(threading.Thread):
    """Receives a machine, and starts it."""

    def __init__(self, env: ScenarioEnv, stream: MigrationStream) -> None:
        super().__init__(name="pvtime-target", daemon=True)
        self._env = env
        self._stream = stream
        self.arrived: ReceivedMachine | None = None
        self.error: PvtimeError | None = None

    def run(self) -> None:
        try:
            arrived = receive(self._stream, lambda description: _make(self._env, description, None))
            arrived.engine.start()
            self.arrived = arrived
            confirm(self._stream)
        except PvtimeError as error:
            self.error = error
            self._stream.close()


def _make(env: ScenarioEnv, description: Description, stolen_time: Region | None) -> tuple[Machine, Engine]:
    config = description.config
    if stolen_time is not None:
        config = replace(config, stolen_time=stolen_time)
    machine = Machine(config, _discard, _discard)
    try:
        return machine, env.engine(machine)
    except BaseException:
        machine.close()
        raise


@contextlib.contextmanager
def _running(machine: Machine, engine: Engine) -> Iterator[None]:
    try:
        yield
    finally:
        engine.stop()
        machine.close()


def _discard(_data: bytes) -> None:
    """The probe says nothing."""


def count_after(probe: Probe, saved: list[VcpuSample], since_ns: int) -> tuple[list[VcpuSample], str]:
    """Return the figures of a guest that has resumed, and a verdict on its count.

    :param saved: the figures when it left.
    :param since_ns: a time before it resumed; no more can have been stolen than time has passed since.
    """
    now = probe.engine.sample()
    passed = time.monotonic_ns() - since_ns
    for before, after in zip(saved, now, strict=True):
        if after.truth_ns != after.structure_ns:
            return now, "is not the truth"
        if after.count_ns < before.count_ns:
            return now, "runs backwards"
        if after.count_ns - before.count_ns > passed:
            return now, "counts what was not stolen"
    return now, "saved + new truth, to the ns"


def needs(env: ScenarioEnv, probe: Probe, guest: CountingGuest, topic: str) -> Finding:
    """Find the state of a placement beside the memory that the VMM saves and moves anyway."""
    own = [name for name in device_attributes(probe) if name.startswith("STATE")]
    given = "the address that the guest registered"
    if guest.kernel.registered(probe, 0):
        own.append(given)
    return env.finding(
        topic, ", ".join(own) or "nothing", "nothing", hypervisor="STATE_SIZE, STATE", guest=given
    )
