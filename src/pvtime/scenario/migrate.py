# SPDX-License-Identifier: GPL-2.0-or-later
"""migrate: a machine moves over a socket while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from pvtime.scenario import claims
from pvtime.scenario.env import ScenarioEnv, count_text
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
            rounds = "1 round" if moved.rounds == 1 else f"{moved.rounds} rounds"
            yield Step(
                f"{moved.sent_bytes} bytes are sent: {rounds} while the guest runs, then the last "
                f"{moved.paused_bytes} bytes while it is paused for {moved.pause_ns / 1e6:.1f} ms."
            )
            for start, left, arrived in zip(before, saved, now, strict=True):
                yield Step(
                    f"vCPU {arrived.index}: the count was {count_text(start)} at the start and "
                    f"{count_text(left)} when it left; on the target it is {count_text(arrived)}, and the "
                    f"host's is {arrived.truth_ns} ns."
                )
            yield env.finding("the count", observed, "saved + new truth, to the ns")
            yield needs(env, probe, guest, "sent beside memory")
            read = guest.kernel.count(probe, 0, guest.structures[0])
            on = all(sample.enabled for sample in now) and read >= saved[0].count_ns
            yield env.finding("the guest", "keeps reading" if on else "must ask again", "keeps reading")


SCENARIO: Final = Scenario(
    "migrate", "a machine moves over a socket while it runs, and with it each count", events, (claims.SAVE,)
)
