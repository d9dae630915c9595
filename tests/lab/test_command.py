# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime lab`` as a user sees it: exit codes, files, bad input, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pvtime
from framework.wait import DEADLINE, wait_until
from pvtime.lab.qemu import PROGRAM

PVTIME = [sys.executable, "-m", "pvtime"]


def start(*arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start ``pvtime lab`` as a session of its own."""
    return subprocess.Popen(
        [*PVTIME, "lab", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(pvtime.__file__).parents[1])},
        start_new_session=True,
    )


def children(pid: int) -> list[int]:
    """Return the processes that a process, whichever its thread, has started and not yet waited for."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has exited
            found += map(int, task.read_text().split())
    return found


def boots(pid: int) -> bool:
    """Whether a process is an emulator with a kernel: one is also started for its version."""
    try:
        program, *options = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has exited
        return False
    return program.endswith(PROGRAM.encode()) and b"-kernel" in options


def emulator(process: subprocess.Popen[str]) -> int:
    """Wait for the lab's QEMU; return its process."""

    def started() -> int | None:
        assert process.poll() is None, process.communicate()
        return next(filter(boots, children(process.pid)), None)

    return wait_until(started, message="QEMU was not started")


def is_gone(pid: int) -> bool:
    """Return whether there is no such process any more."""
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.usefixtures("stock_images", "qemu")
def test_exit_code_output_and_files_are_the_commands_and_qemu_ends_with_it(tmp_path: Path) -> None:
    command = "echo out; echo err >&2; echo kept > one; uname -m > two; exit 7"
    wanted = [word for name in ("one", "two", "never") for word in ("--out", name)]
    process = start(*wanted, "--", "sh", "-c", command, cwd=tmp_path)
    qemu = emulator(process)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 7
    assert (out, err.splitlines()[-1]) == ("out\n", "err")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "one": "kept\n",
        "two": "aarch64\n",
    }
    assert is_gone(qemu)


@pytest.mark.usefixtures("stock_images", "qemu")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_no_qemu_and_no_file(number: signal.Signals, tmp_path: Path) -> None:
    process = start("--out", "never", "--", "sh", "-c", "echo begun; exec sleep 1000", cwd=tmp_path)
    qemu = emulator(process)
    assert process.stdout is not None
    if number is not signal.SIGKILL:  # that one while the lab boots
        assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode in (-number, 128 + number)
    assert "Traceback" not in err
    # Who was killed waits for nobody: the kernel ends QEMU then.
    wait_until(lambda: is_gone(qemu), message="QEMU is left behind")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["--cpu", "max", "--", "true"], "max"),
        (["--smp", "0", "--", "true"], "give 1 to 16"),
        (["--smp", "many", "--", "true"], "'--smp': 'many'"),
        (["--memory", "64", "--", "true"], "give 512 or more"),
        (
            ["--out", "/nonexistent/it", "--", "true"],
            "cannot write the lab's file to /nonexistent/it: /nonexistent is not a directory",
        ),
        (["--out", "/proc/it", "--", "true"], "cannot write the lab's file to /proc/it: "),
        (["--out", "/tmp", "--", "true"], "cannot write the lab's file to /tmp: it is a directory"),
    ],
)
def test_what_the_lab_cannot_be_is_refused_in_a_line_before_it_starts(
    arguments: list[str], message: str
) -> None:
    process = start(*arguments)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
