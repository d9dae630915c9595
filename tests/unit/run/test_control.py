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

from framework.wait import DEADLINE
from pvtime.errors import MigrationError, PvtimeError, SavedStateError, UsageError
from pvtime.run import control
from pvtime.run.control import MAX_CLIENTS, REQUEST_TIMEOUT_S, ControlServer, MigrateRequest, SaveRequest, ask
from pvtime.run.exporter import Exporter, SaveResult
from pvtime.snapshot.address import Address, OwnSocket
from pvtime.snapshot.endpoint import Endpoint
from pvtime.snapshot.send import MigrationResult

SAVED = SaveResult(bytes=1 << 20, pause_ns=5)
MOVED = MigrationResult(rounds=2, sent_bytes=30, paused_bytes=10, pause_ns=5, total_ns=9)
SAVE = SaveRequest("/there", keep_running=True)
PEER = Endpoint(Address(path="/peer"))


class FakeExporter:
    """Notes what it is asked for."""

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


class Served:
    """A control socket that is served."""

    def __init__(self, path: Path, request_timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self.path = path
        self.exporter = FakeExporter()
        self.server = ControlServer(OwnSocket(str(path)), cast("Exporter", self.exporter), request_timeout_s)

    def client(self) -> socket.socket:
        """Connect."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE)
        connection.connect(str(self.path))
        return connection


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Return one."""
    served = Served(tmp_path / "control")
    yield served
    served.server.close()


def test_what_is_asked_for_is_done_and_answered(served: Served) -> None:
    told: list[tuple[int, int]] = []
    assert ask(served.path, SAVE, SaveResult) == SAVED
    peer = MigrateRequest.to(PEER)
    assert ask(served.path, peer, MigrationResult, lambda number, size: told.append((number, size))) == MOVED
    assert told == [(1, 20), (2, 10)]
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
        b"[" * 10_000 + b"\n",
        b"x" * 100_000,
        b'{"directory": "/there", "keep_running": true}\n',
        b'{"command": "reboot"}\n',
        b'{"command": ["save"], "directory": "/there", "keep_running": true}\n',
        b'{"command": "save", "directory": "/there"}\n',
        b'{"command": "save", "directory": "there", "keep_running": true}\n',
        b'{"command": "save", "directory": "/the\\u0000re", "keep_running": true}\n',
        b'{"command": "save", "directory": 1, "keep_running": true}\n',
        b'{"command": "save", "directory": "/there", "keep_running": 1}\n',
        b'{"command": "migrate", "address": "somewhere", "key": null, "insecure": false}\n',
        b'{"command": "migrate", "address": "unix:/peer", "key": null, "insecure": false, "now": true}\n',
        b'{"command": "migrate", "address": "unix:/peer"}\n',
        b'{"command": "migrate", "address": "tcp:peer:7", "key": null, "insecure": false}\n',
        b'{"command": "migrate", "address": "tcp:peer:7", "key": "key", "insecure": false}\n',
        b'{"command": "migrate", "address": "tcp:peer:7", "key": "/k\\u0000", "insecure": false}\n',
        b'{"command": "migrate", "address": "tcp:peer:7", "key": "/key", "insecure": true}\n',
    ],
)
def test_a_request_that_is_none_is_refused_and_reaches_nobody(served: Served, request_line: bytes) -> None:
    with served.client() as client:
        with contextlib.suppress(BrokenPipeError):  # it need not read all of it
            client.sendall(request_line)
        answer = json.loads(client.makefile("rb").readline())
    assert answer["exit_code"] == 2
    assert "\n" not in answer["error"]
    assert served.exporter.asked == []
    assert ask(served.path, SAVE, SaveResult) == SAVED


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
        served.server.close()
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
    served.server.close()


def test_a_migration_for_somebody_who_has_gone_is_given_up(tmp_path: Path) -> None:
    served, gone = Served(tmp_path / "control"), threading.Event()
    served.exporter.between = gone.wait
    with served.client() as client:
        client.sendall(b'{"command": "migrate", "address": "unix:/peer", "key": null, "insecure": false}\n')
        assert b"round" in client.recv(100)
    gone.set()
    served.server.close()
    assert served.exporter.asked == [
        PEER,
        "the client that requested the migration has gone",
    ]


def test_another_user_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_is_owner", lambda _: False)
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
