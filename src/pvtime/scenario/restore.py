# SPDX-License-Identifier: GPL-2.0-or-later
"""restore: a saved machine goes on, and with it each count."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pvtime.errors import PvtimeError
from pvtime.machine.layout import STOLEN_TIME, Region
from pvtime.scenario import claims
from pvtime.scenario.leaving import Guest, count_after, exporter, guest_with_count, revived
from pvtime.scenario.stage import Stage
from pvtime.scenario.story import Event, Scenario, Step

__all__ = ["SCENARIO"]

ELSEWHERE: Final = Region(STOLEN_TIME.name, STOLEN_TIME.base + (1 << 20), STOLEN_TIME.size)
AWAY: Final = 0.2
"""Seconds on the disk: more than could be taken for what is stolen meanwhile."""


def tell(stage: Stage) -> Iterator[Event]:
    """Save a guest, wait, and restore it; then restore it where the structures cannot be."""
    with tempfile.TemporaryDirectory(prefix="pvtime-") as directory:
        path = Path(directory) / "machine"
        with guest_with_count(stage) as guest:
            exporter(guest.probe).save(path)
            saved = guest.probe.engine.sample()
        time.sleep(AWAY)
        since = time.monotonic_ns()
        with revived(stage, path) as probe:
            now, seen = count_after(probe, saved, since)
            for was, one in zip(saved, now, strict=True):
                yield Step(
                    f"vCPU {one.index}: {was.structure_ns} ns when saved. Restored {AWAY * 1e3:.0f} ms later "
                    f"and run for a moment: {one.structure_ns} ns, by the host's count {one.truth_ns} ns."
                )
            yield stage.found("the count", seen, "saved + new truth, to the ns")
            read = guest.kernel.count(probe, 0, guest.at[0])
            yield Step(f"The guest reads {read} ns at {guest.at[0]:#x} without having asked again.")
            on = all(one.enabled for one in now) and read >= saved[0].count_ns
            yield stage.found("the guest", "goes on reading" if on else "must ask again", "goes on reading")
        yield from _elsewhere(stage, path, guest)


def _elsewhere(stage: Stage, path: Path, guest: Guest) -> Iterator[Event]:
    """Restore it with the structures' region elsewhere."""
    try:
        with revived(stage, path, ELSEWHERE) as probe:
            given = guest.kernel.given(probe, 0) or 0
            seen = "accepted" if not given else "there is none; the guest's address is kept"
            yield Step(
                f"A machine with its region at {ELSEWHERE.base:#x} is started, and GET says {given:#x} there."
            )
    except PvtimeError as error:
        seen = "refused"
        yield Step(f"A machine with its region at {ELSEWHERE.base:#x} is refused: {error}.")
    yield stage.found(
        "restored at another base", seen, "refused", guest="there is none; the guest's address is kept"
    )


SCENARIO: Final = Scenario(
    "restore",
    "a saved machine goes on, and with it each count; the structures cannot be elsewhere",
    tell,
    (claims.SAVE,),
)
