# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that leaves its process, as a user has it: ``save``, ``restore``, ``migrate`` and ``receive``."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from framework import beside
from framework.interactive import PVTIME, Console
from framework.wait import DEADLINE, wait_until
from integration.test_run_command import WARM, read_until
from pvtime.report import document
from pvtime.report.model import RunReport

pytestmark = pytest.mark.usefixtures("stock_images")


def pvtime(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*PVTIME, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def running(*arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """Run a command beside the test."""
    return beside.running([*PVTIME, *arguments])


def finish(process: subprocess.Popen[str], path: Path, code: int = 0) -> RunReport:
    """Wait for a run's end, which must be a good one, and return its report."""
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == code, out + err
    return document.from_json(path.read_text())


def end(process: subprocess.Popen[str], path: Path) -> RunReport:
    """End a run by a signal, and return its report."""
    process.send_signal(signal.SIGTERM)
    return finish(process, path, 128 + signal.SIGTERM)


def refuse_disagreement(report: RunReport) -> None:
    """Check that truth, structure and guest agree."""
    for row in report.vcpus:
        assert row.enabled
        assert row.error_ns == 0
        assert row.guest_error_ns is not None, "the guest did not answer"
        assert row.guest_error_ns <= 0, "it knows more than was stolen"


def ask_until_ready(process: subprocess.Popen[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask a machine over its control socket as soon as it listens there."""

    def listens() -> bool:
        assert process.poll() is None, process.communicate()
        return Path(arguments[1]).exists()

    wait_until(listens)
    return pvtime(*arguments)


@pytest.mark.parametrize("placement", ["userspace", "hypervisor"])
def test_a_guest_that_was_saved_goes_on_and_is_not_stolen_from_meanwhile(
    placement: str, tmp_path: Path
) -> None:
    saved, first, second = tmp_path / "saved", tmp_path / "first.json", tmp_path / "second.json"
    machine = ["--vcpus", "2", "--placement", placement]
    machine += WARM if placement == "userspace" else ("--memory", "256M")
    with running("run", *machine, "--save-at", "0.3", str(saved), "--report", str(first)) as process:
        before = finish(process, first)
    assert before.outcome.value == "saved"
    steal = ["--steal", "100ms"]  # it does not lapse where a vCPU has yet to wake
    with running("restore", str(saved), *steal, "--duration", "0.5", "--report", str(second)) as process:
        after = finish(process, second)
    assert after.outcome.value == "stopped"
    assert (after.kernel, after.placement) == (before.kernel, placement)
    refuse_disagreement(after)
    for old, new in zip(before.vcpus, after.vcpus, strict=True):
        assert old.error_ns == 0
        assert new.truth_ns > old.truth_ns > 0
        assert (old.injected_ns, new.injected_ns) == (0, 100_000_000)


def test_one_saved_machine_can_be_restored_again_and_by_the_other_core(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    assert pvtime("run", *WARM, "--quiet", "--save-at", "0.2", str(saved)).returncode == 0
    for internals in ("off", "on"):
        report = tmp_path / f"{internals}.json"
        option = f"internals={internals}"
        arguments = ["--engine-option", option, "--duration", "0.2", "--report", str(report)]
        with running("restore", str(saved), "--quiet", *arguments) as process:
            refuse_disagreement(finish(process, report))


def test_a_machine_saved_over_its_socket_may_go_on(tmp_path: Path) -> None:
    control, saved, report = tmp_path / "control", tmp_path / "saved", tmp_path / "report.json"
    options = [*WARM, "--control", str(control), "--report", str(report)]
    with running("run", *options) as process:
        answer = ask_until_ready(process, "save", str(control), str(saved), "--keep-running", "--json")
        assert answer.returncode == 0, answer.stderr
        figures = json.loads(answer.stdout)
        assert figures["schema"] == 1
        assert figures["bytes"] > 1 << 20
        again = pvtime("save", str(control), str(saved), "--keep-running")
        assert (again.returncode, again.stdout) == (2, "")
        assert "exists already" in again.stderr
        assert end(process, report).outcome.value == "stopped"
    assert not control.exists()
    assert pvtime("restore", str(saved), "--quiet", "--duration", "0.2").returncode == 0


def test_a_machine_moves_while_it_runs(tmp_path: Path) -> None:
    control, peer = tmp_path / "control", f"unix:{tmp_path}/peer"
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    source_options = ["--vcpus", "2", *WARM, "--control", str(control), "--report", str(here)]
    with running("receive", peer, "--duration", "0.5", "--report", str(there)) as target:
        with running("run", *source_options) as source:
            read_until(target, "waiting for a machine")
            answer = ask_until_ready(source, "migrate", str(control), peer, "--json")
            assert answer.returncode == 0, answer.stderr
            before = finish(source, here)
        after = finish(target, there)
    moved: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    assert moved["rounds"] >= 2, "memory was sent while the guest ran"
    assert 0 < moved["paused_bytes"] < moved["sent_bytes"]
    assert before.outcome.value == "migrated"
    assert after.outcome.value == "stopped"
    refuse_disagreement(after)
    for old, new in zip(before.vcpus, after.vcpus, strict=True):
        assert new.truth_ns >= old.truth_ns


def test_a_machine_that_cannot_move_goes_on(tmp_path: Path) -> None:
    control, report = tmp_path / "control", tmp_path / "report.json"
    options = [*WARM, "--control", str(control), "--report", str(report)]
    with running("run", *options) as process:
        answer = ask_until_ready(process, "migrate", str(control), f"unix:{tmp_path}/nobody")
        assert answer.returncode == 2
        assert "cannot connect" in answer.stderr
        assert pvtime("stop", str(control)).returncode == 0
        after = finish(process, report)
    assert after.outcome.value == "stopped"
    refuse_disagreement(after)


def test_an_interactive_guest_goes_on_and_reboots_on_a_terminal_of_another_size(
    saved_at_prompt: Path,
) -> None:
    with closing(Console("restore", str(saved_at_prompt), rows=50, columns=132)) as console:
        console.expect(b"# ")  # drawn anew, for a terminal of that size
        console.type(b"until [ \"$(stty size)\" = '50 132' ]; do sleep 0.1; done; echo $X resi''zed\r")
        console.expect(b"kept resized\r\n")
        console.type(b"reboot -f\r")
        console.expect(b"Linux version")
        console.expect(b"using stolen time PV")
        console.expect(b"# ")
        console.type(b"exit\r")
        console.expect(b"power-off after")
        assert console.process.wait(DEADLINE) == 0


def test_what_is_no_saved_machine_is_refused_in_a_line(tmp_path: Path) -> None:
    for arguments in (["restore", str(tmp_path)], ["save", f"{tmp_path}/no", f"{tmp_path}/x"]):
        answer = pvtime(*arguments)
        assert answer.returncode == 2
        assert answer.stdout == ""
        assert len(answer.stderr.splitlines()) == 1
