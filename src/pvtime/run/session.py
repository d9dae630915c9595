# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of a guest from start to last table: what is asked of it, when, and which figures belong together.

The figures of a row are of one moment: when a report of /proc/stat arrives, the engine is sampled then.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from pvtime.engine.base import Engine, Outcome
from pvtime.errors import EngineError, PvtimeError
from pvtime.report.lines import Banner
from pvtime.report.model import Moment, RunReport, VcpuRow
from pvtime.run.inbox import Inbox
from pvtime.run.plan import Ended, Ending, Plan, Quit, Resized, Signalled, View
from pvtime.run.timetable import Timetable
from pvtime.userland import protocol

__all__ = ["GRACE", "GRACE_SIGNAL", "Session"]

GRACE: Final = 10.0
"""Seconds that the guest gets to power off when asked."""
GRACE_SIGNAL: Final = 2.0
"""The same after Ctrl-C or SIGTERM: somebody waits."""
STAT_LIMIT: Final = 2.0
"""Seconds until an unanswered question for /proc/stat is asked again."""


class Session:
    """Runs ``engine`` to its end by ``plan``, and shows it on ``view``. Used once, from the main thread."""

    def __init__(self, engine: Engine, inbox: Inbox, view: View, plan: Plan) -> None:
        self._engine = engine
        self._inbox = inbox
        self._view = view
        self._plan = plan
        self._decoder, self._banner = protocol.AgentDecoder(), Banner()
        self._banner.release = plan.release
        self._times = Timetable(plan)
        self._asked_at: float | None = None
        """When /proc/stat was asked for; None when the answer has come."""
        self._shown_at = self._times.start
        self._before: tuple[int, ...] = ()
        self._final: Moment | None = None
        self._size: Resized | None = None
        self._signal: int | None = None
        self._ended: Ended | None = None
        self._notes: list[str] = []

    def run(self) -> Ending:
        """Start the engine and return when nothing executes any more.

        :raises EngineError: this host cannot run the machine. What goes wrong later is in the result.
        """
        self._times = Timetable(self._plan)
        watcher = threading.Thread(target=self._watch_engine, name="pvtime-wait", daemon=True)
        try:
            self._engine.start()
            if self._plan.resumed:
                self._before = tuple(sample.truth_ns for sample in self._engine.sample())
            if self._plan.on_start is not None:
                self._plan.on_start()
            watcher.start()
            while self._ended is None:
                self._inbox.wait(self._until_next())
                self._take()
                self._keep_time()
        finally:
            self._engine.stop()
        elapsed = self._times.elapsed()
        watcher.join(GRACE)
        self._take()  # what the guest said last may have come after its end was noticed
        return self._ending(elapsed)

    @property
    def release(self) -> str | None:
        """The kernel's release, as far as it is known."""
        return self._banner.release

    def _watch_engine(self) -> None:
        """Wait for the engine's end, on a thread of its own, and tell the main thread."""
        try:
            outcome = self._engine.wait()
        except PvtimeError as error:
            self._inbox.put(Ended(Outcome.FAILED, error))
        except Exception as error:
            # Unforeseen, yet the terminal must come back and the last table be shown before it is told.
            self._inbox.put(Ended(Outcome.FAILED, EngineError(f"engine {self._engine.name}: {error!r}")))
        else:
            self._inbox.put(Ended(outcome or Outcome.STOPPED))

    def _take(self) -> None:
        if console := self._inbox.take_console():
            self._banner.feed(console)
            self._view.console(console)
        for message in self._decoder.feed(self._inbox.take_agent()):
            self._hear(message)
        for event in self._inbox.take_events():
            self._obey(event)

    def _hear(self, message: protocol.Message) -> None:
        """Take what the agent said."""
        if isinstance(message, protocol.Ready):
            self._times.ready_at = time.monotonic()
            self._banner.release = self._banner.release or message.release
            if self._size:
                self._tell("size", self._size.rows, self._size.columns)
        elif isinstance(message, protocol.StatReport):
            self._asked_at = None
            moment = self._sample(message)
            if message.final:
                self._final = moment
            self._view.moment(moment)

    def _obey(self, event: object) -> None:
        match event:
            case Ended() if self._ended is None:
                self._ended = event
            case Signalled():
                again = self._signal is not None
                self._signal = event.number
                self._finish(0.0 if again else GRACE_SIGNAL)
            case Quit():
                self._finish(GRACE)
            case Resized():
                self._size = event
                self._tell("size", event.rows, event.columns)

    # What the time demands

    def _until_next(self) -> float | None:
        """Return the seconds until something is due; None where only the guest can bring it."""
        now = time.monotonic()
        due = []
        if self._view.console_interval is not None:
            due.append(self._view.console_interval)
        if self._view.interval is not None:
            due.append(self._shown_at + self._view.interval - now)
        due += [at - now for at in (self._times.end(), self._times.save_at()) if at is not None]
        return max(0.0, min(due)) if due else None

    def _keep_time(self) -> None:
        now = time.monotonic()
        if self._plan.save is not None and (at := self._times.save_at()) is not None and now >= at:
            self._times.note_saved()
            self._plan.save[1]()
        if (end := self._times.end()) is not None and now >= end and self._ended is None:
            if self._times.give_up_at is None:
                self._finish(GRACE)
            else:
                self._give_up()
        elif self._view.interval is not None and now >= self._shown_at + self._view.interval:
            self._refresh(now)

    def _refresh(self, now: float) -> None:
        """Bring new figures to the view: the guest's where it tells them, else the host's alone."""
        self._shown_at = now
        if self._times.ready_at is None:
            self._view.moment(self._sample(None))
        elif self._asked_at is None or now >= self._asked_at + STAT_LIMIT:
            self._asked_at = now
            self._tell("stat")

    def _finish(self, grace: float) -> None:
        """End the run: ask a guest that has an agent to power off within ``grace`` seconds, stop another."""
        asked = self._times.give_up_at is not None
        self._times.grant(grace if self._times.ready_at is not None else 0.0)
        if grace and not asked:
            self._tell("stop")

    def _give_up(self) -> None:
        """Stop the engine; the guest was not asked to power off, or has not done it."""
        if self._times.ready_at is not None:
            self._notes.append("the guest did not power off when asked and was stopped")
        elif self._plan.tell_agent is not None and self._signal is None:
            self._notes.append("the stock userland never reported; the guest was stopped")
        self._ended = Ended(Outcome.STOPPED)

    def _tell(self, verb: str, *numbers: int) -> None:
        if self._times.ready_at is not None and self._plan.tell_agent is not None:
            self._plan.tell_agent(protocol.encode(verb, *numbers))

    # What is made of it

    def _sample(self, stat: protocol.StatReport | None) -> Moment:
        """Sample the engine now, and put a report of /proc/stat that has just come beside it."""
        samples = self._engine.sample()
        rows = tuple(
            VcpuRow.join(sample, stat.steal_ns(sample.index) if stat else None) for sample in samples
        )
        return Moment(self._times.elapsed(), rows, self._plan.stealing, self._before)

    def _ending(self, elapsed: float) -> Ending:
        last = self._final or self._sample(None)
        if self._inbox.dropped:
            self._notes.append(f"{self._inbox.dropped} bytes of console output came too fast to be shown")
        if not self._times.saved:
            self._notes.append("the run ended before the machine was to be saved")
        outcome = self._ended.outcome if self._ended else Outcome.STOPPED
        report = RunReport(
            engine=self._engine.name,
            placement=self._plan.placement,
            kernel=self._banner.release,
            boot_seconds=self._times.boot_seconds,
            elapsed_seconds=elapsed,
            outcome=outcome,
            vcpus=last.vcpus,
        )
        error = self._ended.error if self._ended else None
        return Ending(report, last, tuple(self._notes), self._signal, error)
