# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime judge``: right machines pass, and machines that are wrong in one way fail by that check's name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from framework.wait import DEADLINE, wait_until
from pvtime.host.process import thread_state
from pvtime.lab.qemu import PROGRAM

PVTIME = [sys.executable, "-m", "pvtime"]
GROWS = "grows_by_run_delay"
QEMU = "-M virt -cpu cortex-a72 -smp 2 -m 256 -nodefaults -display none -serial stdio -kernel {image}"


def judge(*arguments: str, timeout: float = DEADLINE) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON of a judgement."""
    done = subprocess.run(
        [*PVTIME, "judge", "--json", "--timeout", str(timeout), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout + DEADLINE,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    """Return the verdict of each check."""
    return {check["name"]: check["verdict"] for check in document["checks"]}


@pytest.mark.parametrize(("vcpus", "placement"), [("1", "hypervisor"), ("2", "userspace")])
def test_a_machine_of_the_embedded_engine_is_right(vcpus: str, placement: str) -> None:
    machine = ["--engine", "unicorn", "--vcpus", vcpus, "--placement", placement]
    code, document = judge(*machine, "--seconds", "1")
    found = verdicts(document)
    assert "fail" not in found.values(), document
    skipped = {name for name, verdict in found.items() if verdict == "skip"}
    # On a busy host a reading may come too late to compare; two CPUs are there or not.
    assert skipped <= {GROWS} | ({"off_and_on", "off_and_on_under_load"} if vcpus == "1" else set())
    assert code == (4 if GROWS in skipped else 0)


def test_a_vmm_without_stolen_time_is_consistent_and_gets_no_verdict() -> None:
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed (Debian: apt install qemu-system-arm)")
    code, document = judge("--", PROGRAM, *QEMU.split())
    found = verdicts(document)
    assert code == 4, document
    assert "fail" not in found.values(), document
    assert found["discovery_agrees"] == "pass"
    assert found["announced"] == found["every_cpu_has_structure"] == "skip"


FIRMWARE = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")


@pytest.mark.parametrize("machine", ["virt,gic-version=3,virtualization=on", "virt,acpi=off"])
def test_a_firmware_starts_the_image_with_acpi_or_a_device_tree(machine: str) -> None:
    if shutil.which(PROGRAM) is None or not FIRMWARE.exists():
        pytest.skip("QEMU or its firmware is not installed (Debian: qemu-system-arm, qemu-efi-aarch64)")
    # The command line comes by EFI load options, or by the device tree, and goes before what is in the image.
    command = [PROGRAM, *QEMU.split(), "-M", machine, "-bios", str(FIRMWARE), "-append", "checks=announced"]
    # A second on a quiet host; 281 s were seen where two suites had a CPU each.
    code, document = judge("--checks", "header", "--", *command, timeout=5 * DEADLINE)
    assert code == 4, json.dumps(document["checks"])
    found = verdicts(document)
    assert found["cpus_start"] == found["discovery_agrees"] == "pass", document
    assert found["announced"] == "skip"
    assert len(found) == 6, "what is chosen, and what is always made"


def test_a_choice_of_checks_is_made_and_nothing_else() -> None:
    code, document = judge("--engine", "unicorn", "--checks", "padding,starts_again")
    needed = ["cpus_start", "smccc_version", "discovery_agrees", "every_cpu_has_structure", "normal_memory"]
    assert [check["name"] for check in document["checks"]] == [*needed, "padding", "starts_again"]
    assert code == 0, "the chosen checks passed; there is nothing to compare with the host"


def test_a_vcpu_without_a_structure_is_found() -> None:
    machine = ["run", "--engine", "unicorn", "--vcpus", "2", "--without", "1", "--kernel", "{image}"]
    code, document = judge("--", *PVTIME, *machine)
    found = verdicts(document)
    assert code == 1
    assert {name for name, verdict in found.items() if verdict == "fail"} == {
        "every_cpu_agrees",
        "every_cpu_has_structure",
    }
    reasons = {check["name"]: check["reason"] for check in document["checks"]}
    assert "Linux keeps such a CPU offline" in reasons["every_cpu_agrees"]


def vmm(folder: Path, *said: str) -> list[str]:
    """Return the command of a VMM that only says something."""
    program = folder / "vmm.py"
    program.write_text(f"import sys\nfor line in {said!r}: print(line)\n")
    return [sys.executable, str(program), "{image}"]


def test_a_vmm_that_says_nothing_of_the_image_is_not_convicted(tmp_path: Path) -> None:
    code, document = judge("--", *vmm(tmp_path, "EFI shell"))
    assert (code, document["verdict"]) == (4, "cannot-tell")
    assert verdicts(document) == {"image_starts": "fail"}


def test_a_console_cannot_give_the_hosts_verdict(tmp_path: Path) -> None:
    says = ("1..1", f"pvtime-result: {GROWS} pass", "pvtime-result: migrate pass", "pvtime-result: end pass")
    code, document = judge("--", *vmm(tmp_path, *says))
    assert code == 4
    assert verdicts(document) == {}


def test_results_that_are_lost_on_the_console_cost_the_verdict(tmp_path: Path) -> None:
    says = vmm(
        tmp_path,
        "1..3",
        "pvtime-result: header pass",
        "pvtime-re a VMM's own line",
        "pvtime-result: end pass",
    )
    code, document = judge("--", *says)
    assert code == 4
    assert verdicts(document) == {"header": "pass", "image_ends": "fail"}
    assert document["checks"][-1]["reason"].startswith("2 results are missing")


def test_a_vmm_that_ends_too_early_is_not_convicted(tmp_path: Path) -> None:
    code, document = judge("--", *vmm(tmp_path, "1..1", "pvtime-result: header pass"))
    assert code == 4
    assert verdicts(document) == {"header": "pass", "image_ends": "fail"}


@pytest.mark.parametrize(
    ("program", "reason", "limit"),
    [
        (
            "echo unsupported machine type >&2; echo Use -machine help >&2; exit 1",
            "nothing came on the console; the VMM ended with exit code 1; "
            "the VMM said: unsupported machine type / Use -machine help",
            DEADLINE,
        ),
        (
            "kill -9 $$",
            "nothing came on the console; the VMM was ended by SIGKILL; "
            "is its first serial port its standard output, and {image} its kernel?",
            DEADLINE,
        ),
        (
            "printf 'UEFI\\r\\nShell> '; echo why >&2; exec sleep 1000",
            "the console has 13 bytes and no line of the image; it ends with: UEFI Shell>; "
            "the VMM still ran when its time was over (--timeout); the VMM said: why",
            10,
        ),
        (
            "exec >&-; sleep 1000; : {image}",
            "nothing came on the console; the VMM closed its standard output, and runs on; "
            "is its first serial port its standard output, and {image} its kernel?",
            DEADLINE,
        ),
    ],
)
def test_a_vmm_that_does_not_start_the_image_is_told_in_words(
    program: str, reason: str, limit: float
) -> None:
    code, document = judge("--", "sh", "-c", program, "{image}", timeout=limit)
    assert code == 4
    assert [(check["name"], check["reason"]) for check in document["checks"]] == [("image_starts", reason)]


def test_a_program_that_prints_the_image_is_not_convicted() -> None:
    code, document = judge("--", "cat", "{image}")
    assert (code, document["verdict"]) == (4, "cannot-tell")
    assert verdicts(document) == {"image_starts": "fail"}


def test_a_vmm_that_cannot_be_migrated_gets_no_verdict(tmp_path: Path) -> None:
    says = vmm(tmp_path, "1..0", "pvtime-phase: load", "pvtime-result: end pass")
    code, document = judge("--migrate", "--reset", "--", *says)
    assert code == 4
    assert verdicts(document) == {"migrate": "skip", "reset": "skip"}


def test_one_thing_alone_goes_to_standard_output(tmp_path: Path) -> None:
    says = vmm(tmp_path, "1..1", "pvtime-result: header pass", "pvtime-result: end pass")
    run = [*PVTIME, "judge"]
    ktap = subprocess.run([*run, "--ktap", "--", *says], capture_output=True, text=True, timeout=DEADLINE)
    assert ktap.stdout.startswith("KTAP version 1\n1..1\nok 1 header\npvtime-result: header pass\n")
    xml = subprocess.run(
        [*run, "--junit", "-", "--", *says], capture_output=True, text=True, timeout=DEADLINE
    )
    assert xml.stdout.startswith("<?xml")
    assert xml.stdout.endswith("</testsuite>\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--json", "--ktap"], "choose one of them"),
        (["--json", "--junit", "-"], "choose one of them"),
        (["--checks", "padding,heder"], "'heder' is no check that can be chosen; these are: cpus_start, "),
        (["--console", "-"], "standard output has the results"),
        (["--", "true"], "write {image} there"),
        (["--", "/no/such/vmm", "{image}"], "there is no such program: check the VMM's command"),
        (["--junit", "/", "--engine", "unicorn"], "cannot write the results to /"),
        (
            ["--write-image", "/no/such/folder/image"],
            "cannot write the image to /no/such/folder/image: No such file",
        ),
    ],
)
def test_what_is_impossible_is_one_line(arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [*PVTIME, "judge", *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


STARTER = """
import os, subprocess, sys, time
if len(sys.argv) == 4:
    child = subprocess.Popen([sys.executable, __file__, "child"], start_new_session=True)
    with open(sys.argv[2] + ".partial", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(sys.argv[2] + ".partial", sys.argv[2])
    print(sys.argv[3], flush=True)
time.sleep(1000)
"""
"""A VMM that starts another process in a session of its own."""


def starter(folder: Path, says: str) -> list[str]:
    """Return the command of a VMM that starts a process, writes both ids to ``pids``, and says something."""
    (folder / "starter.py").write_text(STARTER)
    return [sys.executable, str(folder / "starter.py"), "{image}", str(folder / "pids"), says]


def is_running(pid: int) -> bool:
    """Whether a process exists, and is more than its parent's memory of it."""
    state = thread_state(f"/proc/{pid}")
    return state is not None and state.state != "Z"


def test_the_vmm_and_what_it_has_started_end_with_the_judge(tmp_path: Path) -> None:
    judge("--", *starter(tmp_path, "1..1\npvtime-result: end pass"))
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_until(lambda: not any(map(is_running, pids)), message="a process is left behind")


def test_a_vmm_ends_when_the_judge_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([*PVTIME, "judge", "--", *starter(tmp_path, "nothing")])
    wait_until((tmp_path / "pids").exists, message="the VMM has not started")
    process.kill()
    process.wait()
    vmm, child = (int(pid) for pid in (tmp_path / "pids").read_text().split())
    wait_until(lambda: not is_running(vmm), message="the VMM is left behind")
    os.kill(child, signal.SIGKILL)


def test_files_are_written_on_request(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("image", "junit", "console")}
    subprocess.run([*PVTIME, "judge", "--write-image", files["image"]], check=True, timeout=DEADLINE)
    assert files["image"].read_bytes()[56:60] == b"ARM\x64"
    says = vmm(tmp_path, "1..1", "pvtime-result: header pass", "pvtime-result: end pass")
    code, _ = judge("--junit", str(files["junit"]), "--console", str(files["console"]), "--", *says)
    assert code == 4
    assert 'tests="1"' in files["junit"].read_text()
    assert files["console"].read_text().startswith("1..1\npvtime-result: header pass")
