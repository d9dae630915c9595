# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's parts that need no emulator: files, results, options; and that QEMU dies with its parent."""

from __future__ import annotations

import io
import json
import marshal
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from framework.wait import wait_until
from pvtime.errors import UsageError
from pvtime.lab import die_with_parent
from pvtime.lab.initramfs import closure, distribution_entries, pvtime_entries
from pvtime.lab.protocol import AgentFrame
from pvtime.lab.qemu import LabError, LabOptions
from pvtime.lab.result import CompletedRun, ResultReader
from pvtime.lab.tree import tree_entries, with_parents
from pvtime.userland.cpio import CpioEntry, regular

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def by_name(entries: object) -> dict[str, CpioEntry]:
    return {entry.name: entry for entry in entries}  # type: ignore[attr-defined]


def test_a_tree_keeps_links_and_modes_and_leaves_old_bytecode(tmp_path: Path) -> None:
    tmp_path.joinpath("a.sh").write_text("#!/bin/sh\n")
    tmp_path.joinpath("a.sh").chmod(0o755)
    tmp_path.joinpath("link").symlink_to("a.sh")
    tmp_path.joinpath("__pycache__").mkdir()
    tmp_path.joinpath("__pycache__", "old.pyc").write_bytes(b"old")
    entries = by_name(tree_entries(tmp_path, "opt/", PYTHON))
    assert set(entries) == {"opt/a.sh", "opt/link"}
    assert (entries["opt/a.sh"].mode & 0o777, entries["opt/link"].data) == (0o755, b"a.sh")


def test_a_module_comes_with_bytecode_that_is_not_checked(tmp_path: Path) -> None:
    tmp_path.joinpath("m.py").write_text("answer = 42\n")
    entries = by_name(tree_entries(tmp_path, "", PYTHON))
    compiled = entries[f"__pycache__/m.cpython-{PYTHON.replace('.', '')}.pyc"].data
    names: dict[str, object] = {}
    exec(marshal.loads(compiled[16:]), names)
    assert (names["answer"], compiled[4]) == (42, 1)


def test_there_is_no_bytecode_for_another_python(tmp_path: Path) -> None:
    tmp_path.joinpath("m.py").write_text("answer = 42\n")
    assert set(by_name(tree_entries(tmp_path, "", "3.7"))) == {"m.py"}


def test_directories_come_before_what_is_in_them() -> None:
    names = [entry.name for entry in with_parents([regular("a/b/c", b""), regular("a/d", b"")])]
    assert names == ["a", "a/b", "a/b/c", "a/d"]


def test_the_lab_gets_this_very_pvtime() -> None:
    entries = by_name(pvtime_entries(PYTHON))
    here = entries["usr/lib/python3/dist-packages/pvtime/lab/tree.py"]
    assert here.data == Path(sys.modules["pvtime.lab.tree"].__file__ or "").read_bytes()
    assert entries["usr/bin/pvtime"].mode & 0o111


def test_dependencies_come_with_what_they_need_and_nothing_native() -> None:
    found = closure(["rich"])
    assert {"rich", "Pygments"} <= {each.metadata["Name"] for each in found}
    names = by_name(distribution_entries(found, PYTHON))
    assert "usr/lib/python3/dist-packages/rich/table.py" in names
    assert not [name for name in names if name.endswith(".so") or ".." in name]


def test_a_missing_dependency_is_named() -> None:
    with pytest.raises(UsageError, match="no-such-thing"):
        closure(["no-such-thing"])


@pytest.mark.parametrize(
    ("settings", "match"), [({"cpu": "max"}, "max"), ({"smp": 0}, "0 CPUs"), ({"memory": 64}, "64 MiB")]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        LabOptions(**settings)  # type: ignore[arg-type]


def test_time_is_counted_in_instructions_when_asked_for() -> None:
    command = LabOptions(icount=True).command(Path("Image"), "initrd", 3)
    assert "shift=1,sleep=off" in command
    assert "tcg,thread=single,tb-size=1024" in command


@pytest.mark.parametrize("options", [LabOptions(icount=True), LabOptions(debug=True)])
def test_where_instructions_are_counted_the_kernel_is_where_other_hosts_have_it(options: LabOptions) -> None:
    # Near its module it calls it without veneers: cost --lab gave 133 instructions for an update of 142.
    assert "nokaslr" not in " ".join(options.command(Path("Image"), "initrd", 3))
    assert "nokaslr" in " ".join(LabOptions().command(Path("Image"), "initrd", 3))


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    with ResultReader({"out.json": path}, None, None) as receiver:
        receiver.take(AgentFrame.OPEN, b"out.json")
        receiver.take(AgentFrame.DATA, b"{")
        assert not path.exists()
        receiver.take(AgentFrame.DATA, b"}")
        receiver.take(AgentFrame.EXIT, json.dumps(0).encode())
    assert (path.read_text(), os.listdir(tmp_path)) == ("{}", ["out.json"])


def test_a_wanted_file_that_a_command_did_not_write_is_named_unless_it_failed(tmp_path: Path) -> None:
    def result(exit_code: int) -> CompletedRun:
        with ResultReader({name: tmp_path / name for name in ("one", "two")}, None, None) as receiver:
            for frame in (b"one", b"two"):
                receiver.take(AgentFrame.MISSING, frame)
            receiver.take(AgentFrame.EXIT, json.dumps(exit_code).encode())
        return receiver.result

    with pytest.raises(LabError, match=r"^the command did not write one, two in the lab: check the names"):
        result(0).refuse_missing()
    result(7).refuse_missing()
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "out.json"
    with ResultReader({"out.json": path}, None, None) as receiver, pytest.raises(UsageError, match=str(path)):
        receiver.take(AgentFrame.OPEN, b"out.json")


def test_half_a_file_leaves_nothing(tmp_path: Path) -> None:
    with ResultReader({"out.json": tmp_path / "out.json"}, None, None) as receiver:
        receiver.take(AgentFrame.OPEN, b"out.json")
        receiver.take(AgentFrame.DATA, b"{")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("code", "shell"), [(0, 0), (3, 3), (-9, 137)])
def test_exit_codes_are_as_a_shell_has_them(code: int, shell: int) -> None:
    receiver = ResultReader({}, None, None)
    receiver.take(AgentFrame.EXIT, json.dumps(code).encode())
    assert receiver.result.exit_code == shell


def test_output_goes_to_its_stream_or_into_the_result() -> None:
    stream = io.BytesIO()
    receiver = ResultReader({}, stream, None)
    receiver.take(AgentFrame.STDOUT, b"out")
    receiver.take(AgentFrame.STDERR, b"err")
    assert (stream.getvalue(), receiver.result.stdout, receiver.result.stderr) == (b"out", b"", b"err")


def test_the_emulator_dies_with_its_parent() -> None:
    code = (
        "import os, subprocess, sys, time\n"
        f"command = [sys.executable, {die_with_parent.__file__!r}, str(os.getpid()), 'sleep', '1000']\n"
        "child = subprocess.Popen(command)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    wait_until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not Path(f"/proc/{child}/stat").exists())


def test_nothing_is_started_for_a_parent_that_is_gone() -> None:
    done = subprocess.run(
        [sys.executable, die_with_parent.__file__, "1", "echo", "started"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
