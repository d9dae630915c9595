# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of a vCPU are taken when KVM has just brought the structure up to date."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from framework.clocks import FakeClock
from framework.structures import Structures
from pvtime.engine.kvm.sampler import MAX_KICKED_STEPS, Sampler
from pvtime.engine.kvm.thread_times import ProcessStops, ThreadTimes


@pytest.fixture
def structures() -> Iterator[Structures]:
    """Return the memory of a structure."""
    structures = Structures()
    yield structures
    structures.map.close()


@dataclass
class FakeVcpu:
    """A vCPU whose thread waits for a CPU for so many ns at each entry, and may be kicked."""

    structures: Structures
    entries: list[tuple[int, bool]]
    run_delay: int = 0
    index: int = 0
    stopped: bool = False
    steps: list[bool] = field(default_factory=list)

    def single_step(self, on: bool) -> None:
        self.steps.append(on)

    def enter(self) -> None:
        wait, kicked = self.entries.pop(0)
        self.run_delay += wait
        if kicked:
            raise InterruptedError
        self.structures.count(self.run_delay)


def sampler(vcpu: FakeVcpu) -> Sampler:
    """Return the sampler of a vCPU."""
    view = SimpleNamespace(set_immediate_exit=lambda on: None)
    made = Sampler(
        cast("Any", vcpu),
        cast("Any", view),
        cast("Any", SimpleNamespace(handle=lambda: None)),
        vcpu.structures.truth(),
        ThreadTimes(ProcessStops(), None, FakeClock()),
        0,
    )
    made._schedstat = cast("Any", SimpleNamespace(run_delay=lambda: vcpu.run_delay))
    return made


def test_a_step_is_repeated_until_the_thread_did_not_wait_in_it(structures: Structures) -> None:
    vcpu = FakeVcpu(structures, [(50, False), (7, False), (0, False)])
    sample = sampler(vcpu).measure(final=False)
    assert sample.truth_ns == sample.structure_ns == 57
    assert vcpu.steps == [True, False]


def test_kicks_while_the_thread_waits_for_a_cpu_do_not_give_the_step_up(structures: Structures) -> None:
    # On a busy host a sample showed 26 ms of truth that were not yet in the structure.
    vcpu = FakeVcpu(structures, [(1_000, True)] * 3 * MAX_KICKED_STEPS + [(5, False), (0, False)])
    sample = sampler(vcpu).measure(final=False)
    assert sample.truth_ns == sample.structure_ns == 3_000 * MAX_KICKED_STEPS + 5


def test_a_guest_that_completes_no_instruction_is_given_up(structures: Structures) -> None:
    vcpu = FakeVcpu(structures, [(0, True)] * MAX_KICKED_STEPS)
    sampler(vcpu).measure(final=False)
    assert not vcpu.entries
