# SPDX-License-Identifier: GPL-2.0-or-later
"""One judgement: boot the image, steal from it, and join its results with the host's figures."""

from __future__ import annotations

import os
import platform
import time
from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pvtime.judge.console import CheckResult, Console, Count, TheftPhase, Verdict
from pvtime.judge.growth import Growths
from pvtime.judge.subject import Subject

__all__ = ["ExitCode", "Judgement", "judge"]

POLL_S: Final = 0.002
"""Between two readings of the host's figures, which bracket a count of the guest's."""

BOOTED: Final = "image_starts"
ENDED: Final = "image_ends"


class ExitCode(IntEnum):
    """The exit code of ``pvtime judge``."""

    RIGHT = 0
    WRONG = 1
    CANNOT_TELL = 4


@dataclass(frozen=True)
class Judgement:
    """The results of all checks, and where they were made."""

    subject: str
    results: tuple[CheckResult, ...]
    console: bytes
    complaint: str
    host: dict[str, str | int]

    @property
    def exit_code(self) -> ExitCode:
        """WRONG if a check of stolen time failed; RIGHT if it was compared with the host's and agreed.

        An image that did not start, or was not given the time to end, has said nothing against stolen time.
        """
        verdicts = {result.name: result.verdict for result in self.results}
        if any(verdict is Verdict.FAIL for name, verdict in verdicts.items() if name not in (BOOTED, ENDED)):
            return ExitCode.WRONG
        agreed = verdicts.get("grows_by_run_delay") is Verdict.PASS and not verdicts.keys() & {BOOTED, ENDED}
        return ExitCode.RIGHT if agreed else ExitCode.CANNOT_TELL


def judge(subject: Subject, name: str, limit_s: float) -> Judgement:
    """Read the image's console to its end, or for ``limit_s``; ``name`` is the subject's."""
    console, growths = Console(), Growths()
    end = time.monotonic() + limit_s
    looked = 0
    with ExitStack() as theft:
        # What is read now was written after the last read: the host's figures from before that one are older
        # than all of it, also than a count in it. A line may have begun earlier.
        before_last = before = before_line = subject.run_delays()
        while time.monotonic() < end and (data := subject.read(POLL_S)) is not None:
            after = subject.run_delays()
            for line in data.splitlines(keepends=True):
                if not console.is_in_line:
                    before_line = before_last
                match console.feed(line):
                    case Count() as count:
                        growths.add(count, before_line, after)
                    case TheftPhase.LOAD:
                        theft.enter_context(subject.stealing())
                    case TheftPhase.CALM:
                        theft.close()
            if console.ended:
                break
            if len(console.results) > looked and not console.counts:
                looked, after = len(console.results), subject.look_for_vcpus()
            before_last, before = before, after
    return Judgement(
        name, tuple(_all_results(console, growths, subject)), bytes(console.raw), subject.complaint(), _host()
    )


def _all_results(console: Console, growths: Growths, subject: Subject) -> list[CheckResult]:
    if not console.started:
        reason = "the image printed nothing on the console"
        if complaint := subject.complaint():
            reason += f"; the VMM said: {complaint.splitlines()[-1][:300]}"
        return [CheckResult(BOOTED, Verdict.FAIL, reason)]
    results = list(console.results)
    if (growth := growths.check()) is not None:
        results.append(growth)
    if not console.ended:
        reason = "the machine ended, or fell silent, before the image's end"
        results.append(CheckResult(ENDED, Verdict.FAIL, reason))
    return results


def _host() -> dict[str, str | int]:
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
    }
