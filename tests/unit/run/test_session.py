# SPDX-License-Identifier: GPL-2.0-or-later
"""The course of a run, with an engine that does what the test says."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace

import pytest

from framework.fakes import FakeEngine
from pvtime.engine.base import Outcome, VcpuSample
from pvtime.errors import EngineError, SavedStateError
from pvtime.machine.devicetree import EMULATED_TIMER_PPIS, GicFlavour
from pvtime.machine.image import KernelImage
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.report.model import Moment
from pvtime.run.inbox import EngineEnded, Inbox, QuitRequested, SaveFailed, SignalReceived, TerminalResized
from pvtime.run.options import RunOptions
from pvtime.run.session import RunResult, Session
from pvtime.run.source import BuiltMachine
from pvtime.run.timetable import SessionTimeouts

BANNER = b"[    0.000000] Linux version 6.1.0-37-cloud-arm64 (debian) #1 SMP\r\n"


def stat(number: int, steal_ticks: int, cpus: int = 2, final: bool = False) -> bytes:
    """Return the agent's report that says ``steal_ticks`` of every CPU, and of user time ``number``."""
    lines = [f"stat begin {number}" + (" final" if final else "")]
    lines += [
        f"stat cpu{cpu} {number} 0 0 0 0 0 0 {steal_ticks} 0 0 {number + steal_ticks}" for cpu in range(cpus)
    ]
    return "\n".join([*lines, f"stat end {number}", ""]).encode()


class RecordingView:
    """Keeps what it was shown."""

    console_interval: float | None = 0.01

    def __init__(self, interval: float | None = None) -> None:
        self.interval = interval
        self.text = b""
        self.notes: list[str] = []
        self.moments: list[Moment] = []

    def console(self, data: bytes) -> None:
        """Keep console output."""
        self.text += data

    def note(self, note: str) -> None:
        """Keep a line of pvtime's own."""
        self.notes.append(note)

    def moment(self, moment: Moment) -> None:
        """Keep figures."""
        self.moments.append(moment)


class DrivenInbox(Inbox):
    """An inbox in whose time, :attr:`now`, nothing happens but waiting and what :meth:`later` arranges."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(console_limit=10)
        self._engine = engine
        self._arranged: list[tuple[float, Callable[[], object]]] = []
        self.now = 0.0

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call something when so much time has passed."""
        self._arranged.append((self.now + seconds, call))
        self._arranged.sort(key=lambda arranged: arranged[0])

    def wait(self, timeout: float | None) -> None:
        """Let ``timeout`` pass, or less: until something arranged, or what has come already."""
        if self._console or self._agent or self._events:
            super().wait(0)
        elif self._engine.over:
            super().wait(None)  # its end comes from another thread
        elif self._arranged and (timeout is None or self._arranged[0][0] <= self.now + timeout):
            self.now, call = self._arranged.pop(0)
            call()
        else:
            assert timeout is not None
            self.now += timeout
            assert self.now < 10_000, "the session waits for ever"


class Bench:
    """A session with a guest whose answers to the agent's commands are ``obey``'s."""

    def __init__(
        self,
        duration: float | None = None,
        agent: bool = True,
        interval: float | None = None,
        resumed: bool = False,
        boot_timeout: float | None = None,
    ) -> None:
        self.engine = FakeEngine()
        self.inbox = DrivenInbox(self.engine)
        self.view = RecordingView(interval)
        self.heard: list[bytes] = []
        self.heard_at: list[float] = []
        self.obey: Callable[[bytes], None] = lambda command: None
        kernel = KernelImage(bytes(64), 0, 64, None)
        self.machine = Machine(MachineConfig(2, 64 << 20, kernel), self.inbox.console, self.inbox.agent)
        self.machine.agent.receive = self._tell  # type: ignore[method-assign]
        self.session = Session(
            BuiltMachine(self.machine, self.engine, agent, "a test", resumed=resumed),
            self.inbox,
            self.view,
            RunOptions(duration=duration, boot_timeout=boot_timeout),
            on_start=lambda: None,
            save=lambda directory: None,
            timeouts=SessionTimeouts(
                boot=60,
                silence=20,
                halt=30,
                halt_own=4.5,
                power_off=10,
                power_off_own=2,
                power_off_vcpu=0.5,
                power_off_signal=2,
                stat_reply=3,
            ),
            clock=lambda: self.inbox.now,
        )

    def _tell(self, data: bytes) -> int:
        self.heard.append(data)
        self.heard_at.append(self.inbox.now)
        self.obey(data)
        return len(data)

    def run(self) -> RunResult:
        """Run to the end, which must come."""
        try:
            return self.session.run()
        finally:
            self.machine.close()

    def boot(self) -> None:
        """Load the guest, as an engine does at its start and at each reset."""
        self.machine.load(GicFlavour.GICV2, EMULATED_TIMER_PPIS)

    def stop_politely(self, command: bytes) -> None:
        """Be a guest that obeys ``stop``."""
        if command == b"stop\n":
            self.inbox.agent(stat(9, 5, final=True))
            self.engine.power_off()


def test_a_guest_that_powers_off_ends_the_run() -> None:
    bench = Bench(agent=False)
    bench.inbox.console(BANNER)
    bench.engine.power_off()
    result = bench.run()
    assert result.report.outcome is Outcome.POWER_OFF
    assert result.report.kernel == "6.1.0-37-cloud-arm64"
    assert result.report.boot_seconds is None
    assert [row.guest for row in result.report.vcpus] == [None, None]
    assert result.notes == ()
    assert bench.view.text == BANNER


def test_the_release_is_the_agents_where_the_console_said_none() -> None:
    bench = Bench()
    bench.inbox.agent(b"ready 6.12.1\n")
    bench.engine.power_off()
    assert bench.run().report.kernel == "6.12.1"


def test_the_banner_is_found_in_pieces_and_only_where_it_is_due() -> None:
    bench = Bench(agent=False)
    console = BANNER + BANNER.replace(b"6.1.0", b"9.9.9")
    for moment, byte in enumerate(console):
        bench.inbox.later(moment, lambda byte=byte: bench.inbox.console(bytes([byte])))  # type: ignore[misc]
    bench.inbox.later(len(console), bench.engine.power_off)
    assert bench.run().report.kernel == "6.1.0-37-cloud-arm64"


def test_rows_join_the_guests_figures_with_samples_of_their_arrival() -> None:
    bench = Bench()
    bench.inbox.agent(b"ready 6.1\n" + stat(1, steal_ticks=3))

    def end() -> None:
        bench.inbox.agent(stat(2, steal_ticks=4))
        bench.engine.power_off()

    bench.inbox.later(1, end)
    bench.run()
    joined = [[(row.truth_ns, row.guest_steal_ns) for row in moment.vcpus] for moment in bench.view.moments]
    assert joined == [[(1, 30_000_000)] * 2, [(2, 40_000_000)] * 2]


def test_a_cpu_that_the_guest_took_down_has_no_guest_figure() -> None:
    bench = Bench()
    bench.inbox.agent(b"ready 6.1\n" + stat(1, steal_ticks=3, cpus=1))
    bench.engine.power_off()
    bench.run()
    assert [row.guest_steal_ns for row in bench.view.moments[0].vcpus] == [30_000_000, None]


def test_a_steal_column_that_runs_backwards_is_told_on_the_spot_and_at_the_end() -> None:
    bench = Bench()
    bench.inbox.agent(b"ready 6.1\n" + stat(1, steal_ticks=300))
    bench.inbox.later(1, lambda: bench.inbox.agent(stat(2, steal_ticks=100)))
    bench.inbox.later(2, lambda: bench.inbox.agent(stat(3, steal_ticks=50, cpus=1)))
    bench.inbox.later(3, bench.engine.power_off)
    result = bench.run()
    assert [note.partition(": ")[0] for note in bench.view.notes] == ["vCPU 0", "vCPU 1"]
    assert all("ran backwards, from 3.000 s to 1.000 s" in note for note in bench.view.notes)
    assert [note.partition("backwards ")[2] for note in result.notes] == [
        "2 times, by 2.500 s in all",
        "once, by 2.000 s in all",
    ]
    assert [row.guest_steal_falls for row in result.report.vcpus] == [2, 1]


def test_the_last_report_of_another_kernel_is_not_this_ones() -> None:
    bench = Bench()
    bench.inbox.agent(b"ready 6.1\n" + stat(5, steal_ticks=300, final=True))
    bench.inbox.later(1, lambda: bench.inbox.agent(b"ready 6.12\n"))
    bench.inbox.later(2, bench.engine.power_off)
    assert [row.guest for row in bench.run().report.vcpus] == [None, None]


def test_after_the_duration_the_guest_is_asked_and_its_final_figures_count() -> None:
    bench = Bench(duration=7)
    bench.obey = bench.stop_politely
    bench.inbox.later(1, lambda: bench.inbox.agent(b"ready 6.1\n" + stat(1, steal_ticks=3)))
    result = bench.run()
    assert bench.heard == [b"stop\n"]
    assert bench.heard_at == [pytest.approx(1 + 7)]
    assert result.report.outcome is Outcome.STOPPED
    assert result.report.boot_seconds == pytest.approx(1)
    assert [row.guest.steal_ns for row in result.report.vcpus if row.guest] == [50_000_000] * 2
    assert result.last.vcpus == result.report.vcpus
    assert result.notes == ()


def test_a_guest_that_does_not_power_off_is_stopped_and_that_is_said() -> None:
    bench = Bench(duration=7)
    bench.inbox.agent(b"ready 6.1\n")
    result = bench.run()
    assert result.report.outcome is Outcome.STOPPED
    assert result.report.elapsed_seconds == pytest.approx(7 + 2.5, abs=0.2), "2 s, and 0.5 s for its vCPU 1"
    assert bench.engine.stopped
    assert result.notes == (NOT_OFF,)


NOT_OFF = "the guest did not power off when asked, so it was stopped"


def test_a_guest_that_says_again_and_again_that_it_powers_off_gains_time_for_each_step_once() -> None:
    # 30 s were every guest's, for one on a busy host may need long: a guest decided how long --duration was.
    bench = Bench(duration=7)
    bench.inbox.agent(b"ready 6.1\n")
    for tick in range(200):
        bench.inbox.later(8 + tick / 10, lambda: bench.inbox.agent(b"ok stop\nready 6.1\n" + stat(1, 3)))
        bench.inbox.later(10 + tick / 10, lambda: bench.inbox.agent(stat(1, 3, final=True) + b"ok stop\n"))
    result = bench.run()
    assert result.report.elapsed_seconds == pytest.approx(10 + 2.5, abs=0.2)
    assert result.notes == (NOT_OFF,)


@pytest.mark.parametrize(("stolen", "ran_elsewhere", "end"), [(0.9, 0, 10), (0.5, 0, 5), (0.9, 0.9, 2.5)])
def test_a_guest_has_its_time_to_power_off_less_what_the_host_took(
    stolen: float, ran_elsewhere: float, end: float
) -> None:
    # But what its other vCPUs ran meanwhile is its own: else many that compute would have the host wait.
    bench = Bench(duration=7)
    bench.inbox.agent(b"ready 6.1\n")
    take = bench.engine.sample

    def sample() -> list[VcpuSample]:
        now = round(bench.inbox.now * 1e9)
        first, second = take()
        return [
            replace(first, stolen_ns=round(stolen * now)),
            replace(second, ran_ns=round(ran_elsewhere * now)),
        ]

    bench.engine.sample = sample  # type: ignore[method-assign]
    assert bench.run().report.elapsed_seconds == pytest.approx(7 + end, abs=0.3)


def test_a_stop_of_the_process_is_not_the_guests_time_to_power_off() -> None:
    bench = Bench(duration=7)
    bench.inbox.agent(b"ready 6.1\n")
    take = bench.engine.sample
    stopped = 0

    def sample() -> list[VcpuSample]:
        return [replace(vcpu, stopped_ns=stopped) for vcpu in take()]

    def stop_and_continue() -> None:
        nonlocal stopped
        bench.inbox.now += 5
        stopped = 5_000_000_000

    bench.engine.sample = sample  # type: ignore[method-assign]
    bench.inbox.later(8, stop_and_continue)
    assert bench.run().report.elapsed_seconds == pytest.approx(7 + 5 + 2.5, abs=0.2)


def test_a_stock_userland_that_never_reports_does_not_run_for_ever() -> None:
    bench = Bench(duration=7)
    bench.inbox.console(b"text\n")
    result = bench.run()
    assert result.report.elapsed_seconds == pytest.approx(60 + 7)
    assert result.report.outcome is Outcome.NO_USERLAND
    assert result.notes == ("the stock userland never reported, so the guest was stopped",)


def test_the_users_limit_for_a_boot_counts_and_ends_a_run_without_a_duration() -> None:
    for duration, end in [(7, 300 + 7), (None, 300)]:
        result = Bench(duration=duration, boot_timeout=300).run()
        assert result.report.elapsed_seconds == pytest.approx(end)
        assert result.report.outcome is Outcome.NO_USERLAND


def test_a_userland_that_comes_in_time_has_no_limit() -> None:
    bench = Bench(boot_timeout=300)
    bench.inbox.later(299, lambda: bench.inbox.agent(b"ready 6.1\n"))
    bench.inbox.later(1000, bench.engine.power_off)
    assert bench.run().report.outcome is Outcome.POWER_OFF


def test_a_console_that_stays_silent_is_told_with_the_likely_reasons() -> None:
    # A kernel that stops before its console left a user before an empty screen.
    bench = Bench(agent=False)
    bench.inbox.later(19, lambda: None)
    bench.inbox.later(21, bench.engine.power_off)
    result = bench.run()
    assert bench.view.notes[0].startswith("nothing on the guest's console after 20 s: ")
    assert result.notes == (bench.view.notes[0],)
    assert "earlycon" in result.notes[0]


@pytest.mark.parametrize("spoken_at", [19, 21])
def test_a_console_that_spoke_at_last_leaves_no_note(spoken_at: float) -> None:
    bench = Bench(agent=False)
    bench.inbox.later(spoken_at, lambda: bench.inbox.console(b"text\n"))
    bench.inbox.later(40, bench.engine.power_off)
    assert bench.run().notes == ()
    assert len(bench.view.notes) == (spoken_at > 20)


def test_the_console_of_a_resumed_machine_may_be_silent() -> None:
    bench = Bench(agent=False, resumed=True)
    bench.inbox.later(100, bench.engine.power_off)
    bench.run()
    assert bench.view.text == b""


def test_a_guest_that_reports_again_and_again_does_not_put_off_the_end() -> None:
    # Each "ready" was a new start of --duration, and of the save: a guest decided when they came.
    bench = Bench(duration=7)
    bench.obey = bench.stop_politely
    for second in range(1, 100):
        bench.inbox.later(second, lambda: bench.inbox.agent(b"ready 6.1\n"))
    result = bench.run()
    assert result.report.elapsed_seconds == pytest.approx(1 + 7)
    assert result.report.boot_seconds == pytest.approx(1)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_guest_that_boots_again_when_the_duration_ends_is_stopped_at_once(resumed: bool) -> None:
    # It had nobody who could power it off, and ran on until that could be given up.
    bench = Bench(duration=7, resumed=resumed)
    if not resumed:
        bench.boot()
        bench.inbox.later(1, lambda: bench.inbox.agent(b"ready 6.1\n"))
    bench.inbox.later(3, bench.boot)
    result = bench.run()
    assert result.report.elapsed_seconds == pytest.approx((0 if resumed else 1) + 7)
    assert result.report.outcome is Outcome.STOPPED
    assert result.notes == ("the guest was booting again after a reset, so it was stopped",)
    assert bench.heard == []


def test_userland_that_is_up_again_after_a_reset_is_asked_to_power_off() -> None:
    bench = Bench(duration=7, interval=1)
    bench.obey = bench.stop_politely
    bench.boot()
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.later(3.5, bench.boot)
    bench.inbox.later(4.5, lambda: bench.inbox.console(b"text\n"))
    up: list[bool] = []
    bench.inbox.later(4.7, lambda: up.append(bench.session.is_up))
    bench.inbox.later(5.5, lambda: bench.inbox.agent(b"ready 6.1\n"))
    result = bench.run()
    assert up == [False]
    assert not [at for at in bench.heard_at if 4.5 <= at < 5.5]
    assert bench.heard_at[bench.heard.index(b"stop\n")] == pytest.approx(7)
    assert result.report.elapsed_seconds == pytest.approx(7, abs=0.1)
    assert result.notes == ()


def test_another_kernel_that_took_over_before_it_could_be_asked_is_asked_to_power_off() -> None:
    bench = Bench(duration=7)
    bench.inbox.agent(b"ready 6.1\n")

    def take_over() -> None:
        bench.obey = bench.stop_politely
        bench.inbox.agent(b"ready 6.12\n")

    bench.inbox.later(9, take_over)
    result = bench.run()
    assert bench.heard_at == [pytest.approx(7), pytest.approx(9)]
    assert result.report.elapsed_seconds == pytest.approx(9)
    assert result.notes == ()


def test_without_an_agent_the_duration_counts_from_the_start_and_the_engine_is_stopped() -> None:
    bench = Bench(duration=7, agent=False)
    result = bench.run()
    assert result.report.outcome is Outcome.STOPPED
    assert result.report.elapsed_seconds == pytest.approx(7)
    assert result.notes == ()
    assert bench.heard == []


def test_a_signal_ends_a_guest_politely_and_is_told() -> None:
    bench = Bench()
    bench.obey = bench.stop_politely
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.put(SignalReceived(signal.SIGTERM))
    result = bench.run()
    assert result.signal == signal.SIGTERM
    assert result.report.outcome is Outcome.STOPPED


def test_after_a_signal_the_guest_has_less_time_to_power_off() -> None:
    bench = Bench()
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.put(SignalReceived(signal.SIGINT))
    result = bench.run()
    assert bench.heard == [b"stop\n"]
    assert result.report.elapsed_seconds == pytest.approx(2)


def test_a_second_signal_does_not_wait_for_the_guest() -> None:
    bench = Bench()
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.put(SignalReceived(signal.SIGINT))
    bench.inbox.put(SignalReceived(signal.SIGINT))
    result = bench.run()
    assert result.signal == signal.SIGINT
    assert result.report.elapsed_seconds == 0


def test_a_signal_before_userland_ends_at_once() -> None:
    bench = Bench()
    bench.inbox.put(SignalReceived(signal.SIGINT))
    result = bench.run()
    assert result.report.outcome is Outcome.STOPPED
    assert result.report.elapsed_seconds == 0
    assert result.notes == ()


def test_the_escape_key_ends_the_run() -> None:
    bench = Bench()
    bench.obey = bench.stop_politely
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.put(QuitRequested())
    result = bench.run()
    assert result.signal is None
    assert result.report.outcome is Outcome.STOPPED


def test_a_power_off_of_the_guests_own_is_told_from_ours() -> None:
    bench = Bench(duration=7)
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.later(1, bench.engine.power_off)
    assert bench.run().report.outcome is Outcome.POWER_OFF


def test_a_guest_that_powers_off_before_userland_has_an_outcome_of_its_own() -> None:
    bench = Bench()
    bench.inbox.later(1, bench.engine.power_off)
    result = bench.run()
    assert result.report.outcome is Outcome.NO_USERLAND
    assert result.notes == ("the guest powered off before the stock userland reported",)


PANIC = b"[    1.208193] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n"


@pytest.mark.parametrize("line", [PANIC, PANIC[15:], PANIC.replace(b"] K", b"][    T1] K")])
@pytest.mark.parametrize("agent", [True, False])
def test_a_panic_is_an_outcome_however_it_comes(line: bytes, agent: bool) -> None:
    bench = Bench(duration=7, agent=agent)
    for moment, byte in enumerate(b"text\r\n" + line):
        bench.inbox.later(moment / 100, lambda byte=byte: bench.inbox.console(bytes([byte])))  # type: ignore[misc]
    result = bench.run()
    assert result.report.outcome is Outcome.PANICKED
    assert result.notes[-1] == "the guest's kernel panicked: its console has the reason"


def test_a_kernel_that_comes_up_after_a_panic_has_not_panicked() -> None:
    bench = Bench(duration=7)
    bench.obey = bench.stop_politely
    bench.inbox.console(PANIC)
    bench.inbox.later(1, lambda: bench.inbox.agent(b"ready 6.1\n"))
    assert bench.run().report.outcome is Outcome.STOPPED


END = PANIC.replace(b"Kernel", b"---[ end Kernel").replace(b"\r\n", b" ]---\r\n")


@pytest.mark.parametrize("interval", [0.01, None])
@pytest.mark.parametrize("agent", [True, False])
def test_a_kernel_that_has_panicked_for_good_ends_the_run_of_itself(
    agent: bool, interval: float | None
) -> None:
    # Without --duration it ran on for ever, and nothing executed any more.
    bench = Bench(agent=agent)
    bench.view.console_interval = interval
    for moment, byte in enumerate(PANIC + b"Call trace:\r\n" + END):
        bench.inbox.later(moment / 100, lambda byte=byte: bench.inbox.console(bytes([byte])))  # type: ignore[misc]
    result = bench.run()
    assert result.report.outcome is Outcome.PANICKED
    assert result.report.elapsed_seconds == pytest.approx(len(PANIC + END) / 100 + 5, abs=1.5)
    assert result.notes == ("the guest's kernel panicked, and does not reboot: its console has the reason",)


def test_a_guest_whose_agent_reports_has_only_printed_what_a_panic_prints() -> None:
    bench = Bench()
    bench.obey = bench.stop_politely
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.later(1, lambda: bench.inbox.console(PANIC + END))
    for second in range(2, 60):
        bench.inbox.later(second, lambda: bench.inbox.agent(stat(1, steal_ticks=3)))
    bench.inbox.later(60, bench.engine.power_off)
    assert bench.run().report.outcome is Outcome.POWER_OFF


@pytest.mark.parametrize("following", [b"# ", b"[    9.8] sysrq: Show Blocked State\r\n"])
def test_a_guest_that_prints_something_after_an_old_panic_lives(following: bytes) -> None:
    # A log of it on a terminal is followed by the shell's prompt.
    bench = Bench(agent=False)
    bench.inbox.console(PANIC + END)
    bench.inbox.later(1, lambda: bench.inbox.console(following))
    bench.inbox.later(60, bench.engine.power_off)
    assert bench.run().report.outcome is Outcome.POWER_OFF


def test_a_kernel_that_reboots_after_its_panic_may_take_its_time() -> None:
    bench = Bench()
    bench.inbox.console(PANIC + b"[    1.3] Rebooting in 30 seconds..\r\n")
    bench.inbox.later(35, lambda: bench.inbox.agent(b"ready 6.1\n"))
    bench.inbox.later(40, bench.engine.power_off)
    assert bench.run().report.outcome is Outcome.POWER_OFF


HALTED = b"[    9.8] reboot: System halted\r\n"


@pytest.mark.parametrize("line", [HALTED, HALTED.replace(b"Sys", b"Power off not available: Sys")])
@pytest.mark.parametrize("ready", [b"ready 6.1\n", b""])
def test_a_kernel_that_halts_without_powering_off_ends_the_run(line: bytes, ready: bytes) -> None:
    # halt -f: it loops for ever with interrupts off.
    bench = Bench()
    bench.inbox.agent(ready)
    bench.inbox.later(1, lambda: bench.inbox.console(line))
    result = bench.run()
    assert result.report.outcome is (Outcome.STOPPED if ready else Outcome.NO_USERLAND)
    assert result.report.elapsed_seconds == pytest.approx(1 + 5, abs=0.1)
    assert result.notes == ("the guest's kernel has halted without powering off, so the run was ended",)


@pytest.mark.parametrize(("stolen", "end"), [(0.5, 10), (1, 30)])
def test_a_guest_on_a_busy_host_has_its_own_time_to_show_that_it_lives(stolen: float, end: float) -> None:
    # After 5 s by the clock of a busy host the agent of a guest that lived might not have run again.
    bench = Bench()
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.later(1, lambda: bench.inbox.console(HALTED))
    take = bench.engine.sample

    def sample() -> list[VcpuSample]:
        return [replace(vcpu, stolen_ns=round(stolen * bench.inbox.now * 1e9)) for vcpu in take()]

    bench.engine.sample = sample  # type: ignore[method-assign]
    assert bench.run().report.elapsed_seconds == pytest.approx(1 + end, abs=0.3)


@pytest.mark.parametrize(("stolen", "waited"), [(0, 2.5), (0.5, 5), (1, 30)])
def test_a_guest_on_a_busy_host_has_its_own_time_to_report(stolen: float, waited: float) -> None:
    # A sample of a user's test had no figures of the guest's, which had waited for a CPU for 2 s.
    bench = Bench(resumed=True)
    take = bench.engine.sample

    def sample() -> list[VcpuSample]:
        samples = [replace(vcpu, stolen_ns=round(stolen * bench.inbox.now * 1e9)) for vcpu in take()]
        bench.inbox.now += 2.5
        return samples

    bench.engine.sample = sample  # type: ignore[method-assign]
    figures = bench.session.guest_figures()
    assert [row.guest for row in figures.vcpus] == [None, None]
    assert bench.heard == [b"stat\n"]
    assert bench.inbox.now - 2 * 2.5 == waited, "two samples more: of the last look, and the figures"
    bench.machine.close()


def test_what_only_looks_like_a_panic_is_none() -> None:
    bench = Bench(duration=7, agent=False)
    bench.inbox.console(b"grep: Kernel panic - not syncing\r\n" + b"x" * 81 + b"\r\n")
    assert bench.run().report.outcome is Outcome.STOPPED


def test_a_size_that_came_before_userland_reaches_it() -> None:
    bench = Bench()
    bench.inbox.put(TerminalResized(50, 132))
    bench.inbox.later(1, lambda: bench.inbox.agent(b"ready 6.1\n"))
    bench.obey = lambda command: bench.engine.power_off()
    bench.run()
    assert bench.heard == [b"size 50 132\n"]


@pytest.mark.parametrize("error", [EngineError("the guest fell over"), ZeroDivisionError("a bug")])
def test_an_engine_that_cannot_go_on_leaves_a_report_and_its_reason(error: Exception) -> None:
    bench = Bench()
    bench.engine.fail(error)
    result = bench.run()
    assert result.report.outcome is Outcome.FAILED
    assert isinstance(result.error, EngineError)
    assert str(error) in str(result.error)


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
    bench = Bench(interval=1)

    def answer(command: bytes) -> None:
        bench.inbox.agent(stat(1, steal_ticks=3))
        bench.engine.power_off()

    bench.obey = answer
    bench.inbox.later(3.5, lambda: bench.inbox.agent(b"ready 6.1\n"))
    bench.run()
    assert [moment.from_guest for moment in bench.view.moments] == [False, False, False, True]
    assert bench.heard == [b"stat\n"]


def test_a_question_that_the_guest_leaves_open_is_repeated_and_the_hosts_figures_are_shown() -> None:
    # With --steal 0:4s nothing was shown for 4 s: the agent is on vCPU 0.
    bench = Bench(interval=1)
    bench.inbox.agent(b"ready 6.1\n")
    bench.inbox.later(8.5, bench.engine.power_off)
    bench.run()
    assert bench.heard == [b"stat\n"] * 3
    assert bench.heard_at == pytest.approx([1, 4, 7], abs=0.1)
    assert [moment.elapsed_seconds for moment in bench.view.moments] == pytest.approx([4, 7], abs=0.1)


def test_what_a_guest_prints_too_fast_is_counted() -> None:
    bench = Bench(agent=False)
    for _ in range(15):
        bench.inbox.console(b"x")
    bench.engine.power_off()
    assert bench.run().notes == ("5 bytes of console output came too fast to be shown",)


def test_what_a_machine_counted_elsewhere_is_noted_at_its_start() -> None:
    bench = Bench(duration=1, agent=False, resumed=True)
    bench.engine.samples = 41
    last = bench.run().last
    assert last.begin is not None
    assert [last.begin.vcpus[0].truth_ns, last.vcpus[0].truth_ns] == [42, 43]


def test_a_guest_that_reports_without_end_does_not_hold_up_the_end_of_the_run() -> None:
    # Each report took a sample before an event was looked at: Ctrl-C waited for 19 s.
    bench = Bench(interval=1)
    flood = b"".join(stat(number, 1) for number in range(5_000))
    bench.obey = bench.stop_politely
    bench.inbox.later(1, lambda: bench.inbox.agent(b"ready 6.1.0\n" + flood))
    bench.inbox.later(1, lambda: bench.inbox.put(SignalReceived(signal.SIGINT)))
    bench.run()
    assert bench.engine.samples < 20


def test_a_guest_that_acknowledges_without_end_does_not_hold_up_the_end_of_the_run() -> None:
    bench = Bench(duration=1)
    bench.obey = lambda command: bench.inbox.agent(b"ok stop\n" * 20_000)
    bench.inbox.agent(b"ready 6.1.0\n")
    bench.run()
    assert bench.engine.samples < 100


def test_a_save_that_fails_leaves_the_machine_running_and_is_told_at_once_and_at_the_end() -> None:
    bench, error = Bench(duration=20, agent=False), SavedStateError("disk: No space left on device")
    bench.inbox.later(5, lambda: bench.inbox.put(SaveFailed(error)))
    result = bench.run()
    assert bench.inbox.now == 20
    assert result.report.outcome is Outcome.STOPPED
    assert result.error is error
    assert "not saved, the machine runs on: disk: No space left on device" in bench.view.notes


def test_a_save_that_the_runs_end_has_overtaken_is_not_an_error() -> None:
    bench = Bench(agent=False)
    bench.inbox.put(EngineEnded(Outcome.POWER_OFF))
    bench.inbox.put(SaveFailed(EngineError("the machine has ended")))
    result = bench.run()
    assert result.error is None
    assert result.notes == ("the run ended before the machine could be saved",)
