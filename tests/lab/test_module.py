# SPDX-License-Identifier: GPL-2.0-or-later
"""pvtime's kernel module in a lab: its own tests, approach 1 on a real KVM, and nothing left when it is gone.

The lab's time is the count of its instructions, so that what is measured in it is the same on every machine.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.in_lab import TIMEOUT, succeed
from pvtime.images.store import StockImages
from pvtime.kmod.build import COMPILER, NAME
from pvtime.lab.initramfs import LabExtras
from pvtime.lab.lab import Lab
from pvtime.lab.module import load_module, set_parameter, unload_module
from pvtime.lab.qemu import LabError, LabOptions
from pvtime.report import document

TESTS = Path(__file__).parents[1]

PYTEST = ("python3", "-m", "pytest", "-p", "no:cacheprovider", "-x", "--engine", "kvm")
PROBES = "mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null; cat /sys/kernel/debug/kprobes/list"
SCENARIOS = "hypervisor and (save or faults)"
COUNTS = ("pvtime", "scenario", "partial", "--engine", "kvm", "--placement", "userspace")
ON_KERNELS_MEMORY = ("pvtime", "run", "--engine", "kvm", "--placement", "hypervisor")


@pytest.fixture(scope="module")
def lab(qemu: str, stock_images: StockImages) -> Iterator[Lab]:
    """Return a booted lab in which the module can be loaded."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is not installed: no module is compiled (Debian: gcc-aarch64-linux-gnu)")
    extras = LabExtras(distributions=("pytest",), trees={"root/tests": TESTS}, module=True)
    with Lab(LabOptions(icount=True), extras=extras) as lab:
        yield lab


@pytest.fixture
def loaded(lab: Lab) -> Iterator[Lab]:
    """Return the lab with the module in its kernel."""
    load_module(lab)
    yield lab
    unload_module(lab)


def output(lab: Lab, *argv: str) -> str:
    """Run a command in the lab that must succeed; return its output."""
    return succeed(lab, *argv).stdout.decode()


def test_approach_1_is_refused_by_name_without_the_module(lab: Lab) -> None:
    done = lab.run(ON_KERNELS_MEMORY, timeout=TIMEOUT)
    assert done.exit_code == 2
    message = done.stderr.decode()
    assert "placement 'hypervisor': KVM on arm64 has the placement userspace alone" in message
    assert message.count("\n") == 1, message


def test_its_own_tests_and_the_scenarios_of_approach_1_pass(loaded: Lab) -> None:
    tests = ("tests/kmod", "tests/behaviour/test_scenarios.py", "-k", f"kmod or ({SCENARIOS})")
    *lines, summary = output(loaded, *PYTEST, "-v", *tests).splitlines()
    passed = [line.partition("::")[0] for line in lines if " PASSED" in line]
    assert re.match(rf"=+ {len(passed)} passed, \d+ deselected in ", summary), summary
    assert {Path(name).name for name in passed} == {
        "test_scenarios.py",
        *(path.name for path in (TESTS / "kmod").glob("test_*.py")),
    }
    assert passed.count("tests/behaviour/test_scenarios.py") == 2


def test_an_unmodified_linux_has_its_stolen_time_in_the_kernels_memory(loaded: Lab, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run = (
        *ON_KERNELS_MEMORY,
        "--vcpus",
        "2",
        "--duration",
        "0.1",
        "--boot-timeout",
        "900",
        "--report",
        "report.json",
    )
    done = loaded.run(run, timeout=TIMEOUT, out_files={"report.json": path})
    assert done.exit_code == 0, done.stderr.decode(errors="replace")
    assert "using stolen time PV" in done.stdout.decode(errors="replace")
    for row in document.from_json(path.read_text()).vcpus:
        assert row.enabled
        assert row.fault is None
        assert row.error_ns == 0, "truth is not structure"


def test_a_kernel_whose_update_it_cannot_replace_is_refused_with_the_reason(lab: Lab) -> None:
    tracing = "/sys/kernel/tracing"
    update = "kvm_update_stolen_time"
    trace = f"mount -t tracefs tracefs {tracing}; cd {tracing}; echo {update} > set_ftrace_filter; echo"
    output(lab, "sh", "-c", f"{trace} function > current_tracer")
    with pytest.raises(LabError, match=rf"insmod .*{update} does not begin with ftrace's two NOPs"):
        load_module(lab)
    output(lab, "sh", "-c", f"echo nop > {tracing}/current_tracer; umount {tracing}")
    assert "pvtime" not in output(lab, "lsmod")


def test_what_it_does_not_know_is_refused_with_the_kernels_reason(loaded: Lab) -> None:
    with pytest.raises(LabError, match=r"insmod .*File exists"):
        load_module(loaded)
    with pytest.raises(LabError, match="Invalid argument"):
        set_parameter(loaded, "method", "faster")
    for mistakes in ("none,worse", ",".join(["lost"] * 9)):
        with pytest.raises(LabError, match="Invalid argument"):
            set_parameter(loaded, "mistakes", mistakes)


def test_it_cannot_be_unloaded_in_use_and_leaves_kvm_as_it_was(lab: Lab) -> None:
    before = output(lab, "sh", "-c", PROBES)
    load_module(lab, method="merged", moment="entry")
    assert "kvm_update_stolen_time" in output(lab, "sh", "-c", PROBES)
    held = lab.run(["sh", "-c", f"exec 3</dev/pvtime; rmmod {NAME}"], timeout=TIMEOUT)
    assert held.exit_code != 0
    assert "temporarily unavailable" in held.stderr.decode()
    output(lab, *COUNTS)
    unload_module(lab)
    assert output(lab, "sh", "-c", PROBES) == before == ""
    assert (
        output(lab, "sh", "-c", f"ls /dev | grep -c '^pvtime$'; grep -c {NAME} /proc/kallsyms; true")
        == "0\n0\n"
    )
    output(lab, *COUNTS)
