# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines whose kernel is the probe, or another bare guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Final, TypeVar

from pvtime.engine.base import Engine
from pvtime.machine.image import KernelImage
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.memory import MIN_MEMORY
from pvtime.probe.mailbox import SIZE
from pvtime.probe.probe import Probe

__all__ = ["boot", "guest", "machine_with_engine", "probe_image"]

E = TypeVar("E", bound=Engine)

GUESTS: Final = "guests"


def probe_image() -> bytes:
    """Return the probe's code, which tools/build-guests assembles from guests/probe.S."""
    return (resources.files(__package__) / GUESTS / "probe.bin").read_bytes()


def guest(vcpus: int = 1) -> MachineConfig:
    """Return the configuration of a small machine that runs the probe."""
    return MachineConfig(vcpus, MIN_MEMORY, KernelImage(probe_image(), 0, SIZE, None))


def _discard(_data: bytes) -> None:
    """Ignore output: the probe has none."""


@contextmanager
def machine_with_engine(
    build: Callable[[Machine], E], config: MachineConfig, console: Callable[[bytes], object] = _discard
) -> Iterator[tuple[Machine, E]]:
    """Make a machine and its engine, which has not started; stop and close them at the end.

    :param build: makes the engine.
    :param console: receives the output of the first serial port.
    :raises UsageError: the configuration is not possible.
    :raises EngineError: this host cannot run the machine.
    """
    machine = Machine(config, console=console, agent=_discard)
    try:
        engine = build(machine)
        try:
            yield machine, engine
        finally:
            engine.stop()
    finally:
        machine.close()


@contextmanager
def boot(build: Callable[[Machine], Engine], config: MachineConfig) -> Iterator[Probe]:
    """Start a machine as :func:`machine_with_engine` makes it, and wait until vCPU 0 takes commands."""
    with machine_with_engine(build, config) as (machine, engine):
        engine.start()
        probe = Probe(machine, engine)
        probe.await_start(0)
        yield probe
