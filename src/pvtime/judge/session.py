# SPDX-License-Identifier: GPL-2.0-or-later
"""One judgement: boot the image, steal from it, and join its results with the host's figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import Final

from pvtime.judge.console import CheckResult, Clock, Console, Count, ImagePhase, Verdict
from pvtime.judge.growth import NAME as GROWTH
from pvtime.judge.growth import Growths
from pvtime.judge.history import HostReading, host_clock_ns
from pvtime.judge.host_facts import HostFacts, host_facts, stat_times
from pvtime.judge.host_kvm import NAME as KVM
from pvtime.judge.monitor import ControlError
from pvtime.judge.subject import Subject

__all__ = ["ExitCode", "Judgement", "LifeEvent", "judge"]

POLL_S: Final = 0.002
"""Between two readings of the host's figures."""
LOOK_AGAIN_S: Final = 0.05
"""Between two looks for vCPUs' threads, as long as there are none."""
UNDER_LOAD_S: Final = 0.3
"""From the begin of the theft until the machine is paused or migrated."""
PAUSE_S: Final = 0.7

BOOTED: Final = "image_starts"
ENDED: Final = "image_ends"
IDLE: Final = "idle_is_not_stolen"
STILL_RUNS: Final = "the VMM still ran when its time was over (--timeout)"
MAX_LINES: Final = 3
"""Lines of a VMM's that a reason shows."""
MAX_SHOWN: Final = 300
AFTER_RESET: Final = "after_reset_"


class ExitCode(IntEnum):
    """The exit code of ``pvtime judge``."""

    RIGHT = 0
    WRONG = 1
    CANNOT_TELL = 4


class LifeEvent(Enum):
    """An event in a machine's life, across which its stolen time is judged; the value is the check's name."""

    PAUSE = "pause"
    MIGRATE = "migrate"
    RESET = "reset"


HOST_CHECKS: Final = frozenset({GROWTH, KVM, BOOTED, ENDED, *(event.value for event in LifeEvent)})
"""The results that are the host's, whatever a console says."""


@dataclass(frozen=True)
class Judgement:
    """The results of all checks, and where they were made."""

    subject: str
    results: tuple[CheckResult, ...]
    console: bytes
    complaint: str
    host: HostFacts
    version: str = ""
    """Of the VMM."""
    chosen: frozenset[str] = frozenset()
    """The checks that were wanted; none: all."""

    @property
    def exit_code(self) -> ExitCode:
        """WRONG if a check of stolen time failed; RIGHT if it was compared with the host's and agreed.

        Where checks were chosen, RIGHT if each of them passed.

        An image that did not start, or was not given the time to end, has said nothing against stolen time;
        and a VMM that could not be migrated was not judged across a migration.
        """
        verdicts = {result.name: result.verdict for result in self.results}
        if any(verdict is Verdict.FAIL for name, verdict in verdicts.items() if name not in (BOOTED, ENDED)):
            return ExitCode.WRONG
        agreed = all(verdicts.get(name) is Verdict.PASS for name in self.chosen or {GROWTH})
        agreed &= not verdicts.keys() & {BOOTED, ENDED}
        agreed &= all(verdicts.get(event.value, Verdict.PASS) is Verdict.PASS for event in LifeEvent)
        return ExitCode.RIGHT if agreed else ExitCode.CANNOT_TELL


@dataclass
class _Session:
    """The reading of a machine's console, beside the host's figures."""

    subject: Subject
    events: list[LifeEvent]
    end: float
    """Time at which it is given up, by time.monotonic()."""
    console: Console = field(default_factory=Console)
    growths: Growths = field(default_factory=Growths)
    lives: int = 1
    is_over: bool = False
    results: list[CheckResult] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)

    @property
    def started(self) -> bool:
        """Whether the image has begun, at least once."""
        return self.lives > 1 or self.console.started

    def run(self) -> None:
        """Read to the end."""
        subject, looked, look_again, due, theft = self.subject, 0, 0.0, 0.0, ExitStack()
        with theft:
            self._read_host(subject.run_delays)
            while not self.is_over and time.monotonic() < self.end:
                if due and time.monotonic() > due:
                    due = 0.0
                    self._live()
                if (data := subject.read(POLL_S)) is None:
                    break
                received = host_clock_ns()
                knows_vcpus = self._read_host(subject.run_delays)
                for line in data.splitlines(keepends=True):
                    match self.console.feed(line):
                        case Count() as count:
                            self.growths.add(count, received)
                        case Clock() as clock:
                            self.growths.add_clock(clock.ns, received)
                        case ImagePhase.LOAD:
                            theft.enter_context(subject.stealing())
                            self.growths.begin_theft()
                            due = time.monotonic() + UNDER_LOAD_S
                        case ImagePhase.CALM:
                            due = 0.0
                            theft.close()
                        case ImagePhase.RESET:
                            looked = 0
                            self._begin_again()
                    if self.console.ended or self.is_over:
                        self.is_over = True
                        break
                results = self.console.results
                # A VMM may start its threads late, or hold back what the image prints.
                overdue = not knows_vcpus and time.monotonic() > look_again
                if overdue or (len(results) > looked and not self.console.counts):
                    looked = len(results)
                    self._read_host(subject.look_for_vcpus)
                    look_again = time.monotonic() + LOOK_AGAIN_S
        self.results += self._results()
        self.raw += self.console.raw

    def _read_host(self, read: Callable[[], dict[int, int]]) -> bool:
        """Take the host's figures of now; whether it knows a vCPU."""
        reading = HostReading.take(read)
        self.growths.add_reading(reading)
        return bool(reading.stolen)

    def _live(self) -> None:
        """Pause and migrate the machine, as far as that is wanted, while it is stolen from."""
        while self.events:
            event = self.events.pop(0)
            begin = time.monotonic()
            try:
                if event is LifeEvent.PAUSE:
                    self.subject.pause(PAUSE_S)
                    self.growths.paused_ns = int((time.monotonic() - begin) * 1e9)
                else:
                    self.growths.restored = self.subject.migrate()
            except ControlError as error:
                if event is LifeEvent.MIGRATE:
                    self.growths.incomparable = f"the migration was not completed: {error}"
                self.results.append(CheckResult(event.value, Verdict.SKIP, str(error)))
            else:
                details = [f"it took {time.monotonic() - begin:.2f} s, while the host was stealing"]
                if event is LifeEvent.MIGRATE and (restored := self.growths.restored) is not None:
                    details += [
                        f"cpu {cpu}: its new thread had waited {ns} ns for a CPU before the guest ran on it"
                        for cpu, ns in restored.used.items()
                    ]
                self.results.append(CheckResult(event.value, Verdict.PASS, "", tuple(details)))

    def _begin_again(self) -> None:
        """The machine is reset: what follows is another life. The second one's reset is its end."""
        if self.lives == 2:
            self.results.append(CheckResult(LifeEvent.RESET.value, Verdict.PASS))
            self.is_over = self.console.ended = True
            return
        self.results += self._results(ended=True)
        self.raw += self.console.raw
        self.console, self.growths, self.lives = Console(), Growths(), 2

    def _results(self, ended: bool = False) -> Iterator[CheckResult]:
        prefix = AFTER_RESET if self.lives == 2 else ""
        if self.lives == 2 and not self.console.started:
            reason = "the machine did not start again after PSCI SYSTEM_RESET"
            yield CheckResult(LifeEvent.RESET.value, Verdict.SKIP, reason)
            return
        for result in _all_results(self.console, self.growths, self.subject, ended):
            yield replace(result, name=prefix + result.name)


def judge(
    subject: Subject,
    name: str,
    limit_s: float,
    events: frozenset[LifeEvent] = frozenset(),
    chosen: frozenset[str] = frozenset(),
) -> Judgement:
    """Read the image's console to its end, or for ``limit_s``.

    :param name: the subject's.
    :param events: what is to happen to it meanwhile; a reset is the image's own doing.
    :param chosen: the checks that are wanted, which the image was told; none: all.
    """
    since = stat_times()
    outside = [event for event in LifeEvent if event in events and event is not LifeEvent.RESET]
    session = _Session(subject, list(outside), time.monotonic() + limit_s)
    session.run()
    results = session.results
    if session.started:
        results[:0] = subject.outside()
    for event in events - {LifeEvent(result.name) for result in results if _is_event(result.name)}:
        reason = f"the machine was not there for the {event.value}: its load had ended, or never began"
        results.append(CheckResult(event.value, Verdict.SKIP, reason))
    host = host_facts(since)
    said, version = subject.complaint(), subject.version()
    return Judgement(name, tuple(results), bytes(session.raw), said, host, version, chosen)


def _is_event(name: str) -> bool:
    return name in {event.value for event in LifeEvent}


def _all_results(console: Console, growths: Growths, subject: Subject, ended: bool) -> Iterator[CheckResult]:
    if not console.started:
        reason = _reason_not_started(console, subject)
        yield CheckResult(BOOTED, Verdict.FAIL, reason)
        return
    growths.idle_ns = console.idle_ns
    stolen_idle = growths.idle_was_stolen()
    for result in console.results:
        if result.name in HOST_CHECKS:  # the image has none of these
            continue
        if result.name == IDLE and stolen_idle:
            yield CheckResult(IDLE, Verdict.FAIL, stolen_idle, result.details)
        else:
            yield result
    if (growth := growths.check()) is not None:
        yield growth
    if (console.ended or ended) and console.lost:
        reason = f"{console.lost} results are missing: something else was printed between the image's lines"
        yield CheckResult(ENDED, Verdict.FAIL, reason)
    if not console.ended and not ended:
        reason = f"the console ends before the image does: {subject.ending() or STILL_RUNS}"
        yield CheckResult(ENDED, Verdict.FAIL, reason)


def _reason_not_started(console: Console, subject: Subject) -> str:
    """Return what a VMM's engineer needs where no line of the image came."""
    reason = "nothing came on the console"
    if console.raw:
        last = console.raw.decode(errors="replace").split("\n")[-MAX_LINES:]
        text = " ".join(" ".join(last).split())[-MAX_SHOWN:]
        reason = f"the console has {len(console.raw)} bytes and no line of the image; it ends with: {text}"
    reason += f"; {subject.ending() or STILL_RUNS}"
    if complaint := subject.complaint():
        return f"{reason}; the VMM said: {' / '.join(complaint.splitlines()[-MAX_LINES:])[-MAX_SHOWN:]}"
    return f"{reason}; is its first serial port its standard output, and {{image}} its kernel?"
