# SPDX-License-Identifier: GPL-2.0-or-later
"""migrate: a machine moves over a socket while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from pvtime.scenario import claims
from pvtime.scenario.env import ScenarioEnv
from pvtime.scenario.events import Event, Step
from pvtime.scenario.leaving import count_after, guest_with_count, migrated, needs
from pvtime.scenario.model import Scenario

__all__ = ["SCENARIO"]


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Move a guest from which is stolen; here the target is another engine of this process."""
    with guest_with_count(env) as guest:
        since = time.monotonic_ns()
        before = guest.probe.engine.sample()
        with migrated(env, guest.probe) as (probe, moved):
            saved = guest.probe.engine.sample()
            now, observed = count_after(probe, saved, since)
            yield Step(
                f"{moved.sent_bytes} bytes are sent: {moved.rounds} rounds while it runs, and "
                f"{moved.paused_bytes} bytes for which it does not, for {moved.pause_ns / 1e6:.1f} ms."
            )
            for start, left, arrived in zip(before, saved, now, strict=True):
                yield Step(
                    f"vCPU {arrived.index}: {start.structure_ns} ns before, {left.structure_ns} ns when it "
                    f"left, {arrived.structure_ns} ns there, by that host's count {arrived.truth_ns} ns."
                )
            yield env.finding("the count", observed, "saved + new truth, to the ns")
            yield needs(env, probe, guest, "sent beside memory")
            read = guest.kernel.count(probe, 0, guest.structures[0])
            on = all(sample.enabled for sample in now) and read >= saved[0].count_ns
            yield env.finding("the guest", "keeps reading" if on else "must ask again", "keeps reading")


SCENARIO: Final = Scenario(
    "migrate", "a machine moves over a socket while it runs, and with it each count", events, (claims.SAVE,)
)
