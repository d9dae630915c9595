# SPDX-License-Identifier: GPL-2.0-or-later
"""A /proc of files, with the processes that a test puts there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["FakeProc"]


class FakeProc:
    """The directory, and how to change it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def process(
        self,
        pid: int,
        comm: bytes,
        arguments: Sequence[bytes] = (),
        *,
        threads: Mapping[int, bytes] | None = None,
        vcpu_files: Mapping[int, int] | None = None,
        start: int = 100,
    ) -> None:
        """Add a process.

        :param threads: names by thread, beside the main one.
        :param vcpu_files: indices of vCPUs by descriptor.
        """
        directory = self.root / str(pid)
        self._thread(directory, pid, comm, start)
        directory.joinpath("cmdline").write_bytes(b"".join(each + b"\0" for each in arguments))
        directory.joinpath("fd").mkdir(exist_ok=True)
        for fd, index in (vcpu_files or {}).items():
            directory.joinpath(f"fd/{fd}").symlink_to(f"anon_inode:kvm-vcpu:{index}")
        for tid, name in {pid: comm, **(threads or {})}.items():
            self._thread(directory / "task" / str(tid), tid, name, start)
            self.times(pid, tid)

    def _thread(
        self, directory: Path, tid: int, comm: bytes, start: int, state: str = "S", cpu: int = 0
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        directory.joinpath("comm").write_bytes(comm + b"\n")
        fields = [b"0"] * 50
        fields[0], fields[1], fields[19], fields[36] = state.encode(), b"1", b"%d" % start, b"%d" % cpu
        directory.joinpath("stat").write_bytes(b"%d (%s) %s\n" % (tid, comm, b" ".join(fields)))

    def times(
        self,
        pid: int,
        tid: int,
        ran: int = 0,
        delay: int = 0,
        slices: int = 1,
        state: str = "S",
        cpu: int = 0,
    ) -> None:
        """Set a thread's figures; its files stay the ones that may be open."""
        directory = self.root / str(pid) / "task" / str(tid)
        comm = directory.joinpath("comm").read_bytes().rstrip(b"\n")
        start = int(directory.joinpath("stat").read_bytes().rpartition(b")")[2].split()[19])
        self._thread(directory, tid, comm, start, state, cpu)
        directory.joinpath("schedstat").write_text(f"{ran} {delay} {slices}\n")

    def end(self, pid: int) -> None:
        """Remove a process."""
        shutil.rmtree(self.root / str(pid))

    def mount(self, *lines: str) -> None:
        """Write this process's mountinfo."""
        self.root.joinpath("self").mkdir(exist_ok=True)
        self.root.joinpath("self/mountinfo").write_text("\n".join(lines) + "\n")

    def cgroup(self, pid: int, text: str) -> None:
        """Set the cgroups of a process and of its threads."""
        directory = self.root / str(pid)
        for place in (directory, *directory.glob("task/*")):
            place.joinpath("cgroup").write_text(text)
