# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures of other processes' threads: those that end, and more than files may be open."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.fake_proc import FakeProc
from framework.wait import wait_until
from pvtime.errors import UsageError
from pvtime.host.schedstat import SPARE_FILES, ThreadReader, require_schedstat


def test_a_thread_that_ends_is_none_and_so_is_one_with_its_number() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        reader = ThreadReader(process.pid, process.pid)
        process.send_signal(signal.SIGSTOP)
        figures = wait_until(lambda: now if (now := reader.read()) and now.state == "T" else None)
        assert figures.timeslices > 0
        assert reader.run_delay() == (figures.run_delay_ns, figures.timeslices)
        process.kill()
    assert reader.read() is None
    assert reader.run_delay() is None
    reader.close()
    with pytest.raises(ProcessLookupError):
        ThreadReader(process.pid, process.pid)


@pytest.fixture
def few_files() -> Iterator[None]:
    """Let this process have few more open files than it has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + SPARE_FILES + 20, before[1])
    )
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_more_vcpus_than_open_files_are_read_all_the_same(tmp_path: Path) -> None:
    """Anybody may start a process that is named like a VMM, with thousands of threads named like vCPUs."""
    proc = FakeProc(tmp_path)
    proc.process(50, b"qemu-system-x86", threads=dict.fromkeys(range(100, 400), b"CPU 0/KVM"))
    readers = [ThreadReader(50, tid, proc.root) for tid in range(100, 400)]
    proc.times(50, 399, ran=7, delay=9, slices=2)
    figures = readers[-1].read()
    assert figures is not None
    assert (figures.ran_ns, figures.run_delay_ns) == (7, 9)
    for reader in readers:
        reader.close()


def test_a_number_that_is_used_again_is_another_thread_where_the_file_is_not_kept(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    proc.process(50, b"vmm")
    reader = ThreadReader(50, 50, proc.root)
    reader.close()
    proc.process(50, b"vmm", start=900)
    assert reader.read() is None
    reader.close()


def test_a_kernel_without_scheduler_statistics_is_named(tmp_path: Path) -> None:
    require_schedstat()
    (tmp_path / "self").mkdir()
    with pytest.raises(UsageError, match="CONFIG_SCHED_INFO"):
        require_schedstat(tmp_path)
    (tmp_path / "self/schedstat").write_text("0 0 0\n")
    with pytest.raises(UsageError, match="CONFIG_SCHED_INFO"):
        require_schedstat(tmp_path)
