# SPDX-License-Identifier: GPL-2.0-or-later
"""save: where the structures are in a saved machine, and by which interface they got there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pvtime.abi.pvtime_device import PvTimeGroup
from pvtime.scenario import claims
from pvtime.scenario.env import ScenarioEnv, count_text, device_of
from pvtime.scenario.events import Event, Step
from pvtime.scenario.leaving import exporter, guest_with_count, needs
from pvtime.scenario.model import Scenario
from pvtime.snapshot.manifest import memory_name

__all__ = ["SCENARIO"]


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Save a guest from which was stolen."""
    with guest_with_count(env) as guest, tempfile.TemporaryDirectory(prefix="pvtime-") as directory:
        probe, path = guest.probe, Path(directory) / "machine"
        probe.rest(0)
        probe.rest(1)
        saved = exporter(probe).save(path, keep_running=True)
        now = probe.engine.sample()
        count = " and ".join(count_text(sample) for sample in now)
        sizes = [(file.name, file.stat().st_blocks * 512) for file in sorted(path.iterdir())]
        files = ", ".join(f"{name} ({size} bytes on disk)" for name, size in sizes)
        yield Step(
            f"Structures at {guest.structures[0]:#x} and {guest.structures[1]:#x} hold {count}. The "
            f"machine is saved: {saved.bytes} bytes, and was paused for {saved.pause_ns / 1e6:.1f} ms."
        )
        yield Step(f"Files: {files}.")
        holders = [
            memory for memory in probe.machine.memories if memory.base <= guest.structures[0] < memory.end
        ]
        device = device_of(probe)
        if holders:
            yield Step(f"The structures are in {memory_name(holders[0].base)}.")
            where = f"with the VMM's memory: {holders[0].region.name}"
        elif device is not None:
            state = device.get_attr(PvTimeGroup.STATE, 0)
            yield Step(f"The structures are in {len(state)} bytes that the device's attribute STATE gives.")
            where = "by the device's STATE"
        else:
            where = "nowhere"
        yield env.finding(
            "the structures are saved",
            where,
            "with the VMM's memory: stolen time",
            hypervisor="by the device's STATE",
            guest="with the VMM's memory: RAM",
        )
        yield needs(env, probe, guest, "saved beside memory")


SCENARIO: Final = Scenario(
    "save",
    "where the structures are in a saved machine, and by which interface they got there",
    events,
    (claims.SAVE,),
)
