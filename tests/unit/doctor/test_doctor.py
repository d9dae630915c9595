# SPDX-License-Identifier: GPL-2.0-or-later
"""What the doctor says of hosts and guests, with facts that a test makes up where this machine has others."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from pvtime.cli import main
from pvtime.doctor import host
from pvtime.doctor.finding import Health, HealthFinding
from pvtime.doctor.guest import GuestFacts, examine_guest

STAT = "cpu  100 0 50 1000 0 0 0 {steal} 0 0\ncpu0 100 0 50 1000 0 0 0 {steal} 0 0\n"
FOUND = "arm-pv: using stolen time PV"


def guest(
    root: Path, *, log: str = FOUND, before: int = 0, after: int = 0, architecture: str = "aarch64"
) -> dict[str, HealthFinding]:
    """Return the findings, by name, in a guest whose steal goes from ``before`` to ``after`` ticks."""
    (root / "proc/device-tree/psci").mkdir(parents=True)
    (root / "proc/device-tree/psci/method").write_bytes(b"hvc\0")
    stat = root / "proc/stat"
    stat.write_text(STAT.format(steal=before))
    machine = GuestFacts(
        root, architecture, lambda: log, lambda: void(stat.write_text(STAT.format(steal=after)))
    )
    return {finding.name: finding for finding in examine_guest(machine)}


def void(_: object) -> None:
    """Forget a value."""


def test_a_guest_whose_kernel_found_it_and_whose_steal_moves_is_well(tmp_path: Path) -> None:
    findings = guest(tmp_path, before=100, after=125)
    assert findings["guest kernel"].health is Health.GOOD
    assert findings["/proc/stat"] == HealthFinding(
        "/proc/stat", Health.GOOD, "Steal grows: 250 ms in the last second, 1.25 s since boot."
    )


def test_a_guest_without_stolen_time_is_told_what_that_looks_like(tmp_path: Path) -> None:
    # The story that the command is for: a hypervisor without stolen time, and false lock-up panics.
    findings = guest(tmp_path, log="Booting Linux on physical CPU 0x0")
    assert findings["guest kernel"].health is Health.BAD
    assert "may not offer it" in findings["guest kernel"].sentence
    assert findings["/proc/stat"].health is Health.NEUTRAL


def test_a_log_that_may_not_be_read_decides_nothing(tmp_path: Path) -> None:
    assert guest(tmp_path, log="")["guest kernel"].health is Health.NEUTRAL


def test_another_architecture_s_steal_does_not_count(tmp_path: Path) -> None:
    findings = guest(tmp_path, before=1, after=2, architecture="x86_64")
    assert {finding.health for finding in findings.values()} == {Health.NEUTRAL}


def test_a_machine_that_is_not_virtual_is_no_guest(tmp_path: Path) -> None:
    (finding,) = examine_guest(GuestFacts(tmp_path))
    assert finding.health is Health.NEUTRAL
    assert "not look like a virtual machine" in finding.sentence


def test_a_kernel_without_scheduler_statistics_is_a_bad_host(tmp_path: Path) -> None:
    silent = tmp_path / "schedstat"
    silent.write_text("0 0 0\n")
    findings = {finding.name: finding.health for finding in host.examine_host(schedstat=silent)}
    assert findings["schedstat"] is Health.BAD
    silent.unlink()
    findings = {finding.name: finding.health for finding in host.examine_host(schedstat=silent)}
    assert findings["schedstat"] is Health.BAD


def test_an_arm64_host_without_a_kvm_device_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    findings = {finding.name: finding for finding in host.examine_host(str(tmp_path / "kvm"))}
    assert findings["/dev/kvm"].health is Health.BAD
    assert "no such file" in findings["/dev/kvm"].sentence


@pytest.mark.skipif(platform.machine() == "aarch64", reason="it is about hosts of another architecture")
@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        ("x86_64", "for guests of this architecture: pvtime cost and pvtime scenario x86 use it."),
        ("riscv64", "for guests of this architecture."),
    ],
)
def test_a_kvm_of_another_architecture_is_good_for_what_needs_no_arm64_guest(
    machine: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    device = tmp_path / "kvm"
    device.touch()
    findings = {finding.name: finding for finding in host.examine_host(str(device))}
    assert findings["/dev/kvm"].sentence == f"{device} exists, but {sentence}"


def test_the_command_fails_where_kvm_is_not_arm64_s(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pvtime.doctor.guest._keep_busy", lambda: None)  # for a second
    assert main(["doctor", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["schema"] == 1
    assert result["host"]["works"] is False
    assert {"name", "health", "sentence"} == set(result["host"]["findings"][0])
    assert main(["doctor"]) == 1
    assert "cannot have stolen time" in capsys.readouterr().out
