# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime run`` as a user sees it: a real kernel, the stock userland, a process and its output."""

from __future__ import annotations

import os
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from framework.interactive import PVTIME, Console
from framework.wait import DEADLINE
from pvtime.images.store import StockImages
from pvtime.report import document
from pvtime.report.model import VcpuRow
from pvtime.run.run_machine import EXIT_GUEST_FAILED
from pvtime.userland.build import build_initramfs

WARM = ("--warm", "--memory", "256M")
"""A guest whose boot is not what is tested: those with as many vCPUs are booted once."""

pytestmark = pytest.mark.usefixtures("stock_images")


def start(*options: str) -> subprocess.Popen[str]:
    """Start ``pvtime run``."""
    return subprocess.Popen(
        [*PVTIME, "run", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read a run's output, up to a line with ``text``."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} did not come, and the run has ended: {process.communicate()}")


def refuse_disagreement(row: VcpuRow) -> None:
    """Check that host, structure and guest agree on one vCPU's stolen time."""
    assert row.enabled
    assert row.error_ns == 0, "truth is not structure"
    assert row.guest_error_ns is not None, "the guest reported nothing"
    assert row.highest_guest_error_ns is not None
    assert row.highest_guest_error_ns <= 0, "it knew more than was stolen"
    assert row.guest_steal_falls == 0


def test_a_run_shows_first_lines_figures_and_last_table_and_leaves_a_true_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    process = start("--vcpus", "2", "--duration", "1", "--report", str(path))
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (0, "")
    assert "using stolen time PV" in out
    assert "reboot: Power down" in out
    report = document.from_json(path.read_text())
    assert f"Linux version {report.kernel}" in out
    assert report.outcome.value == "stopped"
    assert report.boot_seconds is not None
    assert report.elapsed_seconds - report.boot_seconds > 1
    for row in report.vcpus:
        refuse_disagreement(row)
        assert row.truth_ns > 100_000_000, "two busy vCPUs on one thread, and nothing was stolen"
    assert report.begin is not None
    assert (
        report.boot_seconds < report.begin.elapsed_seconds < report.sampled_seconds < report.elapsed_seconds
    )
    for before, after in zip(report.begin.vcpus, report.vcpus, strict=True):
        assert before.guest is not None
        assert after.guest is not None
        assert after.guest.total_ns > before.guest.total_ns


def test_a_kernel_and_an_initrd_of_the_users_own_have_no_guest_column(
    tmp_path: Path, stock_images: StockImages
) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(build_initramfs(stock_images.busybox))
    own = ["--kernel", str(stock_images.kernel), "--initrd", str(initrd), "--append", "pvtime.poweroff"]
    process = start(*own, "--quiet", "--report", "-")
    out, _ = process.communicate(timeout=DEADLINE)
    report = document.from_json(out)
    assert report.outcome.value == "power-off"
    assert report.boot_seconds is None
    assert [row.guest for row in report.vcpus] == [None]
    assert [row.error_ns for row in report.vcpus] == [0]


def test_ctrl_c_ends_a_running_guest_with_its_last_figures() -> None:
    process = start(*WARM, "--vcpus", "2")
    read_until(process, "vCPU 1 ran ")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert "stolen time per vCPU" in out
    assert err.count("\n") <= 1, "more than the note that the guest did not power off in time"


def test_a_kernel_that_panics_ends_the_run_which_has_no_duration() -> None:
    process = start("--append", "rdinit=/nonexistent")
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == EXIT_GUEST_FAILED
    assert "end Kernel panic - not syncing: VFS: Unable to mount root fs" in out
    assert "panicked after" in out
    assert err == "pvtime: the guest's kernel panicked, and does not reboot: its console has the reason\n"


def test_a_stopped_process_is_neither_run_nor_stolen_time(tmp_path: Path) -> None:
    """It was: ten seconds of SIGSTOP were run time of one vCPU, and stolen from the other."""
    path = tmp_path / "report.json"
    # nohlt: the engine's thread never sleeps. A stop while all are idle counts from the first timer on.
    process = start("--vcpus", "2", "--append", "nohlt", "--report", str(path))
    read_until(process, "vCPU 1 ran ")
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    stopped = time.monotonic_ns()
    time.sleep(1)
    stopped = time.monotonic_ns() - stopped
    process.send_signal(signal.SIGCONT)
    read_until(process, " ran ")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE)
    first, second = document.from_json(path.read_text()).vcpus
    assert first.stopped_ns >= stopped
    assert second.stopped_ns >= stopped
    assert first.elapsed_ns == second.elapsed_ns


@pytest.fixture
def console(saved_at_prompt: Path) -> Iterator[Console]:
    """Return an interactive guest at its prompt."""
    with closing(Console("restore", str(saved_at_prompt), rows=30)) as console:
        console.expect(b"# ")  # drawn anew, for a terminal of that size: it takes keys from here on
        yield console


def test_the_console_is_a_shell_that_knows_the_terminals_size_and_ctrl_c(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with closing(Console("run", "--busy", "1", "--report", str(path))) as console:
        console.expect(b"# ")
        console.type(b"stty size; echo $TERM\r")
        console.expect(b"24 80\r\nvt100\r\n")
        # The line editor takes Ctrl-C for a character: type it only when the command runs.
        console.type(b"sh -c 'echo be\"\"gun; exec sleep 1000'\r")
        console.expect(b"begun\r\n")
        console.type(b"\x03")
        console.expect(b"^C")
        console.resize(50, 132)
        os.kill(console.process.pid, signal.SIGWINCH)  # the terminal is not the controlling one here
        # The size goes by way of the agent: ask until it has come.
        console.type(b"until [ \"$(stty size)\" = '50 132' ]; do sleep 0.1; done; echo resi''zed\r")
        console.expect(b"resized\r\n")
        console.type(b"exit\r")
        console.expect(b"Power down")
        console.expect(b"power-off after")
        assert console.process.wait(DEADLINE) == 0
        assert termios.tcgetattr(console.slave) == console.modes
    report = document.from_json(path.read_text())
    assert [row.guest is None for row in report.vcpus] == [False], "no last figures at the shell's end"


def test_a_guest_that_halts_ends_the_run(console: Console) -> None:
    console.type(b"halt -f\r")
    console.expect(b"System halted")
    console.expect(b"stopped after")
    console.expect(b"the guest's kernel has halted without powering off, so the run was ended")
    assert console.process.wait(DEADLINE) == 0
    assert termios.tcgetattr(console.slave) == console.modes


def test_the_escape_key_powers_the_guest_off(console: Console) -> None:
    console.type(b"\x1dq")
    console.expect(b"Power down")
    console.expect(b"stopped after")
    assert console.process.wait(DEADLINE) == 0
    assert termios.tcgetattr(console.slave) == console.modes
