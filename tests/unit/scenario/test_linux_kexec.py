# SPDX-License-Identifier: GPL-2.0-or-later
"""Refusals and output of the kexec scenario with Debian's kernel; no guest is needed."""

from __future__ import annotations

import pytest

from pvtime.engine.base import VcpuSample
from pvtime.errors import UsageError
from pvtime.scenario.linux_guest import Call, Kernel
from pvtime.scenario.linux_kexec import KexecRun, explain, run
from pvtime.steal.placement import PlacementName


def sample(index: int, ns: int) -> VcpuSample:
    """Return a vCPU's figures: so much was stolen."""
    return VcpuSample(index, ran_ns=1, truth_ns=ns, structure_ns=ns, enabled=True, loads=1)


def test_one_vcpu_has_nobody_to_steal_from() -> None:
    with pytest.raises(UsageError, match="with 1 vCPU: give 2 or more"):
        run(vcpus=1)


def test_linux_does_not_give_memory() -> None:
    with pytest.raises(UsageError, match="Linux for arm64 gives no memory"):
        run(placement=PlacementName.GUEST)


def test_the_lines_say_what_was_not_found_and_which_cpu_did_not_come() -> None:
    call = Call(0, sample(0, 2_500_000), sample(0, 0))
    first = Kernel("6.1", True, (), (sample(0, 2_000_000), sample(1, 3_000_000)), (10_000_000, None))
    second = Kernel("6.2", False, (call,), (sample(0, 0), sample(1, 0)), (0, None))
    assert list(explain(KexecRun(first, second)))[:5] == [
        "Linux 6.1 uses stolen time.",
        "  vCPU 0: 2.000 ms stolen, 2.000 ms in the structure, /proc/stat says 10.000 ms",
        "  vCPU 1: 3.000 ms stolen, 3.000 ms in the structure, /proc/stat has no such CPU",
        "It started Linux 6.2 by kexec, which does not use stolen time.",
        "  vCPU 0: its PV_TIME_ST found 2.500 ms in the structure, and left 0.000 ms",
    ]
