# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of machines that leave their process: what is refused when, printed, and left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from framework import beside
from pvtime.abi.image import IMAGE_MAGIC, ImageHeader
from pvtime.cli.command import main
from pvtime.errors import MigrationError, UsageError
from pvtime.images import store
from pvtime.run import control_client
from pvtime.run.control_protocol import MigrateRequest, SaveRequest
from pvtime.run.exporter import SaveResult
from pvtime.snapshot.send import MigrationResult

PROGRAM = [sys.executable, str(Path(__file__).parents[2] / "fake_run.py"), "run"]
"""Its engine has no state to save."""

NOWHERE = "/nonexistent/it"


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Return files that pass for a kernel and an initrd, as options."""
    header = ImageHeader(magic=IMAGE_MAGIC, image_size=1 << 20)
    (tmp_path / "Image").write_bytes(bytes(header) + bytes(4096))
    (tmp_path / "initrd").write_bytes(b"initrd")
    return ["--kernel", str(tmp_path / "Image"), "--initrd", str(tmp_path / "initrd")]


def running(*arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start a machine."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return beside.running([*PROGRAM, *arguments], environment)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end; return exit code, standard output and standard error."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def await_guest(process: subprocess.Popen[str]) -> None:
    """Wait until the guest runs."""
    assert process.stdout is not None
    assert any("guest says hello" in line for line in process.stdout)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--save-at", "nan", NOWHERE], "nan"),
        (["run", "--save-at", "inf", NOWHERE], "inf"),
        (["run", "--save-at", "0", NOWHERE], "0"),
        (["run", "--save-at", "5", NOWHERE, "--duration", "5"], "--duration"),
        (["run", "--save-at", "5", NOWHERE], "/nonexistent"),
        (["run", "--save-at", "5", "/"], "/"),
        (["run", "--save-at", "5", "/proc/it"], "/proc cannot be written to"),
        (["run", "--control", NOWHERE], "No such file"),
        (["run", "--control", "/"], "choose another name"),
        (["run", "--control", "x" * 200], "too long"),
        (["restore", NOWHERE], "No such file"),
        (["restore", "/"], "machine.json"),
        (["restore", "\x1b[2Jx"], "pvtime: ?[2Jx"),
        (["receive", "somewhere"], "somewhere"),
        (["receive", f"unix:{NOWHERE}"], "its directory does not exist: create it first"),
        (["receive", "unix:peer", "--control", NOWHERE], "control socket"),
        (["receive", "unix:peer", "--save-at", "5", "/"], "/"),
        (["save", NOWHERE, "there"], "no machine answers at the control socket unix:/nonexistent/it"),
        (["migrate", NOWHERE, "unix:peer"], "there is no such socket: check the name"),
        (["migrate", NOWHERE, "somewhere"], "somewhere"),
        (["migrate", __file__, "unix:peer"], "it is not a socket: check the name"),
        (["receive", f"unix:{__file__}"], "a file is there that is no socket: choose another name"),
        (["receive", f"unix:{'x' * 200}"], "too long for a socket: give one of at most 107 bytes"),
        (["receive", "tcp:a..b:7", "--insecure"], "is not an address"),
        (["receive", f"tcp:{'x' * 64}.org:7", "--insecure"], "is not an address"),
        (["receive", "tcp:\ud800:7", "--insecure"], "is not an address"),
        (["migrate", NOWHERE, "tcp:peer:7"], "give either --key FILE"),
        (["migrate", NOWHERE, "tcp:peer:7", "--key", "key", "--insecure"], "give either --key FILE"),
        (["migrate", NOWHERE, "unix:peer", "--insecure"], "leave out --key and --insecure"),
        (["receive", "unix:peer", "--key", "key"], "leave out --key and --insecure"),
        (["receive", "tcp:127.0.0.1:7"], "give either --key FILE"),
        (["receive", "tcp:192.0.2.1:7", "--insecure"], "cannot listen"),
        (["receive", "tcp:127.0.0.1:0", "--key", NOWHERE], "not an address"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_said_in_a_line_before_anything_runs(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("pvtime: ")
    assert named in err
    assert os.listdir(tmp_path) == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SaveRequest | MigrateRequest]:
    """Return what a machine is asked for, which answers."""
    requests: list[SaveRequest | MigrateRequest] = []

    def ask(
        _path: Path,
        request: SaveRequest | MigrateRequest,
        _kind: object,
        progress: Callable[[dict[str, int]], object] = lambda _: None,
    ) -> SaveResult | MigrationResult:
        requests.append(request)
        if isinstance(request, SaveRequest):
            return SaveResult(bytes=3 << 20, pause_ns=120_000_000)
        progress({"round": 1, "bytes": 2 << 20})
        return MigrationResult(
            1, sent_bytes=3 << 20, paused_bytes=1 << 20, pause_ns=31_000_000, total_ns=2 * 10**9
        )

    monkeypatch.setattr(control_client, "ask", ask)
    return requests


def test_save_prints_what_it_was(
    asked: list[SaveRequest | MigrateRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["save", "./control", "there"]) == 0
    assert main(["save", "./control", "there", "--keep-running", "--json"]) == 0
    text, document = capsys.readouterr().out.splitlines()
    assert text == "saved 3.0 MiB in 0.120 s: there"
    assert json.loads(document) == {"schema": 1, "bytes": 3 << 20, "pause_ns": 120_000_000}
    there = f"{tmp_path}/there"
    assert asked == [SaveRequest(there, keep_running=False), SaveRequest(there, keep_running=True)]


def test_migrate_prints_what_it_was_and_means_a_path_from_here(
    asked: list[SaveRequest | MigrateRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["migrate", "./control", "unix:peer"]) == 0
    assert main(["migrate", "./control", "tcp:peer:7", "--insecure", "--json"]) == 0
    assert main(["migrate", "./control", "tcp:peer:7", "--key", "key", "--json"]) == 0
    round_line, text, document, _ = capsys.readouterr().out.splitlines()
    assert round_line == "round 1: 2.0 MiB of memory sent"
    assert text == "moved in 2.000 s: 3.0 MiB sent, paused for 0.031 s while the last 1.0 MiB were sent"
    assert json.loads(document)["rounds"] == 1
    assert asked == [
        MigrateRequest(f"unix:{tmp_path}/peer", key=None, insecure=False),
        MigrateRequest("tcp:peer:7", key=None, insecure=True),
        MigrateRequest("tcp:peer:7", key=f"{tmp_path}/key", insecure=False),
    ]


@pytest.mark.parametrize(("error", "code"), [(UsageError("no"), 2), (MigrationError("it has gone"), 1)])
def test_a_refusal_is_a_line_and_its_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(control_client, "ask", refuse)
    for arguments in (["save", "./control", "there"], ["migrate", "./control", "unix:peer"]):
        assert main(arguments) == code
        assert capsys.readouterr() == ("", f"pvtime: {error}\n")


def test_a_machine_that_cannot_be_saved_at_its_time_runs_on_and_says_so(
    images: list[str], tmp_path: Path
) -> None:
    # A disk that was full by then took the guest with it.
    with running(*images, "--save-at", "0.05", str(tmp_path / "saved")) as process:
        assert process.stdout is not None
        assert any("pvtime: not saved, the machine runs on: no state" in line for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        code, out, err = ended(process)
    assert (code, err) == (1, "pvtime: no state\n")
    assert "stopped after" in out
    assert not (tmp_path / "saved").exists()


def test_a_cpu_that_cannot_be_saved_is_refused_at_the_start(
    images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--cpu", "max", "--engine-option", "allow-abort=on", "--engine", "unicorn"]
    assert main(["run", *images, *options, "--save-at", "5", str(tmp_path / "saved")]) == 2
    assert "pvtime: --save-at: a machine with CPU model max cannot be saved" in capsys.readouterr().err


def test_a_file_system_that_may_be_too_small_is_refused_at_the_start(
    images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = list(os.statvfs(tmp_path))
    free[1:5] = 4096, 1 << 20, (128 << 20) // 4096, (64 << 20) // 4096
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(free))
    options = ["--memory", "64M", "--engine", "unicorn", "--save-at", "5", str(tmp_path / "saved")]
    assert main(["run", *images, *options]) == 2
    assert f"{tmp_path} has 64 MiB free, and the machine may need 65 MiB: make" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--cpu", "z80"], "z80"),
        (["--cpu", "max"], "allow-abort=on"),
        (["--without", "3"], "vCPU 3"),
        (["--memory", "1M"], "too few"),
        (["--memory", "90000G"], "more than this host"),
        (["--steal", "1:4s@6"], "vCPU 1"),
        (["--engine-option", "x=y"], "'x'"),
        (["--save-at", "5", NOWHERE], "/nonexistent"),
        (["--cpu", "max", "--engine-option", "allow-abort=on", "--save-at", "5", "saved"], "--save-at"),
    ],
)
def test_arguments_are_refused_before_anything_is_fetched(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetch(*_: object) -> None:
        raise AssertionError("it begins to fetch")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PVTIME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "stock_images", fetch)
    assert main(["run", "--engine", "unicorn", *arguments]) == 2
    assert named in capsys.readouterr().err
    with pytest.raises(AssertionError, match="begins to fetch"):
        main(["run", "--engine", "unicorn"])


def test_a_machine_that_ended_before_its_time_says_that_it_was_not_saved(
    images: list[str], tmp_path: Path
) -> None:
    with running(*images, "--append", "end", "--save-at", "60", str(tmp_path / "saved")) as process:
        code, _, err = ended(process)
    assert (code, err) == (0, "pvtime: the run ended before the machine could be saved\n")


def test_a_machine_that_cannot_be_saved_when_asked_runs_on(
    images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "control"
    with running(*images, "--control", str(path)) as process:
        await_guest(process)
        assert main(["save", str(path), str(tmp_path / "saved")]) == 1
        assert capsys.readouterr() == ("", "pvtime: no state\n")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert ended(process)[::2] == (128 + signal.SIGTERM, "")
    assert sorted(os.listdir(tmp_path)) == ["Image", "initrd"]


def test_a_killed_machines_socket_is_taken_over(images: list[str], tmp_path: Path) -> None:
    path = tmp_path / "control"
    with running(*images, "--control", str(path)) as process:
        await_guest(process)
    assert path.is_socket()
    with running(*images, "--control", str(path)) as process:
        await_guest(process)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(path))
            process.send_signal(signal.SIGINT)
            assert ended(process)[::2] == (128 + signal.SIGINT, "")
    assert not path.exists()
