# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for messages of a Linux guest's agent: each wait takes its own message and leaves the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from pvtime.errors import EngineError
from pvtime.probe.guest import guest as probe_config
from pvtime.scenario.linux_guest import LinuxGuest
from pvtime.userland.protocol import Ready, Reply, StatReport


def report(number: int, steal: int) -> bytes:
    """Return a report's lines, with so many ticks stolen from CPU 0."""
    times = [0, 0, 0, 0, 0, 0, 0, steal, 0, 0]
    return (
        f"stat begin {number}\nstat cpu0 {' '.join(map(str, [*times, steal]))}\nstat end {number}\n".encode()
    )


class ScriptedGuest(LinuxGuest):
    """A guest that does not run; commands are answered as a script says."""

    answers: Mapping[str, bytes]

    def send(self, verb: str, *numbers: int) -> None:
        self._on_agent(self.answers[verb])


@pytest.fixture
def guest() -> Iterator[ScriptedGuest]:
    """A guest whose waits end after 0.3 s."""
    guest = ScriptedGuest(probe_config(), {}, timeout_s=0.3)
    yield guest
    guest.engine.stop()
    guest.machine.close()


def test_a_wait_leaves_other_messages_to_other_waits(guest: ScriptedGuest) -> None:
    guest.answers = {"idle": b"ready 6.1\nok busy 1\n" + report(1, 5) + b"ok idle\n"}
    guest.command("idle")
    assert guest.wait_for(StatReport, "a report").steal_ns(0) == 50_000_000
    assert guest.wait_for(Ready, "userland") == Ready("6.1")
    assert guest.wait_for(Reply, "a reply") == Reply("busy 1", ok=True)
    with pytest.raises(EngineError, match="the guest took over 0 s for this: a reply"):
        guest.wait_for(Reply, "a reply")


def test_a_report_that_was_lost_is_made_up_for_by_the_next_one(guest: ScriptedGuest) -> None:
    guest.answers = {"idle": b"ok idle\n", "stat": b"stat begin 7\nstat cpu0 1\nok stat\n" + report(3, 4)}
    assert guest.steal_of(0) == 40_000_000


def test_a_report_is_the_last_one_since_the_command(guest: ScriptedGuest) -> None:
    guest.answers = {"idle": report(1, 1) + b"ok idle\n", "stat": report(2, 2) + report(7, 3) + b"ok stat\n"}
    assert guest.steal_of(0) == 30_000_000
    assert guest.steal_of(1) is None


def test_a_kernel_that_cannot_end_says_so_and_its_other_messages_stay(guest: ScriptedGuest) -> None:
    guest.answers = {"kexec": b"ok idle\nfailed kexec\n"}
    with pytest.raises(EngineError, match="the guest could not kexec"):
        guest.end_kernel("kexec")
    assert guest.wait_for(Reply, "a reply") == Reply("idle", ok=True)
