# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines whose kernel is the probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Final

from pvtime.engine.base import Engine
from pvtime.machine.image import KernelImage
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.memory import MIN_MEMORY
from pvtime.probe.mailbox import SIZE
from pvtime.probe.probe import Probe

__all__ = ["boot", "guest", "probe_image"]

GUESTS: Final = "guests"


def probe_image() -> bytes:
    """Return the probe's code as tools/build-guests has made it of guests/probe.S."""
    return (resources.files(__package__) / GUESTS / "probe.bin").read_bytes()


def guest(vcpus: int = 1) -> MachineConfig:
    """Return the configuration of a small machine that runs the probe."""
    return MachineConfig(vcpus, MIN_MEMORY, KernelImage(probe_image(), 0, SIZE, None))


@contextmanager
def boot(build: Callable[[Machine], Engine], config: MachineConfig) -> Iterator[Probe]:
    """Start a machine of :func:`guest`, wait until vCPU 0 is there, and stop it at the end.

    :param build: makes the engine.
    :raises UsageError: the configuration cannot be.
    :raises EngineError: this host cannot run the machine.
    """
    machine = Machine(config, console=_discard, agent=_discard)
    try:
        engine = build(machine)
        try:
            engine.start()
            probe = Probe(machine, engine)
            probe.await_start(0)
            yield probe
        finally:
            engine.stop()
    finally:
        machine.close()


def _discard(_data: bytes) -> None:
    """The probe says nothing."""
