# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: its two sides are input to each other, and nobody waits for one that is silent."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from framework.fakes import FakeEngine
from framework.wait import DEADLINE, wait_until
from pvtime.errors import MigrationError, PvtimeError, SavedStateError, UsageError
from pvtime.inject.schedule import NOTHING, Schedule
from pvtime.machine.image import KernelImage
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.report.views import QuietView
from pvtime.run import control_server
from pvtime.run.control_client import ask, open_console
from pvtime.run.control_protocol import (
    ConsoleRequest,
    FollowRequest,
    InfoRequest,
    MachineInfo,
    MigrateRequest,
    PauseRequest,
    ResetRequest,
    ResumeRequest,
    RunEnd,
    SaveRequest,
    StateResult,
    StatRequest,
    StealRequest,
    StealResult,
    StopRequest,
    request_document,
)
from pvtime.run.control_server import MAX_CLIENTS, ControlServer
from pvtime.run.events import EventKind
from pvtime.run.exporter import Exporter, SaveResult
from pvtime.run.inbox import Inbox, StopNow, TerminalResized
from pvtime.run.live_machine import LiveMachine
from pvtime.run.options import RunOptions
from pvtime.run.roll_call import call_the_roll
from pvtime.run.runtime_dir import listen_as, socket_of
from pvtime.run.session import Session
from pvtime.run.source import BuiltMachine
from pvtime.snapshot.address import Address, OwnSocket
from pvtime.snapshot.endpoint import Endpoint
from pvtime.snapshot.send import MigrationResult

SAVED = SaveResult(bytes=1 << 20, pause_ns=5)
MOVED = MigrationResult(rounds=2, sent_bytes=30, paused_bytes=10, pause_ns=5, total_ns=9)
SAVE = SaveRequest("/there", keep_running=True)
PEER = Endpoint(Address(path="/peer"))


class FakeExporter:
    """Notes what it is asked for."""

    paused = False

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.error: Exception | None = None
        self.between: Callable[[], object] = lambda: None
        """Between two rounds of a migration."""

    def save(self, path: Path, *, keep_running: bool) -> SaveResult:
        """Pretend to."""
        self.asked.append((path, keep_running))
        if self.error is not None:
            raise self.error
        return SAVED

    def migrate(self, peer: Endpoint, progress: Callable[[int, int], object]) -> MigrationResult:
        """Pretend to."""
        self.asked.append(peer)
        try:
            progress(1, 20)
            self.between()
            progress(2, 10)
        except PvtimeError as error:
            self.asked.append(str(error))
            raise
        return MOVED

    def pause(self) -> None:
        """Note it."""
        self.paused = True

    def resume(self) -> None:
        """Note it."""
        self.paused = False

    def reset(self) -> None:
        """Note it."""
        self.asked.append("reset")


class Served:
    """A control socket that is served."""

    def __init__(self, path: Path, request_timeout_s: float = DEADLINE) -> None:
        self.path = path
        self.exporter = FakeExporter()
        self.engine, self.inbox = FakeEngine(), Inbox()
        kernel = KernelImage(bytes(64), 0, 64, None)
        machine = Machine(MachineConfig(2, 64 << 20, kernel), self.inbox.console, self.inbox.agent)
        built = BuiltMachine(machine, self.engine, agent=False, reason="a test")
        self.live = LiveMachine("fake", built, self.inbox, NOTHING)
        self.live.used_exporter = cast("Exporter", self.exporter)
        self.live.session = Session(
            built,
            self.inbox,
            QuietView(),
            RunOptions(),
            on_start=lambda: None,
            save=lambda directory: None,
        )
        self.server = ControlServer(OwnSocket(str(path)), self.live, request_timeout_s)

    def close(self) -> None:
        """End the run, as it would."""
        self.engine.stop()
        self.live.session.console.close()
        self.live.session.events.close()
        self.server.close()
        self.inbox.close()
        self.live.built.machine.close()

    def client(self) -> socket.socket:
        """Connect."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))  # waits where many do, as one with a timeout would not
        connection.settimeout(DEADLINE)
        return connection


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Return one."""
    served = Served(tmp_path / "control")
    yield served
    served.close()


def test_what_is_asked_for_is_done_and_answered(served: Served) -> None:
    told: list[object] = []
    assert ask(served.path, SAVE, SaveResult) == SAVED
    peer = MigrateRequest.to(PEER)
    assert ask(served.path, peer, MigrationResult, told.append) == MOVED
    assert told == [{"round": 1, "bytes": 20}, {"round": 2, "bytes": 10}]
    assert served.exporter.asked == [(Path("/there"), True), PEER]


@pytest.mark.parametrize("error", [SavedStateError("no room"), MigrationError("the peer has gone")])
def test_a_refusal_is_passed_on_with_its_exit_code(served: Served, error: PvtimeError) -> None:
    served.exporter.error = error
    with pytest.raises(PvtimeError) as caught:
        ask(served.path, SAVE, SaveResult)
    assert (str(caught.value), caught.value.exit_code) == (str(error), error.exit_code)


def test_a_bug_is_told_and_the_next_is_served(served: Served) -> None:
    served.exporter.error = ZeroDivisionError("a bug")
    with pytest.raises(PvtimeError, match=r"the request failed: ZeroDivisionError\('a bug'\)"):
        ask(served.path, SAVE, SaveResult)
    served.exporter.error = None
    assert ask(served.path, SAVE, SaveResult) == SAVED


@pytest.mark.parametrize(
    "request_line",
    [
        b"\n",
        b"save, please\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b'{"command": "info"}\n',
        b'{"protocol": 2, "command": "info"}\n',
        b'{"protocol": true, "command": "info"}\n',
        b'{"protocol": "1", "command": "info"}\n',
        b'{"protocol": 1, "command": "info"}',
        b'{"protocol": 1, "command": "info", "now": true}\n',
        b'{"protocol": 1, "command": "steal", "items": "30%"}\n',
        b'{"protocol": 1, "command": "steal", "items": ["30%", "100%"]}\n',
        b'{"protocol": 1, "command": "steal", "items": ["7:30%"]}\n',
        b'{"protocol": 1, "command": "stop"}\n',
        b'{"protocol": 1, "command": "stop", "now": 1}\n',
        b'{"protocol": 1, "command": "follow", "interval_ns": 0}\n',
        b'{"protocol": 1, "command": "console", "rows": -1, "columns": 80}\n',
        b"[" * 10_000 + b"\n",
        b"x" * 100_000,
        b'{"protocol": 1, "directory": "/there", "keep_running": true}\n',
        b'{"protocol": 1, "command": "reboot"}\n',
        b'{"protocol": 1, "command": ["save"], "directory": "/there", "keep_running": true}\n',
        b'{"protocol": 1, "command": "save", "directory": "/there"}\n',
        b'{"protocol": 1, "command": "save", "directory": "there", "keep_running": true}\n',
        b'{"protocol": 1, "command": "save", "directory": "/the\\u0000re", "keep_running": true}\n',
        b'{"protocol": 1, "command": "save", "directory": 1, "keep_running": true}\n',
        b'{"protocol": 1, "command": "save", "directory": "/there", "keep_running": 1}\n',
        b'{"protocol": 1, "command": "migrate", "address": "somewhere", "key": null, "insecure": false}\n',
        b'{"protocol": 1, "command": "pause", "now": true}\n',
        b'{"protocol": 1, "command": "migrate", "address": "unix:/peer"}\n',
        b'{"protocol": 1, "command": "migrate", "address": "tcp:peer:7", "key": null, "insecure": false}\n',
        b'{"protocol": 1, "command": "migrate", "address": "tcp:peer:7", "key": "key", "insecure": false}\n',
        b'{"protocol": 1, "command": "migrate", "address": "tcp:a:7", "key": "\\u0000", "insecure": false}\n',
        b'{"protocol": 1, "command": "migrate", "address": "tcp:peer:7", "key": "/key", "insecure": true}\n',
    ],
)
def test_a_request_that_is_none_is_refused_and_reaches_nobody(served: Served, request_line: bytes) -> None:
    with served.client() as client:
        with contextlib.suppress(BrokenPipeError):  # it need not read all of it
            client.sendall(request_line)
            client.shutdown(socket.SHUT_WR)
        answer = json.loads(client.makefile("rb").readline())
    assert answer["exit_code"] == 2
    assert "\n" not in answer["error"]
    assert served.exporter.asked == served.engine.schedules == served.inbox.take_events() == []
    assert ask(served.path, SAVE, SaveResult) == SAVED


def test_a_thousand_requests_that_were_cut_off_change_nothing(served: Served) -> None:
    whole = [
        json.dumps(request_document(request)).encode() + b"\n"
        for request in (StealRequest(["30%"]), StopRequest(now=True), PauseRequest(), SAVE, ResetRequest())
    ]
    for number in range(1000):
        line = whole[number % len(whole)]
        with served.client() as client, contextlib.suppress(ConnectionError):
            client.sendall(line[: number % (len(line) - 1)])
    assert ask(served.path, InfoRequest(), MachineInfo).steal == []
    assert served.exporter.asked == served.engine.schedules == served.inbox.take_events() == []
    assert not served.exporter.paused
    assert served.live.session.events.count == 0


def test_a_client_that_follows_gets_samples_and_events_until_the_end(served: Served) -> None:
    got: list[dict[str, dict[str, object]]] = []

    def take(document: dict[str, dict[str, object]]) -> None:
        got.append(document)
        if len(got) == 2:
            served.live.session.add_event(EventKind.PANIC, "Kernel panic - not syncing: a test")
        if "event" in document:
            served.live.session.events.close()

    assert ask(served.path, FollowRequest(10_000_000), RunEnd, take) == RunEnd("stopped")
    assert [next(iter(document)) for document in got[:2]] == ["sample", "sample"]
    assert [document["event"]["kind"] for document in got if "event" in document] == ["panic"]


def test_a_client_that_followed_and_has_gone_frees_its_place(served: Served) -> None:
    document = json.dumps(request_document(FollowRequest(3600 * 10**9))).encode() + b"\n"
    for _ in range(3 * control_server.MAX_LASTING):
        with served.client() as client:
            client.sendall(document)
            with client.makefile("rb") as lines:
                # A place is free once the server has noticed that a client has gone.
                assert lines.readline().startswith((b'{"progress": {"sample"', b'{"error": "'))

    def follows() -> bool:
        with served.client() as client:
            client.sendall(document)
            with client.makefile("rb") as lines:
                return lines.readline().startswith(b'{"progress": {"sample"')

    wait_until(follows)


def test_consoles_and_clients_that_follow_leave_room_for_the_others(served: Served) -> None:
    """32 idle consoles kept everybody else from the machine: it could not be stopped by its name."""
    with contextlib.ExitStack() as lasting:
        for number in range(control_server.MAX_CLIENTS):
            client = lasting.enter_context(served.client())
            request = ConsoleRequest(0, 0) if number % 2 else FollowRequest(3600 * 10**9)
            client.sendall(json.dumps(request_document(request)).encode() + b"\n")
            answer = client.recv(4096)
            assert answer.startswith(b'{"error": "') == (number >= control_server.MAX_LASTING), answer
        assert ask(served.path, InfoRequest(), MachineInfo).vcpus == 2
    wait_until(lambda: _console_is_served(served))


def _console_is_served(served: Served) -> bool:
    with served.client() as client:
        client.sendall(json.dumps(request_document(ConsoleRequest(0, 0))).encode() + b"\n")
        return client.recv(4096).startswith(b'{"result": {}}')


def test_the_steal_of_a_machine_is_changed_and_told(served: Served) -> None:
    assert ask(served.path, StealRequest(["1:30%", "4s@2"]), StealResult).steal == ["1:30ms/100ms", "4s@2s"]
    assert served.engine.schedules == [Schedule.parse(["1:30%", "4s@2"])]
    assert ask(served.path, InfoRequest(), MachineInfo).steal == ["1:30ms/100ms", "4s@2s"]
    assert ask(served.path, StealRequest([]), StealResult).steal == []
    assert served.engine.schedules[-1] == NOTHING
    kinds = [event.text for event in served.live.session.events.read(0)[0]]
    assert kinds == ["1:30ms/100ms, 4s@2s", "off"]


def test_a_machine_is_described_sampled_paused_reset_and_stopped(served: Served) -> None:
    info = ask(served.path, InfoRequest(), MachineInfo)
    assert (info.name, info.vcpus, info.state, info.engine) == ("fake", 2, "running", "fake")
    document: dict[str, dict[str, list[object]]] = ask(served.path, StatRequest(guest=True), None)
    assert len(document["sample"]["vcpus"]) == 2
    assert ask(served.path, PauseRequest(), StateResult) == StateResult("paused")
    assert ask(served.path, ResumeRequest(), StateResult) == StateResult("running")
    assert ask(served.path, ResetRequest(), StateResult) == StateResult("running")
    assert served.exporter.asked == ["reset"]
    stopper = threading.Thread(target=ask, args=(served.path, StopRequest(now=True), RunEnd))
    stopper.start()
    wait_until(lambda: StopNow() in served.inbox.take_events())
    assert stopper.is_alive(), "it answers when nothing executes any more"
    served.engine.stop()
    stopper.join()


def test_the_console_is_passed_both_ways_and_the_end_is_told(served: Served) -> None:
    log, typed = served.live.session.console, bytearray()

    def receive(data: bytes) -> int:
        typed.extend(data[:3])  # a guest that takes little at a time
        return len(data[:3])

    served.live.built.machine.console.receive = receive  # type: ignore[method-assign]
    log.feed(b"x" * 5000 + b"before ")
    with open_console(served.path, ConsoleRequest(24, 80)) as connection:
        assert TerminalResized(24, 80) in served.inbox.take_events()
        log.feed(b"after")
        got = b""
        while not got.endswith(b"after"):
            got += connection.recv(1 << 14)
        assert got == b"x" * (4096 - 7) + b"before after"
        connection.sendall(b"\x00\xfftyped\x1d")
        wait_until(lambda: len(typed) == 8)
        assert typed == b"\x00\xfftyped\x1d"
        log.close()
        assert connection.recv(1 << 14) == b""


def test_who_says_nothing_keeps_nobody_waiting(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CLIENTS - 1):
            stack.enter_context(served.client()).sendall(b'{"comm')
        assert ask(served.path, SAVE, SaveResult) == SAVED


def test_who_says_nothing_does_not_hold_up_the_end(tmp_path: Path) -> None:
    served = Served(tmp_path / "control")
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(served.client()) for _ in range(MAX_CLIENTS + 1)]
        silent[0].sendall(b'{"comm')
        served.close()
        for client in silent:
            with contextlib.suppress(ConnectionError):
                client.recv(1 << 14)  # an answer, or the end, but not for ever
    assert served.exporter.asked == []
    assert not served.path.exists()


def test_who_does_not_say_all_in_time_is_told_so(tmp_path: Path) -> None:
    served = Served(tmp_path / "control", request_timeout_s=0.05)
    with served.client() as client:
        with contextlib.suppress(BrokenPipeError):  # that was too late already
            client.sendall(b'{"comm')
        assert "no request arrived within 0.05 s" in client.makefile("r").readline()
    served.close()


def test_a_migration_for_somebody_who_has_gone_is_given_up(tmp_path: Path) -> None:
    served, gone = Served(tmp_path / "control"), threading.Event()
    served.exporter.between = gone.wait
    with served.client() as client:
        client.sendall(json.dumps(request_document(MigrateRequest.to(PEER))).encode() + b"\n")
        assert b"round" in client.recv(100)
    gone.set()
    served.close()
    assert served.exporter.asked == [
        PEER,
        "the client that requested the migration has gone",
    ]


def test_another_user_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "_is_owner", lambda _: False)
    with pytest.raises(UsageError, match="belongs to another user"):
        ask(served.path, SAVE, SaveResult)
    assert served.exporter.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"[]\n",
        b"{}\n",
        b'{"round": 1, "bytes": 1}\n',
        b'{"progress": {"round": 1}}\n',
        b'{"result": {}}\n',
        b'{"result": {"bytes": "many", "pause_ns": 0}}\n',
        b'{"error": 1, "exit_code": "x"}\n',
        b"x" * 100_000,
    ],
)
def test_what_is_no_machine_is_refused_in_a_line(tmp_path: Path, answer: bytes) -> None:
    with OwnSocket(str(tmp_path / "other")) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 14)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(PvtimeError) as caught:
            ask(tmp_path / "other", SAVE, SaveResult)
        thread.join()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_twenty_machines_of_a_user_answer_each_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    names = [f"m{number}" for number in range(20)]
    machines: dict[str, Served] = {}
    for name in names:
        listen_as(name).close()  # the directory is there, and the name is free
        machines[name] = Served(tmp_path / "pvtime" / f"{name}.sock")
    try:
        for number, name in enumerate(names):
            ask(socket_of(name), StealRequest([f"{number + 1}ms/1s"]), StealResult)
        answers = call_the_roll(DEADLINE)
        assert sorted(answer.name for answer in answers) == sorted(names)
        for answer in answers:
            assert answer.info is not None
            assert answer.info.steal == [f"{int(answer.name[1:]) + 1}ms/1s"]
        assert [answer.name for answer in call_the_roll(DEADLINE, {"m3", "gone"})] == ["m3"]
        for name in names:
            assert machines[name].engine.schedules == [Schedule.parse([f"{int(name[1:]) + 1}ms/1s"])]
    finally:
        for served in machines.values():
            served.close()
    assert call_the_roll() == []


def test_an_answer_that_comes_in_drips_is_not_waited_for_longer_than_one_that_does_not_come(
    tmp_path: Path,
) -> None:
    path, over = tmp_path / "drips", threading.Event()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def drip() -> None:
            peer, _ = listening.accept()
            with peer, contextlib.suppress(OSError):
                while not over.wait(0.01):
                    peer.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(UsageError, match=r"has not answered within 0\.3 s"):
                ask(path, InfoRequest(), MachineInfo, timeout_s=0.3)
        finally:
            over.set()
            thread.join()
