# SPDX-License-Identifier: GPL-2.0-or-later
"""The kvm engine in the lab: its behavioural tests, Linux guests, and the embedded engine's answers."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from framework.differential import SEQUENCES, Answers, answers_of, differences, generate
from framework.engines import CHOICES
from framework.in_lab import TIMEOUT, succeed
from framework.wait import DEADLINE
from pvtime.engine.base import Outcome
from pvtime.judge.growth import PREEMPTION_NS
from pvtime.kmod.build import COMPILER
from pvtime.lab.lab import Lab
from pvtime.lab.module import load_module, unload_module
from pvtime.lab.qemu import CPUS
from pvtime.machine.gic import GicVersion
from pvtime.report import document
from pvtime.report.model import RunReport

HANG_TIMEOUT = 2 * DEADLINE
"""Seconds after which a test in the lab has hung: pytest prints every thread's traceback and exits. That is
longer than a test waits for a cause."""

WITH_VHE, WITHOUT_VHE = CPUS

HERE = Path(__file__).parents[1]
FILES = {
    WITH_VHE: [
        f"{folder}/{path.name}"
        for folder in ("behaviour", "kvm")
        for path in (HERE / folder).glob("test_*.py")
    ],
    WITHOUT_VHE: [
        "behaviour/test_stolen.py",
        "kvm/test_attribute.py",
        "kvm/test_saved.py",
    ],
}
"""Tests by host. Without VHE, KVM enters a guest in another way: what concerns its time and its registers is
tried there too."""


def test_every_behavioural_test_passes_on_kvm_and_none_is_skipped(lab: Lab) -> None:
    options = ("-p", "no:cacheprovider", "-v", "--engine", "kvm", "-W", "ignore::DeprecationWarning")
    on_hang = ("-o", f"faulthandler_timeout={HANG_TIMEOUT}", "-o", "faulthandler_exit_on_timeout=true")
    wanted = FILES[lab.options.cpu]
    done = succeed(lab, "python3", "-m", "pytest", *options, *on_hang, *(f"tests/{name}" for name in wanted))
    *lines, summary = done.stdout.decode().splitlines()
    tests = [line for line in lines if re.match(r"tests/\S+::.* PASSED", line)]
    assert {line.partition("::")[0].removeprefix("tests/") for line in tests} == set(wanted)
    # A warning is an exception that nobody caught: its text is at the end.
    assert re.match(rf"=+ {len(tests)} passed in ", summary), "\n".join([*lines[-80:], summary])


@pytest.mark.parametrize("lab", [WITH_VHE], indirect=True)
def test_generated_calls_have_the_embedded_engines_answers(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    succeed(lab, "python3", "-m", "framework.differential", "kvm", "answers.json", out={"answers.json": path})
    kvm = Answers(**json.loads(path.read_text()))
    calls = generate()
    assert sum(call.last for call in calls) == SEQUENCES >= 2000
    for choice, gic in zip(CHOICES["unicorn"], (GicVersion.V3, GicVersion.V2), strict=True):
        ours = answers_of(choice, gic)
        assert (ours.asked, len(ours.given)) == (kvm.asked, len(kvm.given)), "they were asked other things"
        different = differences(calls, kvm, ours)
        assert not different, "\n".join([str(choice), *different[:20]])


PATIENT = ("--boot-timeout", "900")
"""A guest in the lab boots in a quarter of a minute; 60 s were seen beside other work."""


def refuse_disagreement(report: RunReport) -> None:
    """Check that each structure is what the host knows, and that the guest knows no more."""
    for row in report.vcpus:
        assert row.enabled
        assert row.error_ns == 0, "truth is not structure"
        # Linux adds what its structure says at a tick: no more than was stolen. That it adds all of it is
        # tests/kvm/test_saved_linux.py's.
        assert row.guest_error_ns is None or row.guest_error_ns <= 0


@pytest.mark.parametrize("lab", [WITHOUT_VHE], indirect=True)
def test_a_linux_guest_and_its_host_agree_on_every_nanosecond(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run = ("pvtime", "run", "--engine", "kvm", "--duration", "1", *PATIENT)
    done = succeed(lab, *run, "--report", "report.json", out={"report.json": path})
    assert "using stolen time PV" in done.stdout.decode(errors="replace")
    report = document.from_json(path.read_text())
    refuse_disagreement(report)
    assert report.vcpus[0].guest is not None or b"did not power off when asked" in done.stderr


LEAVE = f"""
set -e
rm -rf saved
pvtime run --engine kvm --vcpus 3 --busy 1 --memory 256M {" ".join(PATIENT)} \\
    --save-at 1 saved --report first.json
pvtime receive unix:peer --quiet --duration 1 --report third.json &
pvtime restore saved --quiet --control control --report second.json &
until [ -S peer ] && [ -S control ]; do sleep 0.1; done
pvtime migrate control unix:peer --json > moved.json
wait
rm -rf saved
"""
"""A guest is booted, saved, restored, and moved to another process while it runs.

One of its vCPUs is busy: beside three of them pvtime itself would wait for a CPU, while they run."""


@pytest.mark.parametrize("lab", [WITH_VHE], indirect=True)
def test_a_linux_guest_agrees_with_its_host_wherever_it_is_moved(lab: Lab, tmp_path: Path) -> None:
    names = ["first.json", "second.json", "third.json", "moved.json"]
    done = succeed(lab, "sh", "-c", LEAVE, out={name: tmp_path / name for name in names})
    console = done.stdout.decode(errors="replace")
    assert "using stolen time PV" in console
    assert "SMP: Total of 3 processors activated" in console
    reports = [document.from_json((tmp_path / name).read_text()) for name in names[:3]]
    assert [report.outcome for report in reports] == [Outcome.SAVED, Outcome.MIGRATED, Outcome.STOPPED]
    for report in reports:
        assert len(report.vcpus) == 3
        refuse_disagreement(report)
        assert all(row.truth_ns > 0 for row in report.vcpus), "three vCPUs boot on two CPUs"
    for before, after in itertools.pairwise(reports):
        for old, new in zip(before.vcpus, after.vcpus, strict=True):
            assert new.truth_ns >= old.truth_ns, "stolen time ran backwards"
    # On a busy host it may not answer within the time that pvtime gives a guest at the end.
    answers = all(row.guest is not None for row in reports[2].vcpus)
    assert answers or b"did not power off when asked" in done.stderr
    moved = json.loads((tmp_path / "moved.json").read_text())
    assert moved["rounds"] >= 2
    assert 0 < moved["paused_bytes"] < moved["sent_bytes"]


@pytest.mark.parametrize("lab", [WITH_VHE], indirect=True)
def test_the_judge_finds_nothing_wrong_with_the_kvm_engine(lab: Lab) -> None:
    done = lab.run(
        ["pvtime", "judge", "--engine", "kvm", "--seconds", "1", "--json", "--timeout", "900"],
        timeout=TIMEOUT,
    )
    verdicts = {check["name"]: check["verdict"] for check in json.loads(done.stdout)["checks"]}
    failed = {name for name, verdict in verdicts.items() if verdict == "fail"}
    assert not failed, done.stdout.decode()
    assert verdicts["idle_is_not_stolen"] == "pass"
    # On a busy host a reading may come too late to compare.
    assert {name for name, verdict in verdicts.items() if verdict == "skip"} <= {"grows_by_run_delay"}


QEMU_ON_KVM = (
    *("qemu-system-aarch64", "-M", "virt,gic-version=3", "-cpu", "host", "-accel", "kvm", "-m", "64"),
    *("-nodefaults", "-display", "none", "-serial", "stdio", "-kernel", "{image}"),
)


@pytest.mark.parametrize("lab", [WITH_VHE], indirect=True)
def test_the_judge_finds_what_qemu_counts_after_a_migration(lab: Lab) -> None:
    # QEMU 7.2, 10.0 and 11.1 do: docs/judged.md.
    options = ("--migrate", "--checks", "grows_by_run_delay", "--json", "--timeout", "900")
    for seconds in ("1", "20"):
        judge = ("pvtime", "judge", *options, "--seconds", seconds, "--", *QEMU_ON_KVM)
        done = lab.run(judge, timeout=TIMEOUT)
        judgement = json.loads(done.stdout)
        checks = {check["name"]: check for check in judgement["checks"]}
        if checks["migrate"]["verdict"] != "skip":  # on a busy host the load was over before the migration
            break
    for line in ("KTAP version 1", "pvtime-result: end pass"):
        assert judgement["console"].count(line) == 1, "it ran where it was restored, and not a second time"
    growth = checks["grows_by_run_delay"]
    if not growth["details"]:  # on a busy host all readings may come too late to compare
        assert growth["verdict"] == "skip", done.stdout.decode()
        return
    if checks["migrate"]["verdict"] == "skip":
        return
    (waited,) = (int(ns) for ns in re.findall(r"had waited (\d+) ns", str(checks["migrate"]["details"])))
    (detail,) = growth["details"]
    grown, least, most = (int(ns) for ns in re.findall(r"(-?\d+) (?:ns|to)", detail)[:3])
    assert waited > 0
    assert least - PREEMPTION_NS <= grown - waited <= most + PREEMPTION_NS, done.stdout.decode()
    if grown > most + PREEMPTION_NS:  # else a busy host's bounds were too wide
        assert done.exit_code == 1
        assert "what its new thread had waited before the restore" in growth["reason"]


def differs_little(detail: str) -> bool:
    """Whether a count is so close to the host's bounds, which a busy host widens, that nothing follows."""
    grown, least, most = (int(number) for number in re.findall(r"(-?\d+) (?:ns|to)", detail)[:3])
    return least - PREEMPTION_NS <= grown <= most + PREEMPTION_NS


@pytest.mark.parametrize("lab", [WITH_VHE], indirect=True)
def test_the_judge_names_the_mistakes_of_a_kernel(lab: Lab) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is not installed: no module breaks KVM (Debian: gcc-aarch64-linux-gnu)")
    load_module(lab, mistakes="microseconds,lost,beyond")
    try:
        judge = ("pvtime", "judge", "--engine", "kvm", "--vcpus", "3", "--seconds", "1", "--json")
        done = lab.run((*judge, "--timeout", "900"), timeout=TIMEOUT)
    finally:
        unload_module(lab)
    assert done.exit_code == 1, done.stderr.decode()
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    # Those at the beginning and at the end may find the count that is written beyond 0, as behind PV_TIME_ST.
    padding = checks["padding_under_load"]
    assert padding["verdict"] == "fail"
    assert [detail.partition(":")[0] for detail in padding["details"]] == ["cpu 2", "cpu 2"]
    growth = checks["grows_by_run_delay"]
    if growth["verdict"] == "skip":  # on a busy host a reading may come too late to compare
        return
    microseconds, lost, beyond = growth["details"]
    assert "it counts us, not ns" in microseconds
    assert "it lost time" in lost or differs_little(lost)
    assert differs_little(beyond)


@pytest.mark.parametrize("lab", [WITH_VHE], indirect=True)
def test_a_user_who_may_not_use_dev_kvm_reads_why(lab: Lab) -> None:
    done = lab.run(
        [
            "sh",
            "-c",
            "mv /dev/kvm /dev/away; pvtime run --engine kvm; code=$?; mv /dev/away /dev/kvm; exit $code",
        ],
        timeout=TIMEOUT,
    )
    assert done.exit_code != 0
    message = done.stderr.decode()
    assert "/dev/kvm" in message
    assert message.count("\n") == 1, message
    assert "Traceback" not in message


def test_the_lab_holds_a_vm_while_no_machine_runs(lab: Lab) -> None:
    # With the host's first and last VM Linux patches its scheduler, which QEMU did not always see: a thread
    # left KVM_RUN with the guest's TPIDR_EL0.
    assert succeed(lab, "sh", "-c", "ls -d /sys/kernel/debug/kvm/*-*").stdout


@pytest.mark.parametrize("lab", [WITH_VHE], indirect=True)
def test_a_program_that_dies_of_a_fault_shows_where(lab: Lab) -> None:
    # Python died of SIGSEGV here once, without a traceback; nothing told where.
    with pytest.raises(
        AssertionError, match=r"(?s)exit code 139\n.*python3\[\d+\]: unhandled exception.*pc : "
    ):
        succeed(lab, "python3", "-c", "import ctypes; ctypes.string_at(8)")
