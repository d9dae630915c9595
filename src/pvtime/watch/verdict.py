# SPDX-License-Identifier: GPL-2.0-or-later
"""The meaning of the figures of ``pvtime who``, in a sentence each."""

from __future__ import annotations

from typing import Final

from pvtime.watch.causes import CauseKind, CauseRow, VmCauses

__all__ = ["PART", "verdicts"]

NOTABLE: Final = 0.01
"""Share of the time above which steal, or a stop, is worth a sentence."""
PART: Final = 0.1
"""Share of the stolen time above which a cause is."""


def verdicts(vm: VmCauses) -> list[str]:
    """Return the sentences for a VM, the most important first."""
    found = []
    elapsed = max((vcpu.elapsed_ns for vcpu in vm.vcpus), default=0)
    if vm.ended:
        found.append("it ended meanwhile, or one of its vCPUs did")
    stopped = max((vcpu.stopped_ns for vcpu in vm.vcpus), default=0)
    if stopped > NOTABLE * elapsed:
        how = "frozen by its cgroup" if vm.frozen_ns * 2 > stopped else "stopped"
        found.append(f"not steal: the VM was {how} for {_seconds(stopped)}, and its guest is not told")
    faults = max((vcpu.faults_ns for vcpu in vm.vcpus), default=0)
    if faults > NOTABLE * elapsed:
        found.append(f"not steal: the host's page faults kept it for about {_seconds(faults)}")
    stolen, wanted = vm.stolen_ns, sum(vcpu.ran_ns + vcpu.stolen_ns for vcpu in vm.vcpus)
    if stolen <= NOTABLE * wanted:
        if not found:
            found.append(
                f"no steal to speak of: {_seconds(stolen)} of the {_seconds(wanted)} that it wanted to run"
            )
        return found
    rows = vm.rows()
    neighbours = [row for row in rows if row.kind in (CauseKind.VM, CauseKind.PROCESS)]
    told = [row for row in rows if row.ns >= PART * stolen]
    for row in told:
        found.append(f"{_sentence(row, vm)}: {row.ns / 1e9:.1f} of {_seconds(stolen)}")
    rest = sum(row.ns for row in neighbours if row not in told)
    if rest >= PART * stolen:
        found.append(f"many small neighbours: {rest / 1e9:.1f} of {_seconds(stolen)}")
    return found


def _sentence(row: CauseRow, vm: VmCauses) -> str:
    match row.kind:
        case CauseKind.QUOTA:
            return "its own quota of CPU time"
        case CauseKind.SIBLING:
            return "its own vCPUs compete with each other"
        case CauseKind.VMM:
            return f"other threads of its own VMM ({vm.vm.vmm})"
        case CauseKind.KERNEL:
            return f"the host's kernel: {row.name}"
        case CauseKind.LATENCY:
            return "its CPU was idle, and slow to run it"
        case CauseKind.UNKNOWN:
            return "not known"
        case _:
            return f"neighbour: {row.name} (process {row.pid})" if row.pid else f"neighbours: {row.name}"


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:.1f} s"
