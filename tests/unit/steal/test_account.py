# SPDX-License-Identifier: GPL-2.0-or-later
"""The account against a model that sees everything: whatever vCPUs, guests and users do, in any order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pvtime.abi.pvtime import StolenTime
from pvtime.machine.memory_map import MemoryMap
from pvtime.steal.account import Account, GuestUse
from pvtime.steal.run_delay import RunDelay
from pvtime.steal.structure import CheckedStructure

VCPUS = 3
BASE = 0x10_0000
U64 = 1 << 64

vcpus = st.integers(0, VCPUS - 1)
spans = st.integers(0, 10**10)


@dataclass
class Subject:
    """One vCPU, beside it what should have been stolen from it, and who has meddled with its structure."""

    account: Account
    clock: RunDelay = field(default_factory=RunDelay)
    waiting: bool = False
    stolen: int = 0
    """Since the last PV_TIME_ST."""
    shown: int = 0
    """What the structure must say: ``stolen`` as of the last update, unless somebody wrote to it."""
    lie: int = 0
    """What others have added to the structure since the last PV_TIME_ST."""


class Host(RuleBasedStateMachine):
    """Some vCPUs on one thread. Only :meth:`pass_time` passes time."""

    @initialize()
    def set_up(self) -> None:
        self.map = MemoryMap([])
        self.memory = self.map.allocate(BASE, 0x1_0000, "stolen time")
        self.now = 1_000
        self.subjects = [Subject(Account(CheckedStructure(self.map, BASE, index))) for index in range(VCPUS)]

    def teardown(self) -> None:
        if hasattr(self, "map"):
            self.map.close()

    @rule(span=spans)
    def pass_time(self, span: int) -> None:
        self.now += span
        for subject in self.subjects:
            if subject.waiting:
                subject.stolen += span

    @rule(index=vcpus)
    def wake(self, index: int) -> None:
        subject = self.subjects[index]
        if not subject.waiting:
            subject.clock.wait(self.now)
            subject.waiting = True

    @rule(index=vcpus)
    def load(self, index: int) -> None:
        subject = self.subjects[index]
        subject.clock.settle(self.now)
        subject.waiting = False
        self.update(index)

    @rule(index=vcpus, span=spans)
    def keep_the_thread_waiting(self, index: int, span: int) -> None:
        subject = self.subjects[index]
        subject.clock.add(span)
        subject.stolen += span

    @rule(index=vcpus)
    def update(self, index: int) -> None:
        subject = self.subjects[index]
        subject.account.update_stolen_time(subject.clock.read(self.now))
        subject.shown = subject.stolen

    @rule(index=vcpus)
    def ask(self, index: int) -> None:
        """PV_TIME_ST."""
        subject = self.subjects[index]
        assert subject.account.init_stolen_time(subject.clock.read(self.now)) == BASE + 64 * index
        assert self.memory.read(BASE + 64 * index, 64) == bytes(StolenTime())
        subject.stolen = subject.shown = subject.lie = 0

    @rule(index=vcpus)
    def start_anew(self, index: int) -> None:
        subject = self.subjects[index]
        subject.account.reset(subject.clock.read(self.now))
        assert subject.account.use is GuestUse.OFFERED
        subject.stolen = subject.shown = subject.lie = 0

    @rule(index=vcpus, value=st.integers(0, U64 - 1))
    def overwrite(self, index: int, value: int) -> None:
        """The guest, or somebody who restores or injects steal, writes the structure."""
        subject = self.subjects[index]
        self.memory.store_u64(BASE + 64 * index + 8, value)
        subject.lie = value - subject.shown

    @rule(index=vcpus, data=st.binary(min_size=48, max_size=48))
    def scribble_over_the_padding(self, index: int, data: bytes) -> None:
        self.memory.write(BASE + 64 * index + 16, data)

    @invariant()
    def every_structure_is_what_it_must_be(self) -> None:
        for subject in getattr(self, "subjects", []):
            assert subject.account.structure() == (subject.shown + subject.lie) % U64

    @invariant()
    def no_lie_reaches_the_truth(self) -> None:
        for subject in getattr(self, "subjects", []):
            assert subject.account.truth(subject.clock.read(self.now)) == subject.stolen

    @precondition(lambda self: hasattr(self, "subjects"))
    @invariant()
    def brought_up_to_date_truth_and_structure_differ_by_the_lies_alone(self) -> None:
        for index, subject in enumerate(self.subjects):
            self.update(index)
            truth = subject.account.truth(subject.clock.read(self.now))
            structure = subject.account.structure()
            assert structure is not None
            assert (structure - truth) % U64 == subject.lie % U64


TestHost = Host.TestCase
TestHost.settings = settings(stateful_step_count=40, deadline=None)


class LazyHost(Host):
    """The same without an update after each step: what is late must come in whole."""

    brought_up_to_date_truth_and_structure_differ_by_the_lies_alone = None  # type: ignore[assignment]


TestLazyHost = LazyHost.TestCase
TestLazyHost.settings = settings(stateful_step_count=40, deadline=None)
