# SPDX-License-Identifier: GPL-2.0-or-later
"""The design's first four invariants, whatever a guest, its user and its host do, in any order.

A real guest (the probe) on the embedded engine, with each placement. What is expected is what the rules of
:mod:`pvtime.steal.account` say, kept beside it: who counts, from when on, and what somebody has written over.
"""

from __future__ import annotations

import socket
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from framework.wait import DEADLINE, wait_until
from pvtime.abi.pvtime import STRUCTURE_ALIGN, PvTime, StolenTime
from pvtime.abi.registration import KvmStealTime, RegisterCall, RegisterResult
from pvtime.engine.base import Engine, VcpuSample
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.engine.unicorn.vcpu import SchedState
from pvtime.inject.schedule import Schedule
from pvtime.machine.gic import GicVersion
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.probe.guest import guest
from pvtime.probe.probe import Probe
from pvtime.snapshot.description import Description
from pvtime.snapshot.directory import load, write
from pvtime.snapshot.receive import ReceivedMachine, confirm, receive
from pvtime.snapshot.send import send
from pvtime.snapshot.state import SavedState
from pvtime.snapshot.stream import MigrationStream
from pvtime.steal.placement import PlacementName

VCPUS = 3
EXAMPLES = settings().max_examples
"""60, or 2,000 with ``pytest --hypothesis-profile=long``."""
STEPS = 10
SCHEDULES = [Schedule(), Schedule.parse(["200us/1ms", "1:2ms@0.01"])]
"""What is stolen on purpose, beside what the vCPUs steal from each other."""
GIVEN = RAM_BASE + (16 << 20)
"""Where the vCPUs have their structures, in the placement guest."""
U64 = 1 << 64
SUCCESS = int(RegisterResult.SUCCESS)

vcpus = st.integers(0, VCPUS - 1)
rounds = st.integers(0, 3000)


@dataclass
class Expected:
    """What is known of a vCPU without asking the engine."""

    on: bool = False
    resting: bool = False
    enabled: bool = False
    counting: bool = True
    least_ns: int = 0
    """Its truth when last seen, since it was enabled last."""
    least_stolen_ns: int = 0
    """Time stolen from it since the start, when last seen."""
    lie_ns: int = 0
    """What the guest has added to its own structure."""


class Everything(RuleBasedStateMachine):
    """One machine's life, in as many processes as it likes."""

    @initialize(
        placement=st.sampled_from(list(PlacementName)),
        steal=st.sampled_from(SCHEDULES),
        gic=st.sampled_from([GicVersion.V2, GicVersion.V3]),
    )
    def boot(self, placement: PlacementName, steal: Schedule, gic: GicVersion) -> None:
        self.config = replace(guest(VCPUS), placement=placement, gic=gic)
        self.steal = steal
        self.counts_by_itself = placement is not PlacementName.GUEST
        self.machine = self._machine(self.config)
        self.engine: Engine = self._engine(self.machine)
        self.engine.start()
        self._begin()

    def _machine(self, config: MachineConfig) -> Machine:
        return Machine(config, lambda _: None, lambda _: None)

    def _engine(self, machine: Machine) -> UnicornEngine:
        """Make an engine; a schedule is not saved, and is given to each one."""
        return UnicornEngine(machine, steal=self.steal)

    def _begin(self) -> None:
        self.probe = Probe(self.machine, self.engine)
        self.probe.await_start(0)
        self.expected = [Expected(counting=self.counts_by_itself) for _ in range(VCPUS)]
        self.expected[0].on = True
        for index in range(1, VCPUS):
            self.hotplug(index)

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            self.engine.stop()
            self.machine.close()

    def _ready(self, index: int) -> bool:
        return self.expected[index].on

    def _touch(self, index: int) -> Expected:
        """Return what is expected of a vCPU that is about to do something: it does not rest any more."""
        self.expected[index].resting = False
        return self.expected[index]

    # What a guest does

    @rule(index=vcpus)
    def enable(self, index: int) -> None:
        if not self._ready(index):
            return
        its = self._touch(index)
        if self.counts_by_itself:
            answer = self.probe.call(index, PvTime.ST)[0]
            assert answer == STOLEN_TIME.base + 64 * index
        else:
            answer = self.probe.call(index, RegisterCall.SET, GIVEN + 64 * index | 1)[0]
            assert answer == (int(RegisterResult.IN_USE) % U64 if its.enabled else SUCCESS)
            if its.enabled:
                return
        its.enabled = its.counting = True
        its.least_ns = its.lie_ns = 0

    @rule(index=vcpus)
    def disable(self, index: int) -> None:
        if not self._ready(index) or self.counts_by_itself:
            return
        its = self._touch(index)
        assert self.probe.call(index, RegisterCall.SET, 0)[0] == SUCCESS
        its.enabled = its.counting = False

    @rule(index=vcpus, other=vcpus)
    def enable_where_another_is(self, index: int, other: int) -> None:
        """A hostile guest: what one vCPU was given is no other's."""
        if self._ready(index) and self._ready(other) and index != other and not self.counts_by_itself:
            self.enable(other)
            self.disable(index)
            answer = self.probe.call(index, RegisterCall.SET, GIVEN + 64 * other | 1)[0]
            assert answer == int(RegisterResult.INVALID_PARAMETER) % U64

    @rule(index=vcpus, count=rounds)
    def run(self, index: int, count: int) -> None:
        if self._ready(index):
            self._touch(index)
            self.probe.spin(index, count)

    @rule(index=vcpus)
    def idle(self, index: int) -> None:
        if self._ready(index):
            self.probe.rest(index)
            self.expected[index].resting = True

    @rule(index=st.integers(1, VCPUS - 1))
    def hotplug(self, index: int) -> None:
        its = self.expected[index]
        self._touch(0)
        if its.on:
            self.probe.stop_vcpu(index)
            its.on = its.resting = False
            if not self.counts_by_itself:
                its.enabled = its.counting = False
        else:
            self.probe.start_vcpu(index)
            its.on = True

    @rule(index=vcpus, amount=st.integers(1, 10**6))
    def lie(self, index: int, amount: int) -> None:
        """The guest writes into its own structure: it deceives itself, and no other vCPU."""
        its = self.expected[index]
        if not self._ready(index) or not its.counting:
            return
        self._touch(index)
        base = STOLEN_TIME.base if self.counts_by_itself else GIVEN
        offset = StolenTime.stolen_time.offset if self.counts_by_itself else KvmStealTime.steal.offset
        at = base + 64 * index + offset
        self.engine.pause()  # so that no update comes between the two halves of what it does
        memory = self.machine.map.memories[0 if not self.counts_by_itself else 1]
        memory.store_u64(at, (memory.load_u64(at) + amount) % U64)
        self.engine.resume()
        its.lie_ns += amount

    @rule()
    def reset(self) -> None:
        self._touch(0)
        self.probe.reset()
        self._begin()

    # What its user does

    @rule()
    def pause_and_resume(self) -> None:
        self.engine.pause()
        before = self.engine.sample()
        assert self.engine.sample() == before
        self.engine.resume()

    @rule()
    def save_and_restore(self) -> None:
        """By a directory, and in another machine, engine and thread."""
        self.engine.pause()
        before = self.engine.sample()
        state = SavedState.of(self.machine, self.engine)
        with tempfile.TemporaryDirectory(prefix="pvtime-invariants-") as directory:
            write(Path(directory, "machine"), self._description(), state, self.machine.memories)
            self._end_here()
            with load(Path(directory, "machine")) as found:
                self.machine = self._machine(found.description.config)
                self.engine = self._engine(self.machine)
                found.restore(self.machine, self.engine)
        self._go_on(before)

    @rule()
    def migrate(self) -> None:
        """Over a socket, while it runs."""
        ends = socket.socketpair()
        for end in ends:
            end.settimeout(DEADLINE)
        arrived: list[ReceivedMachine] = []

        def make(description: Description) -> tuple[Machine, Engine]:
            machine = self._machine(description.config)
            return machine, self._engine(machine)

        def take() -> None:
            stream = MigrationStream(ends[1])
            arrived.append(receive(stream, make))
            confirm(stream)

        target = threading.Thread(target=take)
        target.start()
        source = MigrationStream(ends[0])
        send(source, self.machine, self.engine, self._description())
        target.join()
        source.close()
        before = self.engine.sample()
        self._end_here()
        self.machine, self.engine = arrived[0].machine, arrived[0].engine
        self._go_on(before)

    def _description(self) -> Description:
        return Description("unicorn", self.config, agent=False, release=None)

    def _end_here(self) -> None:
        self.engine.stop()
        self.machine.close()

    def _go_on(self, before: list[VcpuSample]) -> None:
        """Nothing was stolen on the way."""
        after = self.engine.sample()
        assert [one.truth_ns for one in after] == [one.truth_ns for one in before]
        assert [one.structure_ns for one in after] == [one.structure_ns for one in before]
        assert [one.stolen_ns for one in after] == [one.stolen_ns for one in before]
        assert [one.idle_ns for one in after] == [one.idle_ns for one in before]
        self.engine.start()
        self.probe = Probe(self.machine, self.engine, self.probe.base)

    # What must hold

    @precondition(lambda self: hasattr(self, "machine"))
    @invariant()
    def truth_is_the_structure(self) -> None:
        for its, seen in zip(self.expected, self.engine.sample(), strict=True):
            assert seen.fault is None
            if its.counting:
                assert (seen.count_ns - seen.truth_ns - its.lie_ns) % U64 == 0, (its, seen)
            else:
                assert seen.structure_ns is None, (its, seen)
            assert seen.enabled == its.enabled
            assert 0 <= seen.injected_ns <= seen.truth_ns, (its, seen)

    @precondition(lambda self: hasattr(self, "machine"))
    @invariant()
    def stolen_time_never_runs_backwards_and_who_idles_is_not_stolen_from(self) -> None:
        for index in range(VCPUS):
            if self.expected[index].resting:
                self._await_idle(index)
        first = self.engine.sample()
        for its, seen in zip(self.expected, first, strict=True):
            assert seen.truth_ns >= its.least_ns, (its, seen)
            its.least_ns = seen.truth_ns
            assert seen.stolen_ns >= max(seen.truth_ns, its.least_stolen_ns), (its, seen)
            its.least_stolen_ns = seen.stolen_ns
        busy = [index for index in range(VCPUS) if self._ready(index) and not self.expected[index].resting]
        for index in busy[:1]:
            self.probe.spin(index, 100)
        for its, before, after in zip(self.expected, first, self.engine.sample(), strict=True):
            if its.resting or not its.on:
                assert after.truth_ns == before.truth_ns, (its, before, after)
            its.least_ns = after.truth_ns

    def _await_idle(self, index: int) -> None:
        """It has answered that it rests; where it is held on purpose it has yet to get there."""
        assert isinstance(self.engine, UnicornEngine)
        states = self.engine.run_states
        wait_until(
            lambda: states()[index] is SchedState.IDLE,
            self.engine,
            message=lambda: f"vCPU {index} does not idle: {states()}, {self.expected}",
        )

    @precondition(lambda self: hasattr(self, "machine"))
    @invariant()
    def the_columns_add_up_to_the_time_passed(self) -> None:
        first, *others = self.engine.sample()
        assert {other.elapsed_ns for other in others} == {first.elapsed_ns}, (first, others)

    @precondition(lambda self: hasattr(self, "machine"))
    @invariant()
    def every_vcpu_has_a_structure_of_its_own(self) -> None:
        assert isinstance(self.engine, UnicornEngine)
        places = [vcpu.account.ipa for vcpu in self.engine.vm.vcpus if vcpu.account.ipa is not None]
        assert len(set(places)) == len(places)
        assert not any(place % STRUCTURE_ALIGN for place in places)
        ram = self.machine.memory.region
        if not self.counts_by_itself:
            assert len(places) == sum(its.enabled for its in self.expected), "nobody's memory is written"
        assert all((ram.base <= place < ram.end) is not self.counts_by_itself for place in places)

    @precondition(lambda self: hasattr(self, "machine"))
    @invariant()
    def the_machine_goes_on(self) -> None:
        assert self.engine.wait(0) is None


Everything.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestEverything = Everything.TestCase
