# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands for machines that run, in other processes and without a guest."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.traced import is_stopped
from framework.wait import DEADLINE, wait_until
from pvtime.abi.image import IMAGE_MAGIC, ImageHeader
from pvtime.cli.command import main
from pvtime.cli.ps import table_lines
from pvtime.host.process import thread_ids

PROGRAM = [sys.executable, str(Path(__file__).parents[2] / "fake_run.py"), "run"]

GREETING = "guest says hello"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return files that pass for a kernel and an initrd, as options."""
    directory = tmp_path_factory.mktemp("images")
    header = ImageHeader(magic=IMAGE_MAGIC, image_size=1 << 20)
    (directory / "Image").write_bytes(bytes(header) + bytes(4096))
    (directory / "initrd").write_bytes(b"initrd")
    return ["--kernel", str(directory / "Image"), "--initrd", str(directory / "initrd"), "--memory", "64M"]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a runtime directory, and return pvtime's in it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return tmp_path / "pvtime"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a machine to its end, or to its life in the background."""
    return subprocess.run(
        [*PROGRAM, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE
    )


@contextlib.contextmanager
def machine(name: str, *arguments: str) -> Iterator[int]:
    """Run a machine in the background for the time of a ``with`` block; return its process's number."""
    done = run("--name", name, "--detach", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{name} runs in the background; pvtime stop {name} ends it\n")
    pid = processes()[name]
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes() -> dict[str, int]:
    """Return the machines that ps lists, and their processes."""
    from pvtime.run.roll_call import call_the_roll

    answers = call_the_roll(DEADLINE)
    return {answer.name: answer.info.pid for answer in answers if answer.info is not None}


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (None, ["NAME  STATE    STEAL", "web   running  1:30ms/100ms, 4s@2s"]),
        (34, ["NAME  STATE    STEAL", "web   running  1:30ms/100ms, 4s@2s"]),
        (22, ["NAME  STATE    STEAL", "web   running  1:30ms…"]),
        (20, ["NAME  STATE    STEAL", "web   running  1:30…"]),
        (19, ["NAME  STATE", "web   running"]),
        (12, ["NAME  STATE", "web   runni…"]),
        (4, ["NAME", "web"]),
        (1, ["", ""]),
    ],
)
def test_the_list_fits_a_narrow_terminal(width: int | None, shown: list[str]) -> None:
    # At 40 columns the lines wrapped.
    rows = [("NAME", "STATE", "STEAL"), ("web", "running", "1:30ms/100ms, 4s@2s")]
    assert table_lines(rows, width) == shown


def test_a_machine_in_the_background_is_listed_driven_and_ended(
    images: list[str], capsys: pytest.CaptureFixture[str], runtime: Path
) -> None:
    assert main(["ps"]) == 0
    assert capsys.readouterr().out == "NAME  PID  STATE  VCPUS  UPTIME  STOLEN  NOW  STEAL\n"
    with machine("web", *images, "--vcpus", "2") as pid:
        assert main(["ps"]) == 0
        _, row = capsys.readouterr().out.splitlines()
        assert row.split()[:4] == ["web", str(pid), "running", "2"]
        assert main(["steal", "web", "1:30%", "4s@2"]) == 0
        assert capsys.readouterr().out == "web: steal 1:30ms/100ms, 4s@2s\n"
        assert main(["ps", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["schema"] == 1
        assert document["machines"][0]["steal"] == ["1:30ms/100ms", "4s@2s"]
        for command, said in (("pause", "is paused"), ("resume", "runs again"), ("reset", "was reset")):
            assert main([command, "web"]) == 0
            assert capsys.readouterr().out == f"web {said}\n"
        assert main(["steal", "web", "off"]) == 0
        assert main(["stat", "web"]) == 0
        _, header, sample = capsys.readouterr().out.splitlines()
        assert json.loads(header)["machine"]["pid"] == pid
        assert [vcpu["index"] for vcpu in json.loads(sample)["sample"]["vcpus"]] == [0, 1]
        assert main(["stop", "web", "--now"]) == 0
        assert capsys.readouterr().out == "web has ended: stopped\n"
        wait_until(lambda: not os.listdir(runtime))


def test_a_stopped_machine_does_not_answer_and_the_sockets_of_killed_ones_are_swept(
    images: list[str], capsys: pytest.CaptureFixture[str], runtime: Path
) -> None:
    with machine("alone", *images) as pid:
        assert processes() == {"alone": pid}
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all(is_stopped(pid, tid) for tid in thread_ids(pid)))
        with contextlib.ExitStack() as stack:
            for number in range(20):
                dead = stack.enter_context(socket.socket(socket.AF_UNIX))
                dead.bind(str(runtime / f"dead-{number}.sock"))
            try:
                assert main(["ps"]) == 0
            finally:
                os.kill(pid, signal.SIGCONT)
        assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["alone", "-", "no", "answer"]
        assert os.listdir(runtime) == ["alone.sock"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: main(["ps"]) == 0 and "alone" not in capsys.readouterr().out)
        assert os.listdir(runtime) == []


def test_a_machine_that_cannot_run_is_refused_before_it_is_in_the_background(images: list[str]) -> None:
    done = run("--detach", *images, "--memory", "1M")
    assert (done.returncode, done.stdout) == (2, "")
    assert "too few" in done.stderr


def test_a_run_without_a_place_for_its_socket_runs_and_says_so(
    images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    done = run(*images, "--append", "end")
    assert done.returncode == 0
    assert (
        "pvtime: no control socket: /nonexistent/pvtime, the directory of control sockets: No" in done.stderr
    )
    done = run(*images, "--name", "web")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_a_console_without_a_terminal_prints_what_the_guest_did_until_its_end(images: list[str]) -> None:
    with machine("web", *images):
        console = subprocess.Popen(
            [*PROGRAM[:-1], "console", "web"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert console.stdout is not None
        assert console.stdout.readline() == f"{GREETING}\n"
        assert main(["stop", "web"]) == 0
        assert console.communicate(timeout=DEADLINE)[0] == ""
        assert console.returncode == 0


@pytest.mark.parametrize("command", ["pause", "resume", "reset", "stop", "stat", "console", "steal", "save"])
def test_a_machine_that_does_not_run_is_named(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"steal": ["30%"], "save": ["there"]}.get(command, [])
    assert main([command, "web", *more]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "pvtime: there is no machine named 'web': pvtime ps lists those that run\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--name", "a/b"], "'a/b' is not a name"),
        (["run", "--name", "web", "--no-control"], "--no-control excludes --name"),
        (["run", "--detach", "--report", "-"], "give a report a file"),
        (["run", "--rootfs", "/"], "give --exec, too"),
        (["run", "--exec", "true", "--initrd", "x"], "leave out --exec or --initrd"),
        (["run", "--exec", "true", "--detach"], "--exec excludes --interactive and --detach"),
        (["run", "--exec", "true", "--report", "-"], "give the report a file"),
        (["run", "--exec", "true", "--rootfs", "/", "--warm"], "--warm has no --rootfs"),
        (["run", "--share", "/"], "--share is for a command: give --exec, too"),
        (["run", "--share-size", "1M", "--exec", "true"], "--share-size is for --share"),
        (["run", "--exec", "true", "--share", "/", "--warm"], "--warm has no --share"),
        (["steal", "web", "off", "30%"], "give it alone"),
        (["steal", "web", "100%"], "without end"),
        (["steal", "web", "x"], "'x'"),
        (["stat", "web", "--follow", "--interval", "0.001"], "give 0.01 to 3600"),
        (["stat", "web", "--follow", "--guest"], "leave out --guest"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert named in err
