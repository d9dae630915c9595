# SPDX-License-Identifier: GPL-2.0-or-later
"""restore: a saved machine resumes, and with it each count."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pvtime.errors import PvtimeError
from pvtime.machine.layout import STOLEN_TIME, Region
from pvtime.scenario import claims
from pvtime.scenario.env import ScenarioEnv, count_text
from pvtime.scenario.events import Event, Step
from pvtime.scenario.leaving import CountingGuest, count_after, exporter, guest_with_count, revived
from pvtime.scenario.model import Scenario

__all__ = ["SCENARIO"]

MOVED_REGION: Final = Region(STOLEN_TIME.name, STOLEN_TIME.base + (1 << 20), STOLEN_TIME.size)
DOWNTIME_S: Final = 0.2
"""Seconds on the disk: more than could be taken for what is stolen meanwhile."""


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Save a guest, wait, and restore it; then restore it where the structures cannot be."""
    with tempfile.TemporaryDirectory(prefix="pvtime-") as directory:
        path = Path(directory) / "machine"
        with guest_with_count(env) as guest:
            exporter(guest.probe).save(path)
            saved = guest.probe.engine.sample()
        time.sleep(DOWNTIME_S)
        since = time.monotonic_ns()
        with revived(env, path) as probe:
            now, observed = count_after(probe, saved, since)
            for before, after in zip(saved, now, strict=True):
                yield Step(
                    f"vCPU {after.index}: the count was {count_text(before)} when saved. Restored "
                    f"{DOWNTIME_S * 1e3:.0f} ms later it is {count_text(after)}, and the host's is "
                    f"{after.truth_ns} ns."
                )
            yield env.finding("the count", observed, "saved + new truth, to the ns")
            read = guest.kernel.count(probe, 0, guest.structures[0])
            yield Step(f"The guest reads {read} ns at {guest.structures[0]:#x} without another request.")
            on = all(sample.enabled for sample in now) and read >= saved[0].count_ns
            yield env.finding("the guest", "keeps reading" if on else "must ask again", "keeps reading")
        yield from _elsewhere(env, path, guest)


def _elsewhere(env: ScenarioEnv, path: Path, guest: CountingGuest) -> Iterator[Event]:
    """Restore it with the structures' region elsewhere."""
    try:
        with revived(env, path, MOVED_REGION) as probe:
            given = guest.kernel.registered(probe, 0) or 0
            observed = "accepted" if not given else "not used; the guest's address is kept"
            yield Step(
                f"A machine with its region at {MOVED_REGION.base:#x} starts; GET answers {given:#x} there."
            )
    except PvtimeError as error:
        observed = "refused"
        yield Step(f"A machine with its region at {MOVED_REGION.base:#x} is refused: {error}.")
    yield env.finding(
        "restored at another base", observed, "refused", guest="not used; the guest's address is kept"
    )


SCENARIO: Final = Scenario(
    "restore",
    "a saved machine resumes, and with it each count; can the structures move?",
    events,
    (claims.SAVE,),
)
