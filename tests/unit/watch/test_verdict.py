# SPDX-License-Identifier: GPL-2.0-or-later
"""What figures mean, in a sentence."""

from __future__ import annotations

import json
from io import StringIO

import pytest

from pvtime.host.vms import HostVcpu, HostVm
from pvtime.watch.causes import CauseKind, CauseRow, VcpuCauses, VmCauses, WhoResult
from pvtime.watch.own_machines import OwnVcpu
from pvtime.watch.told import told_sentences
from pvtime.watch.verdict import verdicts
from pvtime.watch.who_view import print_who, who_to_json

SECOND = 1_000_000_000
VM = HostVm(50, 1, "qemu", "web1", (HostVcpu(0, 51),))


def found(*rows: CauseRow, stopped: int = 0, frozen: int = 0, missing: int = 0, faults: int = 0) -> VmCauses:
    """Return a VM of one vCPU that was followed for 10 s."""
    stolen = sum(row.ns for row in rows)
    ran = 10 * SECOND - stolen - stopped - faults
    vcpu = VcpuCauses(
        VM.vcpus[0], 10 * SECOND, ran, stolen, faults, stopped, faults, stolen, rows, stolen, missing
    )
    return VmCauses(VM, False, frozen, (vcpu,))


def row(kind: CauseKind, seconds: float, name: str = "", pid: int | None = None) -> CauseRow:
    """Return a cause."""
    return CauseRow(kind, name, pid, round(seconds * SECOND))


CASES = [
    ([row(CauseKind.QUOTA, 2.8), row(CauseKind.KERNEL, 0.1, "ksoftirqd/0", 9)],
     ["its own quota of CPU time: 2.8 of 2.9 s"]),
    ([row(CauseKind.SIBLING, 5)], ["its own vCPUs compete with each other: 5.0 of 5.0 s"]),
    ([row(CauseKind.VM, 4, "qemu:web2", 60)], ["neighbour: qemu:web2 (process 60): 4.0 of 4.0 s"]),
    ([row(CauseKind.VM, 2, "qemu:web2", 60), row(CauseKind.QUOTA, 2)],
     ["neighbour: qemu:web2 (process 60): 2.0 of 4.0 s", "its own quota of CPU time: 2.0 of 4.0 s"]),
    ([row(CauseKind.VMM, 1, "", 50)], ["other threads of its own VMM (qemu): 1.0 of 1.0 s"]),
    ([row(CauseKind.LATENCY, 1)], ["its CPU was idle, and slow to run it: 1.0 of 1.0 s"]),
    ([row(CauseKind.UNKNOWN, 1)], ["not known: 1.0 of 1.0 s"]),
    ([row(CauseKind.PROCESS, 0.05, f"p{at}", at) for at in range(40)],
     ["many small neighbours: 2.0 of 2.0 s"]),
    ([row(CauseKind.PROCESS, 0.01, "sh", 7)],
     ["no steal to speak of: 0.0 s of the 10.0 s that it wanted to run"]),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "expected"), CASES, ids=[case[1][0] for case in CASES])
def test_each_cause_has_its_sentence(rows: list[CauseRow], expected: list[str]) -> None:
    assert sorted(verdicts(found(*rows))) == sorted(expected)


def test_a_stop_is_no_steal_and_its_kind_is_named() -> None:
    stopped = verdicts(found(stopped=4 * SECOND))
    assert stopped == ["not steal: the VM was stopped for 4.0 s, and its guest is not told"]
    frozen = verdicts(found(stopped=4 * SECOND, frozen=4 * SECOND))
    assert frozen == ["not steal: the VM was frozen by its cgroup for 4.0 s, and its guest is not told"]


def test_page_faults_of_the_host_are_no_steal() -> None:
    assert verdicts(found(faults=4 * SECOND)) == ["not steal: the host's page faults kept it for about 4.0 s"]


def test_a_guest_that_is_not_told_or_does_not_look_is_named() -> None:
    well = OwnVcpu("a", 9, 0, True, 5 * SECOND, 5 * SECOND, 5 * SECOND)
    assert told_sentences([well]) == []
    assert told_sentences([OwnVcpu("a", 9, 1, False, 0, None, None)]) == [
        "the guest was never told: vCPU 1 has no stolen time"
    ]
    assert told_sentences([OwnVcpu("a", 9, 0, True, 5 * SECOND, 5 * SECOND, 0)]) == [
        "told, but its kernel does not look: vCPU 0 shows next to no steal"
    ]
    assert told_sentences([OwnVcpu("a", 9, 0, True, 5 * SECOND, 4 * SECOND, None)]) == [
        "the guest is told something else than the truth: vCPU 0"
    ]


def test_what_is_missing_is_said_from_a_thousandth_on() -> None:
    out = StringIO()
    hog = row(CauseKind.PROCESS, 4, "hog", 70)
    print_who(WhoResult(10 * SECOND, (found(hog, missing=4_000_000),), ("a note",)), out)
    assert "vCPU 0: these rows" not in out.getvalue()
    assert "a process  hog (process 70)" in out.getvalue()
    assert out.getvalue().endswith("a note\n")
    print_who(WhoResult(10 * SECOND, (found(hog, missing=5_000_000),), ()), out)
    assert (
        "vCPU 0: the kernel counted 4.000 s in the time that both counted, and these rows have 5.0 ms less"
        in out.getvalue()
    )


def test_a_guest_that_is_not_told_by_the_command_line_is_named_under_the_table_and_in_the_json() -> None:
    result, untold = WhoResult(10 * SECOND, (found(row(CauseKind.QUOTA, 3)),), ()), {50: "never told: so"}
    out = StringIO()
    print_who(result, out, untold)
    assert out.getvalue().rstrip().endswith("=> its own quota of CPU time: 3.0 of 3.0 s\n=> never told: so")
    assert json.loads(who_to_json(result, untold))["vms"][0]["verdicts"][-1] == "never told: so"
    print_who(result, other := StringIO(), {51: "never told: so"})
    assert "never told" not in other.getvalue()


def test_the_json_sums_like_the_table() -> None:
    document = json.loads(who_to_json(WhoResult(10 * SECOND, (found(row(CauseKind.QUOTA, 3)),), ())))
    (vcpu,) = document["vms"][0]["vcpus"]
    assert sum(cause["ns"] for cause in vcpu["causes"]) == vcpu["stolen_ns"]
    columns = ("ran_ns", "stolen_ns", "blocked_ns", "stopped_ns")
    assert sum(vcpu[column] for column in columns) == vcpu["elapsed_ns"]
    assert document["vms"][0]["verdicts"] == ["its own quota of CPU time: 3.0 of 3.0 s"]
