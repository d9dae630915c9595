# SPDX-License-Identifier: GPL-2.0-or-later
"""pvtime's own machines, asked by their control sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path

import pytest

from pvtime.run.control_client import ask
from pvtime.run.control_protocol import InfoRequest
from pvtime.watch.own_machines import OwnVcpu, ask_own_machines, parse_sample

ROW = {"index": 0, "enabled": True, "truth_ns": 7, "structure_ns": 7, "guest_error_ns": -2}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of control sockets."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (found := tmp_path / "pvtime").mkdir(mode=0o700)
    return found


def test_machines_that_are_stopped_do_not_wait_for_each_other(directory: Path) -> None:
    """Each stopped machine added a second to every scrape: with ten, Prometheus had no answer in time."""
    met = threading.Barrier(8)

    def meet(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(threading.BrokenBarrierError):
            met.wait(60)  # all have been asked, and none has answered

    with contextlib.ExitStack() as stack:
        threads = []
        for number in range(met.parties):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(directory / f"vm{number}.sock"))
            listener.listen()
            threads.append(threading.Thread(target=meet, args=(listener,)))
            threads[-1].start()
        assert ask_own_machines(timeout_s=60) == []
        for thread in threads:
            thread.join()
    assert not met.broken


def test_a_machine_whose_backlog_is_full_is_given_up_like_one_that_does_not_answer(directory: Path) -> None:
    """Each question leaves a connection in the backlog of a stopped machine; the next waited for 30 s."""
    path = directory / "web.sock"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        with pytest.raises(Exception, match="nobody has answered in time"):
            ask(path, InfoRequest(), None, timeout_s=0.01)


@pytest.mark.parametrize(
    "change", [{"index": float("inf")}, {"index": None}, {"truth_ns": "x"}, {"enabled": 1}]
)
def test_what_is_no_sample_has_no_vcpus(change: dict[str, object]) -> None:
    document = json.loads(json.dumps({"sample": {"vcpus": [ROW | change]}}))
    assert len(parse_sample("web", 1, document)) == ("enabled" in change)
    assert parse_sample("web", 1, {"sample": {"vcpus": [ROW]}}) == [OwnVcpu("web", 1, 0, True, 7, 7, 5)]
