# SPDX-License-Identifier: GPL-2.0-or-later
"""The threads of a VMM that run vCPUs, and their run_delay.

They are known by the names that VMMs give them, or by KVM's own account in debugfs, for root: the file
kvm/PID-FD/vcpuN/pid (Linux 6.0, virt/kvm/kvm_main.c).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from pvtime.host.vms import vcpu_of_thread

__all__ = ["VcpuThreads", "processes_below"]


def processes_below(root: int, proc: Path = Path("/proc")) -> list[int]:
    """Return a process and all that it has started, directly or indirectly."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for path in proc.glob("[0-9]*/stat"):
        try:
            # The name in parentheses may have any character in it (proc(5)).
            parent = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # it has ended meanwhile
            continue
        children[parent].append(int(path.parent.name))
    found = [root]
    for process in found:  # the list grows meanwhile
        found += children[process]
    return found


class VcpuThreads:
    """The vCPU threads of a VMM that was started as process ``root``."""

    def __init__(
        self, root: int, proc: Path = Path("/proc"), debugfs: Path = Path("/sys/kernel/debug")
    ) -> None:
        self._root = root
        self._proc = proc
        self._debugfs = debugfs
        self._threads: dict[int, Path] = {}

    def find(self) -> int:
        """Look for the threads, and return how many there are."""
        self._threads.clear()
        for process in processes_below(self._root, self._proc):
            self._threads |= self._by_kvm(process) or self._by_name(process)
        return len(self._threads)

    def _by_name(self, process: int) -> dict[int, Path]:
        found = {}
        for path in self._proc.glob(f"{process}/task/[0-9]*/comm"):
            if (vcpu := vcpu_of_thread(_text(path))) is not None:
                found[vcpu] = path.parent
        return found

    def _by_kvm(self, process: int) -> dict[int, Path]:
        found = {}
        for path in self._debugfs.glob(f"kvm/{process}-*/vcpu[0-9]*/pid"):
            if (thread := _text(path)).isdecimal():
                found[int(path.parent.name.removeprefix("vcpu"))] = self._proc / f"{process}/task/{thread}"
        return found

    def tids(self) -> list[int]:
        """Return the threads' ids, by vCPU."""
        return [int(self._threads[vcpu].name) for vcpu in sorted(self._threads)]

    def run_delays(self) -> dict[int, int]:
        """Return the time, in ns, for which each vCPU's thread has waited for a CPU since it started.

        A thread that has ended is left out.
        """
        found = {}
        for vcpu, path in self._threads.items():
            try:
                found[vcpu] = int((path / "schedstat").read_text().split()[1])
            except (OSError, ValueError, IndexError):
                continue
        return found


def _text(path: Path) -> str:
    """Return a file's line; nothing where it has gone meanwhile."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
