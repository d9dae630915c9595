# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands in a guest that ends or is reset before they do."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from framework.wait import DEADLINE
from pvtime.errors import GuestCommandError, GuestEndedError, UsageError
from pvtime.run.shell_jobs import ShellJobs


@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize(
    ("end", "error"),
    [
        (ShellJobs.reset, GuestCommandError("the guest was reset")),
        (ShellJobs.close, GuestEndedError("the machine")),
    ],
)
def test_a_command_does_not_outlive_the_guest_that_it_runs_in(
    takes: bool, end: Callable[[ShellJobs], None], error: Exception
) -> None:
    # A guest that was reset never tells the end of a command: run --exec waited for it without end.
    sent = threading.Event()

    def send(data: bytes) -> int:
        sent.set()
        return len(data) if takes else 0

    jobs = ShellJobs(send)

    def finish() -> None:
        sent.wait(DEADLINE)
        end(jobs)

    threading.Thread(target=finish, daemon=True).start()
    with pytest.raises(type(error), match=str(error)):
        jobs.run("sleep 1000", DEADLINE)


def test_answers_of_a_saved_machines_commands_are_not_for_those_of_the_restored_one() -> None:
    # A restored guest still had to remove the file of the saved one's command 1, and removed that of its own.
    lines: list[bytes] = []

    def send(data: bytes) -> int:
        lines.append(data)
        return len(data)

    for _ in range(8):
        with pytest.raises(GuestCommandError):
            ShellJobs(send).run("true", 0.0)
    assert len({line.split()[1] for line in lines}) == 8, "each machine numbers its commands from the same on"


def test_a_command_that_is_not_text_is_named_as_that() -> None:
    # It was "too long".
    with pytest.raises(UsageError, match="not text: character 6 is wrong"):
        ShellJobs(len).run("echo \ud800", 1.0)
