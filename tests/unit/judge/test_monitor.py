# SPDX-License-Identifier: GPL-2.0-or-later
"""Control of VMMs: by whom a command is controlled, and QEMU's monitor as a made-up QEMU answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from framework.wait import DEADLINE, wait_until
from pvtime.judge.monitor import ControlError, monitor_of, program_of
from pvtime.judge.qmp import Qmp, QmpError

QEMU = "/opt/qemu-system-aarch64"
Answers = Callable[[dict[str, object]], list[object]]


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ([QEMU, "-M", "virt"], [QEMU]),
        (["env", "A=1", QEMU, "-M", "virt"], ["env", "A=1", QEMU]),
        (["crosvm", "-x", QEMU], ["crosvm"]),
        (["lkvm", "run"], ["lkvm"]),
    ],
)
def test_the_vmm_is_found_behind_other_programs(command: list[str], program: list[str]) -> None:
    assert program_of(command) == program


def test_qemu_gets_a_monitor_and_names_for_its_threads(tmp_path: Path) -> None:
    command = monitor_of([QEMU], tmp_path).command()
    assert command[1:] == [
        *("-name", "pvtime-judge,debug-threads=on"),
        *("-qmp", f"unix:{tmp_path}/qmp-0,server=on,wait=off"),
    ]
    assert "-qmp" not in monitor_of([QEMU], None).command()


def test_who_cannot_save_says_so(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="how lkvm saves and restores"):
        monitor_of(["lkvm", "run"], tmp_path).save(lambda: None)


@contextmanager
def qemu(path: Path, answers: Answers) -> Iterator[None]:
    """Answer one client at ``path``."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rw") as file:
                print(json.dumps({"QMP": {}}), file=file, flush=True)
                for line in file:
                    for answer in answers(json.loads(line)):
                        print(
                            answer if isinstance(answer, str) else json.dumps(answer), file=file, flush=True
                        )

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join(DEADLINE)


def test_a_saved_guest_is_restored_by_the_same_command(tmp_path: Path) -> None:
    said: list[object] = []
    polls = iter(["active", "completed"])

    def answers(request: dict[str, object]) -> list[object]:
        said.append(request["execute"])
        if request["execute"] == "query-migrate":
            return [{"event": "STOP"}, {"return": {"status": next(polls)}}]
        return [{"return": {}}]

    monitor = monitor_of([QEMU, "-smp", "2"], tmp_path)
    watched: list[int] = []
    with qemu(tmp_path / "qmp-0", answers):
        command = monitor.save(lambda: watched.append(len(said)))
    assert said == ["qmp_capabilities", "stop", "migrate", "query-migrate", "query-migrate", "quit"]
    assert watched == [1, 2, 5], "before the stop, after it, and before the end"
    assert command[:3] == [QEMU, "-smp", "2"]
    assert command[-3:] == ["-S", "-incoming", f"exec:cat {tmp_path}/guest"]
    assert f"unix:{tmp_path}/qmp-1,server=on,wait=off" in command


def test_a_refusal_has_qemus_reason(tmp_path: Path) -> None:
    def answers(request: dict[str, object]) -> list[object]:
        if request["execute"] == "stop":
            return [{"error": {"desc": "not now"}}]
        return [{"return": {}}]

    with (
        qemu(tmp_path / "qmp-0", answers),
        pytest.raises(ControlError, match="QEMU refuses stop: not now"),
    ):
        monitor_of([QEMU], tmp_path).stop(0)


@pytest.mark.parametrize(("answer", "words"), [("no JSON", "does not speak QMP"), ("", "does not speak QMP")])
def test_another_program_is_told(answer: str, words: str, tmp_path: Path) -> None:
    with qemu(tmp_path / "socket", lambda _request: [answer]), pytest.raises(QmpError, match=words):
        Qmp(tmp_path / "socket", DEADLINE)


def test_nobody_is_told(tmp_path: Path) -> None:
    with pytest.raises(QmpError, match="does not answer: No such file"):
        Qmp(tmp_path / "socket", 0)


@contextmanager
def machine(path: Path, asked: list[str]) -> Iterator[None]:
    """Answer requests at pvtime's control socket, and note them: all but the one to resume succeed."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while "resume" not in asked:
                connection, _ = listener.accept()
                with connection, connection.makefile("rw") as file:
                    asked.append(json.loads(file.readline())["command"])
                    answer: dict[str, object] = {"result": {}}
                    if asked[-1] == "resume":
                        answer = {"error": "no"}
                    print(json.dumps(answer), file=file, flush=True)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join(DEADLINE)


def test_a_machine_of_pvtimes_is_at_rest_before_it_gets_ready_to_be_saved(tmp_path: Path) -> None:
    # To get ready took longer than the guest had to live, on an emulated host.
    monitor = monitor_of(["pvtime", "run"], tmp_path)
    assert monitor.command()[-2:] == ["--control", str(tmp_path / "control")]
    asked: list[str] = []
    readings: list[int] = []
    with machine(tmp_path / "control", asked):
        monitor.prepare()
        wait_until(lambda: asked, message="it is not asked")
        command = monitor.save(lambda: readings.append(len(asked)))
        with pytest.raises(ControlError, match="no"):
            monitor.resume(0)
    assert asked == ["info", "pause", "save", "resume"]
    assert readings[:2] == [1, 2], "the host's figures are read before the machine is at rest, and after"
    assert command[-2:] == ["restore", str(tmp_path / "guest")]
