# SPDX-License-Identifier: GPL-2.0-or-later
"""The public API with real guests: what README, docs and examples say is run as it stands there."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pvtime
from framework import beside
from framework.wait import DEADLINE, wait_until

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

FAILING = """

@pytest.mark.pvtime_guest(warm=True, vcpus=2)
def test_fails(guest):
    guest.shell("echo the last words > /dev/console")
    assert not guest.console.expect("last words")
"""

pytestmark = pytest.mark.usefixtures("stock_images")


def program(*words: str | Path) -> str:
    """Run a Python program, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=DEADLINE, cwd=EXAMPLES
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_the_script_in_the_readme_runs_as_it_stands_there(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"^    import pvtime\n(?:    .*\n|\n)+", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert block in (ROOT / "docs" / "api.md").read_text()
    script = re.sub("^    ", "", block, flags=re.MULTILINE)
    more = "print(after.vcpus[1].injected - before.vcpus[1].injected)\n"
    (tmp_path / "script.py").write_text(script.rstrip() + "\n" + more)
    stolen, *load, injected = program(tmp_path / "script.py").split()
    assert int(stolen) >= int(injected) > 0, "half of a second was stolen on purpose"
    assert re.fullmatch(r"[0-9.]+", load[0])


def test_the_page_says_what_happens() -> None:
    # A tick between the unmapping of a structure and the end of its CPU takes all that was stolen off
    # /proc/stat, which is noted.
    page = str(ROOT / "docs" / "api.md")
    failures, tests = doctest.testfile(page, module_relative=False, optionflags=doctest.ELLIPSIS)
    assert failures == 0
    assert tests > 20


def test_the_examples_run() -> None:
    assert "/proc/stat" in program(EXAMPLES / "neighbour.py")
    out = program(EXAMPLES / "hotplug.py")
    assert "cpu-off" in out
    assert "cpu-on" in out


def test_a_test_of_the_users_own_has_a_guest_and_its_console_where_it_fails(tmp_path: Path) -> None:
    own = (EXAMPLES / "test_my_kernel.py").read_text()
    own = own.replace('steal="1:40%"', 'steal="1:40%", warm=True').replace("run_for(1)", "run_for(0.3)")
    own += FAILING
    (tmp_path / "test_own.py").write_text(own)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "the guest's console" in done.stdout
    assert "the last words" in done.stdout.partition("the guest's console")[2]


def test_a_guest_is_saved_restored_and_told_apart_from_its_copy(tmp_path: Path) -> None:
    with pvtime.Guest(vcpus=2, warm=True) as guest:
        guest.wait_userland()
        guest.shell("echo kept > /run/kept")
        guest.save(tmp_path / "saved")
        assert guest.outcome == "saved"
        before = guest.sample()
    with pvtime.Guest.restore(tmp_path / "saved", steal="1:50ms") as again:
        assert again.shell("cat /run/kept; exit 0") == "kept\n"
        with pytest.raises(pvtime.GuestCommandError, match=r"false: exit code 1"):
            again.shell("false")
        with pytest.raises(pvtime.GuestCommandError, match=r"has not ended within 0.1 s"):
            again.shell("sleep 100", timeout=0.1)
        output = again.shell("seq 1 1000")
        assert output.splitlines() == [str(number) for number in range(1, 1001)]
        sample = again.sample(guest=True)
        grown = sample - before
        for vcpu in grown.vcpus:
            assert vcpu.elapsed > 0
            assert vcpu.truth == vcpu.structure
        assert sample.vcpus[0].truth == sample.vcpus[0].structure
        again.reset()
        # It boots: the kernel asks for stolen time once more. It prints its first line when it is half up.
        wait_until(lambda: again.sample().vcpus[0].starts > sample.vcpus[0].starts)
        peer = f"unix:{tmp_path / 'peer'}"
        with beside.running([sys.executable, "-m", "pvtime", "receive", peer, "--no-control", "--quiet"]):
            wait_until((tmp_path / "peer").exists)
            moved = again.migrate(peer)
        assert again.outcome == "migrated"
        assert 0 < moved.paused_bytes <= moved.sent_bytes
