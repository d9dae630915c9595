# SPDX-License-Identifier: GPL-2.0-or-later
"""The course of a run, with an engine that does what the test says."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest

from framework.fakes import FakeEngine
from pvtime.engine.base import Outcome
from pvtime.errors import EngineError
from pvtime.report.model import Moment
from pvtime.run import session, timetable
from pvtime.run.inbox import Inbox
from pvtime.run.plan import Ending, Plan, Quit, Resized, Signalled
from pvtime.run.session import Session

BANNER = b"[    0.000000] Linux version 6.1.0-37-cloud-arm64 (debian) #1 SMP\r\n"


def stat(number: int, steal_ticks: int, cpus: int = 2, final: bool = False) -> bytes:
    """Return the agent's report that says ``steal_ticks`` of every CPU."""
    lines = [f"stat begin {number}" + (" final" if final else "")]
    lines += [f"stat cpu{cpu} 0 0 0 0 0 0 0 {steal_ticks} 0 0 {steal_ticks}" for cpu in range(cpus)]
    return "\n".join([*lines, f"stat end {number}", ""]).encode()


class RecordingView:
    """Keeps what it was shown."""

    console_interval: float | None = 0.01

    def __init__(self, interval: float | None = None) -> None:
        self.interval = interval
        self.text = b""
        self.moments: list[Moment] = []

    def console(self, data: bytes) -> None:
        """Keep console output."""
        self.text += data

    def moment(self, moment: Moment) -> None:
        """Keep figures."""
        self.moments.append(moment)


class Bench:
    """A session with a guest whose answers to the agent's commands are ``obey``'s."""

    def __init__(
        self, duration: float | None = None, agent: bool = True, interval: float | None = None
    ) -> None:
        self.engine = FakeEngine()
        self.inbox = Inbox()
        self.view = RecordingView(interval)
        self.heard: list[bytes] = []
        self.obey: Callable[[bytes], None] = lambda command: None
        plan = Plan(tell_agent=self._tell if agent else None, duration=duration)
        self.session = Session(self.engine, self.inbox, self.view, plan)

    def _tell(self, command: bytes) -> None:
        self.heard.append(command)
        self.obey(command)

    def run(self) -> Ending:
        """Run to the end, which must come."""
        return self.session.run()

    def stop_politely(self, command: bytes) -> None:
        """Be a guest that obeys ``stop``."""
        if command == b"stop\n":
            self.inbox.agent(stat(9, 5, final=True))
            self.engine.power_off()


def test_a_guest_that_powers_off_ends_the_run() -> None:
    bench = Bench()
    bench.inbox.console(BANNER)
    bench.engine.power_off()
    ending = bench.run()
    assert ending.report.outcome is Outcome.POWER_OFF
    assert ending.report.kernel == "6.1.0-37-cloud-arm64"
    assert ending.report.boot_seconds is None
    assert [row.guest_steal_ns for row in ending.report.vcpus] == [None, None]
    assert ending.notes == ()
    assert bench.view.text == BANNER


def test_the_release_is_the_agents_where_the_console_said_none() -> None:
    bench = Bench()
    bench.inbox.agent(b"ready 6.12.1\n")
    bench.engine.power_off()
    assert bench.run().report.kernel == "6.12.1"


def test_the_banner_is_found_in_pieces_and_only_where_it_is_due() -> None:
    bench = Bench(agent=False)
    for byte in BANNER + BANNER.replace(b"6.1.0", b"9.9.9"):
        bench.inbox.console(bytes([byte]))
    bench.engine.power_off()
    assert bench.run().report.kernel == "6.1.0-37-cloud-arm64"


def test_rows_join_the_guests_figures_with_samples_of_their_arrival() -> None:
    bench = Bench()
    bench.inbox.agent(b"ready 6.1\n" + stat(1, steal_ticks=3))
    bench.inbox.agent(stat(2, steal_ticks=4))
    bench.engine.power_off()
    bench.run()
    joined = [[(row.truth_ns, row.guest_steal_ns) for row in moment.vcpus] for moment in bench.view.moments]
    assert joined == [[(1, 30_000_000)] * 2, [(2, 40_000_000)] * 2]


def test_a_cpu_that_the_guest_took_down_has_no_guest_figure() -> None:
    bench = Bench()
    bench.inbox.agent(b"ready 6.1\n" + stat(1, steal_ticks=3, cpus=1))
    bench.engine.power_off()
    bench.run()
    assert [row.guest_steal_ns for row in bench.view.moments[0].vcpus] == [30_000_000, None]


def test_after_the_duration_the_guest_is_asked_and_its_final_figures_count() -> None:
    bench = Bench(duration=0.01)
    bench.obey = bench.stop_politely
    bench.inbox.agent(b"ready 6.1\n" + stat(1, steal_ticks=3))
    ending = bench.run()
    assert bench.heard == [b"stop\n"]
    assert ending.report.outcome is Outcome.POWER_OFF
    assert ending.report.boot_seconds is not None
    assert [row.guest_steal_ns for row in ending.report.vcpus] == [50_000_000] * 2
    assert ending.last.vcpus == ending.report.vcpus
    assert ending.notes == ()


def test_a_guest_that_does_not_power_off_is_stopped_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "GRACE", 0.01)
    bench = Bench(duration=0.01)
    bench.inbox.agent(b"ready 6.1\n")
    ending = bench.run()
    assert ending.report.outcome is Outcome.STOPPED
    assert bench.engine.stopped
    assert ending.notes == ("the guest did not power off when asked and was stopped",)


def test_a_stock_userland_that_never_reports_does_not_run_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timetable, "BOOT_LIMIT", 0.01)
    ending = Bench(duration=0.01).run()
    assert ending.notes == ("the stock userland never reported; the guest was stopped",)


def test_without_an_agent_the_duration_counts_from_the_start_and_the_engine_is_stopped() -> None:
    bench = Bench(duration=0.01, agent=False)
    ending = bench.run()
    assert ending.report.outcome is Outcome.STOPPED
    assert ending.notes == ()
    assert bench.heard == []


def test_a_signal_ends_a_guest_politely_and_is_told() -> None:
    bench = Bench()
    bench.obey = bench.stop_politely
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.put(Signalled(signal.SIGTERM))
    ending = bench.run()
    assert ending.signal == signal.SIGTERM
    assert ending.report.outcome is Outcome.POWER_OFF


def test_a_second_signal_does_not_wait_for_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "GRACE_SIGNAL", 1e6)
    bench = Bench()
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.put(Signalled(signal.SIGINT))
    bench.inbox.put(Signalled(signal.SIGINT))
    assert bench.run().signal == signal.SIGINT


def test_a_signal_before_userland_ends_at_once() -> None:
    bench = Bench()
    bench.inbox.put(Signalled(signal.SIGINT))
    ending = bench.run()
    assert ending.report.outcome is Outcome.STOPPED
    assert ending.notes == ()


def test_the_escape_key_ends_the_run() -> None:
    bench = Bench()
    bench.obey = bench.stop_politely
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.put(Quit())
    ending = bench.run()
    assert ending.signal is None
    assert ending.report.outcome is Outcome.POWER_OFF


def test_a_size_that_came_before_userland_reaches_it() -> None:
    bench = Bench()
    bench.inbox.put(Resized(50, 132))
    threading.Timer(0.05, bench.inbox.agent, [b"ready 6.1\n"]).start()
    bench.obey = lambda command: bench.engine.power_off()
    bench.run()
    assert bench.heard == [b"size 50 132\n"]


@pytest.mark.parametrize("error", [EngineError("the guest fell over"), ZeroDivisionError("a bug")])
def test_an_engine_that_cannot_go_on_leaves_a_report_and_its_reason(error: Exception) -> None:
    bench = Bench()
    bench.engine.fail(error)
    ending = bench.run()
    assert ending.report.outcome is Outcome.FAILED
    assert isinstance(ending.error, EngineError)
    assert str(error) in str(ending.error)


def test_the_engine_is_stopped_even_when_the_view_fails() -> None:
    bench = Bench()

    def fail(data: bytes) -> None:
        raise BrokenPipeError

    bench.view.console = fail  # type: ignore[method-assign]
    bench.inbox.console(b"text\n")
    with pytest.raises(BrokenPipeError):
        bench.run()
    assert bench.engine.stopped


def test_a_view_with_an_interval_is_fed_by_the_host_until_the_guest_reports_and_then_by_it() -> None:
    bench = Bench(interval=0.001)

    def answer(command: bytes) -> None:
        bench.inbox.agent(stat(1, steal_ticks=3))
        bench.engine.power_off()

    bench.obey = answer
    threading.Timer(0.05, bench.inbox.agent, [b"ready 6.1\n"]).start()
    bench.run()
    assert not bench.view.moments[0].from_guest
    assert bench.view.moments[-1].from_guest
    assert bench.heard[0] == b"stat\n"


def test_what_a_guest_prints_too_fast_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvtime.run.inbox.CONSOLE_LIMIT", 10)
    bench = Bench()
    for _ in range(15):
        bench.inbox.console(b"x")
    bench.engine.power_off()
    assert bench.run().notes == ("5 bytes of console output came too fast to be shown",)


def test_what_a_machine_counted_elsewhere_is_noted_at_its_start() -> None:
    engine = FakeEngine()
    engine.samples = 41
    plan = Plan(tell_agent=None, duration=0.01, resumed=True)
    last = Session(engine, Inbox(), RecordingView(), plan).run().last
    assert (last.before_ns, last.vcpus[0].truth_ns) == ((42, 42), 43)
