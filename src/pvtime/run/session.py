# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of a guest, from the start of its engine to the last table.

The figures of a row are of one moment: the engine is sampled when a report of /proc/stat arrives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from pvtime.engine.base import Outcome, VcpuSample
from pvtime.errors import EngineError, PvtimeError, UsageError
from pvtime.records import dataclass
from pvtime.report import units
from pvtime.report.console import Banner, LineBuffer
from pvtime.report.model import Moment, RunReport
from pvtime.report.views import View
from pvtime.run.console_log import ConsoleLog
from pvtime.run.events import EventKind, EventLog, RunEvent, console_events, start_events
from pvtime.run.figures import Figures
from pvtime.run.inbox import (
    EngineEnded,
    Inbox,
    QuitRequested,
    SaveFailed,
    SignalReceived,
    StopNow,
    TerminalResized,
)
from pvtime.run.options import RunOptions
from pvtime.run.power_off import OwnTime, PowerOffStep, PowerOffWatch
from pvtime.run.shell_jobs import ShellJobs, ShellResult
from pvtime.run.source import BuiltMachine
from pvtime.run.timetable import SessionTimeouts, Timetable
from pvtime.userland import protocol

__all__ = ["RunResult", "Session"]

SILENCE: Final = (
    "nothing on the guest's console after {:g} s: the host may be slow, --append may have quiet or another "
    "console, or the kernel has no driver for a 16550 or stopped before its console was up "
    "(--append earlycon shows how far it came)"
)
STOPPING: Final = protocol.Reply("stop", ok=True)
"""The guest begins to power off."""
CONSOLE_INTERVAL_S: Final = 1.0
"""Time for which console output may wait that is not shown."""


@dataclass(frozen=True)
class RunResult:
    """Result of a run."""

    report: RunReport
    last: Moment
    notes: tuple[str, ...]
    """Lines for the user."""
    signal: int | None
    """The signal that ended the run."""
    error: PvtimeError | None
    """The reason for which the engine, or a save, failed."""
    execution: ShellResult | None = None
    """The end of the command that the run was for; None: there was none, or it has not ended."""


class Session:
    """Runs a machine to its end and shows it on ``view``. Used once, from the main thread.

    Any thread may use :attr:`console`, :attr:`events`, :meth:`figures`, :meth:`guest_figures` and
    :meth:`shell`.

    :param on_start: called when the engine has started.
    :param save: called when a save to a directory is due; returns at once, and
        an :class:`EngineEnded` follows.
    :param clock: returns s; time passes in :meth:`Inbox.wait`.
    """

    def __init__(
        self,
        built: BuiltMachine,
        inbox: Inbox,
        view: View,
        options: RunOptions,
        *,
        on_start: Callable[[], object],
        save: Callable[[Path], object],
        timeouts: SessionTimeouts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._machine = built.machine
        self._engine = built.engine
        self._agent = built.machine.agent if built.agent else None
        self._resumed = built.resumed
        self._agent_up = built.agent and built.resumed
        """The stock userland has reported since the machine's last reset."""
        self._resets = 0
        """Resets that were noticed."""
        self._inbox = inbox
        self._view = view
        self._options = options
        self._on_start = on_start
        self._save = save
        self._timeouts = timeouts or SessionTimeouts()
        self._times = Timetable(
            options, agent=built.agent, resumed=built.resumed, timeouts=self._timeouts, clock=clock
        )
        self._decoder = protocol.AgentDecoder()
        self._banner = Banner(built.release)
        self.console = ConsoleLog(inbox.set_eager)
        """The end of the guest's console output."""
        self.events = EventLog()
        self._event_lines = LineBuffer()
        self._starts: dict[int, int] = {}
        self._starts_lock = threading.Lock()
        self._share = built.share
        self._shell_jobs = ShellJobs(built.machine.agent.receive)
        self._reported = threading.Condition()
        self._reports = 0
        """Number of the guest's reports so far."""
        self._last_report: Moment | None = None
        self._asked_at: float | None = None
        """Time of the unanswered request for /proc/stat; None if there is none."""
        self._shown_at = self._times.start
        self._figures = Figures(stealing=bool(options.steal), tell=view.note)
        self._final: Moment | None = None
        self._power_off: PowerOffWatch | None = None
        """Whether the guest, which was asked to power off, does so; None: its agent was not asked."""
        self._silent: OwnTime | None = None
        """Own time of a guest whose kernel has panicked or halted, since its last output; None: it lives, or
        was not looked at since."""
        self._looked_at = 0.0
        """Time of the last look at these two."""
        self._size: TerminalResized | None = None
        self._signal: int | None = None
        self._quit = False
        self._halted = False
        """The run was ended since the guest's kernel had panicked or halted for good."""
        self._silence: str | None = None
        """Likely reasons, once told, for a console that is silent still."""
        self._ended: EngineEnded | None = None
        self._failed_save: PvtimeError | None = None
        self._notes: list[str] = []

    @property
    def release(self) -> str | None:
        """The kernel's release, as far as it is known."""
        return self._banner.release

    @property
    def is_up(self) -> bool:
        """Whether the stock userland has reported since the machine's last reset."""
        return self._agent_up

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the start."""
        return self._times.elapsed()

    def add_event(self, kind: EventKind, text: str, vcpu: int | None = None) -> None:
        """Log an event that happens now."""
        self.events.add(RunEvent(self._times.elapsed(), kind, text, vcpu))

    def run(self) -> RunResult:
        """Start the engine and return when nothing executes any more.

        :raises EngineError: this host cannot run the machine. A later failure is in the result.
        """
        try:
            return self._run()
        finally:
            self._shell_jobs.close()
            self.console.close()
            self.events.close()

    def _run(self) -> RunResult:
        watcher = threading.Thread(target=self._watch_engine, name="pvtime-wait", daemon=True)
        try:
            self._engine.start()
            if self._resumed:
                samples = self._engine.sample()
                self._figures.resume(samples)
                self._starts = {sample.index: sample.starts for sample in samples}
            self._on_start()
            watcher.start()
            while self._ended is None:
                self._inbox.wait(self._seconds_until_due())
                self._take()
                self._act()
        finally:
            self._engine.stop()
        elapsed = self._times.elapsed()
        watcher.join(self._timeouts.power_off)
        self._take()  # the guest's last output may come after the engine's end was noticed
        result = self._result(elapsed)
        self.add_event(EventKind.ENDED, result.report.outcome.value)
        return result

    def _watch_engine(self) -> None:
        """Wait for the engine's end, on a thread of its own, and tell the main thread."""
        try:
            outcome = self._engine.wait()
        except PvtimeError as error:
            self._inbox.put(EngineEnded(Outcome.FAILED, error))
        except Exception as error:
            # A bug, yet the terminal must be restored and the last table shown before it is reported.
            reason = EngineError(f"engine {self._engine.name}: {error!r}")
            self._inbox.put(EngineEnded(Outcome.FAILED, reason))
        else:
            self._inbox.put(EngineEnded(outcome or Outcome.STOPPED))

    # Input: from the guest, the user and the engine

    def _take(self) -> None:
        """Handle what has come since the last call; no guest may hold up the events.

        Of many reports of /proc/stat at once the last counts: a sample is of its moment, not of the others'.
        And each takes a sample: a guest that sent a megabyte of them kept Ctrl-C waiting for 19 s.
        """
        self._notice_resets()
        report: protocol.StatReport | None = None
        messages = self._decoder.feed(self._inbox.take_agent())
        for message in messages:
            if isinstance(message, protocol.StatReport):
                report = message
            elif isinstance(message, protocol.Ready):
                report = None
                self._handle_ready(message)
            elif isinstance(message, protocol.ShellOutput | protocol.ShellExit):
                self._shell_jobs.handle(message)
            elif message == STOPPING:
                self._note_step(PowerOffStep.ACKNOWLEDGED)
        for event in self._inbox.take_events():
            self._handle_event(event)
        if console := self._inbox.take_console():
            self._times.silence_at = None
            self._silence = None
            self._banner.feed(console)
            self.console.feed(console)
            for kind, text, vcpu in console_events(self._event_lines, console):
                self.add_event(kind, text, vcpu)
            self._view.console(console)
        if console or messages:
            self._silent = None
            self._times.halt_ends_at = (
                self._times.now() + self._timeouts.halt if self._banner.halted else None
            )
        if report is not None:
            self._handle_report(report)

    def _notice_resets(self) -> None:
        """Note that there is no agent until userland is up again."""
        resets = self._machine.boots - (0 if self._resumed else 1)
        if resets > self._resets:
            self._resets = resets
            self._agent_up = False
            self._asked_at = None
            self._shell_jobs.reset()

    def _handle_ready(self, ready: protocol.Ready) -> None:
        self._agent_up = True
        # Times count from the first: else a guest that reports again and again would never come to the end.
        if self._times.ready_at is None:
            self._times.ready_at = self._times.now()
        # Another kernel may have taken over.
        self._banner.panicked = False
        self._final = None
        self._figures.start_kernel()
        self._banner.release = self._banner.release or ready.release
        self.add_event(EventKind.USERLAND, f"userland of kernel {ready.release} is up")
        if self._size:
            self._tell_agent("size", self._size.rows, self._size.columns)
        if self._times.give_up_at is not None:
            self._tell_agent("stop")  # the agent that was told is gone

    def _handle_report(self, report: protocol.StatReport) -> None:
        self._asked_at = None
        moment = self._sample(report)
        if report.final:
            self._final = moment
            self._note_step(PowerOffStep.REPORTED)
        with self._reported:
            self._reports += 1
            self._last_report = moment
            self._reported.notify_all()
        self._view.moment(moment)

    def _handle_event(self, event: object) -> None:
        match event:
            case EngineEnded() if self._ended is None:
                self._ended = event
            case SaveFailed() if self._ended is None:
                self._failed_save = event.error
                self._view.note(f"not saved, the machine runs on: {event.error}")
            case SaveFailed():
                self._notes.append("the run ended before the machine could be saved")
            case SignalReceived():
                again = self._signal is not None
                self._signal = event.number
                self._request_power_off(0.0 if again else self._timeouts.power_off_signal)
            case QuitRequested():
                self._quit = True
                self._request_power_off(self._timeouts.power_off)
            case StopNow() if self._ended is None:
                self._quit = True
                self._times.limit_power_off(0.0)
                self._ended = EngineEnded(Outcome.STOPPED)
            case TerminalResized():
                self._size = event
                self._tell_agent("size", event.rows, event.columns)

    # Deadlines

    def _seconds_until_due(self) -> float:
        """Return the seconds until :meth:`_take` or :meth:`_act` has something to do."""
        now = self._times.now()
        # A quiet view shows no console, yet a panic on it ends the run.
        due = [self._view.console_interval or CONSOLE_INTERVAL_S]
        if self._view.interval is not None:
            due.append(self._shown_at + self._view.interval - now)
        times = self._times
        ends = (times.end_at, times.save_at, times.silence_at)
        due += [when - now for when in ends if when is not None]
        if self._power_off is not None or times.halt_ends_at is not None:
            due.append(self._looked_at + self._timeouts.power_off_look - now)
        return max(0.0, min(due))

    def _act(self) -> None:
        """Do what is due."""
        now = self._times.now()
        self._save_if_due(now)
        if self._times.silence_at is not None and now >= self._times.silence_at:
            self._times.silence_at = None
            self._silence = SILENCE.format(self._timeouts.silence)
            self._view.note(self._silence)
        self._watch_guest(now)
        end_at, interval = self._times.end_at, self._view.interval
        if end_at is not None and now >= end_at and self._ended is None:
            if self._times.give_up_at is None:
                self._request_power_off(self._timeouts.power_off)
            else:
                self._give_up()
        elif interval is not None and now >= self._shown_at + interval:
            self._refresh(now)

    def _save_if_due(self, now: float) -> None:
        save_at = self._times.save_at
        if self._options.save_at is not None and save_at is not None and now >= save_at:
            self._times.save_pending = False
            self._save(self._options.save_at.directory)

    def _refresh(self, now: float) -> None:
        """Show new figures: ask the guest for its own once userland is up; show the host's alone before.

        And while it does not answer: its agent is on CPU 0, which the host may be keeping from running.
        """
        self._shown_at = now
        unanswered = self._asked_at is not None and now >= self._asked_at + self._timeouts.stat_reply
        if not self._agent_up or unanswered:
            self._view.moment(self._sample(None))
        if self._agent_up and (self._asked_at is None or unanswered):
            self._asked_at = now
            self._tell_agent("stat")

    def _watch_guest(self, now: float) -> None:
        """Stop a guest that has let its own time pass: to power off when asked, or since its kernel's end."""
        halt_ends_at = self._times.halt_ends_at
        if (self._power_off is None and halt_ends_at is None) or (
            now < self._looked_at + self._timeouts.power_off_look
        ):
            return
        samples = self._engine.sample()
        self._looked_at = now = self._times.now()
        if self._ended is None and halt_ends_at is not None:
            self._silent = self._silent or self._own_time(self._timeouts.halt_own, now, samples)
            if now >= halt_ends_at or self._silent.is_over(now, samples):
                self._halted = True
                self._ended = EngineEnded(Outcome.STOPPED)
        if self._ended is None and self._power_off is not None and self._power_off.is_over(now, samples):
            self._give_up()

    def _own_time(self, seconds: float, now: float, samples: Sequence[VcpuSample]) -> OwnTime:
        return OwnTime(now, samples, seconds + self._timeouts.power_off_vcpu * (len(samples) - 1))

    def _note_step(self, step: PowerOffStep) -> None:
        # A sample for each of many that repeat it would let a guest hold up the events.
        if self._power_off is not None and step > self._power_off.step:
            samples = self._engine.sample()
            self._power_off.reach(step, self._times.now(), samples)

    def _request_power_off(self, seconds: float) -> None:
        """End the run: ask a guest that has an agent to power off within ``seconds``; stop any other now."""
        asked = self._times.give_up_at is not None
        self._times.limit_power_off(seconds if self._agent_up else 0.0)
        if seconds and not asked and self._agent_up:
            self._tell_agent("stop")
            samples = self._engine.sample()
            self._looked_at = self._times.now()
            self._power_off = PowerOffWatch(
                self._own_time(self._timeouts.power_off_own, self._looked_at, samples)
            )

    def _give_up(self) -> None:
        """Stop the engine: the guest cannot be asked to power off, or did not do so in time."""
        if self._agent_up:
            self._notes.append("the guest did not power off when asked, so it was stopped")
        elif self._times.ready_at is not None:
            self._notes.append("the guest was booting again after a reset, so it was stopped")
        elif self._agent is not None and self._signal is None:
            self._notes.append("the stock userland never reported, so the guest was stopped")
        self._ended = EngineEnded(Outcome.STOPPED)

    def _tell_agent(self, verb: str, *numbers: int) -> None:
        if self._agent_up and self._agent is not None:
            self._agent.receive(protocol.encode(verb, *numbers))

    # Figures

    def figures(self) -> Moment:
        """Return the host's figures of now."""
        return self._sample(None)

    def guest_figures(self) -> Moment:
        """Return the figures at the guest's next report of /proc/stat, for which it is asked.

        The host's alone, where the guest has let its own time for that pass.
        """
        with self._reported:
            before = self._reports
        if not self.is_up or self._ended is not None:
            return self.figures()
        now, samples = self._times.now(), self._engine.sample()
        give_up_at = now + self._timeouts.report
        own = self._own_time(self._timeouts.report_own, now, samples)
        self._tell_agent("stat")
        while self._ended is None and now < give_up_at and not own.is_over(now, samples):
            with self._reported:
                self._reported.wait_for(
                    lambda: self._reports > before or self._ended is not None, self._timeouts.power_off_look
                )
                if self._reports > before and self._last_report is not None:
                    return self._last_report
            now, samples = self._times.now(), self._engine.sample()
        return self.figures()

    def shell(self, command: str, timeout: float) -> ShellResult:
        """Run a command in a shell of the guest, and return its end; see :meth:`ShellJobs.run`.

        :raises UsageError: the guest has no stock userland, or it is not up.
        """
        if self._agent is None:
            raise UsageError("a command in the guest needs the stock userland: leave out the initrd")
        if not self.is_up:
            raise UsageError("the guest's userland is not up: wait for it first")
        return self._shell_jobs.run(command, timeout)

    def collect_share(self, timeout: float) -> list[str]:
        """Write what the guest has changed in the directory that it shares; return notes for the user.

        Nothing where it shares none. See :meth:`ShellJobs.write_share` and :meth:`Share.collect`.

        :param timeout: seconds for the guest.
        """
        if self._share is None:
            return []
        with self._share.lock:
            self._shell_jobs.write_share(timeout)
            return self._share.collect()

    def note_steal(self, text: str) -> None:
        """Note that the schedule of injected steal has changed."""
        self._figures.inject()
        self.add_event(EventKind.STEAL, text)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the guest the size of its console's terminal."""
        self._inbox.put(TerminalResized(rows, columns))

    def _sample(self, stat: protocol.StatReport | None) -> Moment:
        """Sample the engine now, and join a report of /proc/stat that has just arrived."""
        samples = self._engine.sample()
        with self._starts_lock:
            started = list(start_events(self._starts, samples))
        for kind, text, vcpu in started:
            self.add_event(kind, text, vcpu)
        return self._figures.join(self._times.elapsed(), samples, stat)

    def _outcome(self) -> Outcome:
        """Return how the run ended, as the user sees it: the engine cannot know who asked for a power-off."""
        ended = self._ended.outcome if self._ended else Outcome.STOPPED
        if ended not in (Outcome.POWER_OFF, Outcome.STOPPED):
            return ended
        if ended is Outcome.STOPPED and self._banner.panicked:
            return Outcome.PANICKED
        by_user = self._signal is not None or self._quit
        if self._agent is not None and self._times.ready_at is None and not by_user:
            return Outcome.NO_USERLAND
        return ended if self._times.give_up_at is None else Outcome.STOPPED

    def _result(self, elapsed: float) -> RunResult:
        outcome = self._outcome()
        if outcome is Outcome.PANICKED:
            for_good = ", and does not reboot" if self._halted else ""
            self._notes.append(f"the guest's kernel panicked{for_good}: its console has the reason")
        elif self._halted:
            self._notes.append("the guest's kernel has halted without powering off, so the run was ended")
        elif outcome is Outcome.NO_USERLAND and self._times.give_up_at is None:
            self._notes.append("the guest powered off before the stock userland reported")
        if self._silence is not None:
            self._notes.append(self._silence)
        last = self._final or self._sample(None)
        self._notes += [
            f"vCPU {row.index}: the steal in the guest's /proc/stat ran backwards "
            f"{_times(row.guest_steal_falls)}, by {units.time(row.guest_steal_fell_ns)} in all"
            for row in last.vcpus
            if row.guest_steal_falls
        ]
        if self._inbox.dropped:
            self._notes.append(f"{self._inbox.dropped} bytes of console output came too fast to be shown")
        if self._times.save_pending:
            self._notes.append("the run ended before the machine could be saved")
        report = RunReport(
            engine=self._engine.label,
            placement=self._machine.config.placement.value,
            kernel=self.release,
            boot_seconds=self._times.boot_seconds,
            elapsed_seconds=elapsed,
            outcome=outcome,
            sampled_seconds=last.elapsed_seconds,
            vcpus=last.vcpus,
            begin=last.begin,
        )
        error = (self._ended.error if self._ended else None) or self._failed_save
        return RunResult(report, last, tuple(self._notes), self._signal, error)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
