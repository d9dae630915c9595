# SPDX-License-Identifier: GPL-2.0-or-later
"""A hold against a model that counts one ns after the other."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from pvtime.inject.hold import Hold
from pvtime.inject.schedule import Item, PendingSteal
from pvtime.steal.run_delay import RunDelay

ORIGIN = 1000


@dataclass
class Model:
    """Counts ns by ns: what is owed is paid while the vCPU waits, and lapses if it wakes too late."""

    items: list[Item]
    now: int = 0
    """On the schedule's clock."""
    waiting: bool = False
    held: int = 0
    """What is left of the debts that are being paid."""
    owed: list[tuple[int | None, int]] = field(default_factory=list)
    """When the period ends and what it owes, of debts that are not being paid yet."""
    injected: int = 0
    natural: int = 0

    def __post_init__(self) -> None:
        self._accrue()

    def _accrue(self) -> None:
        for item in self.items:
            if item.period_ns is None:
                if self.now == item.start_ns:
                    self.owed.append((item.end_ns, item.amount_ns))
            elif self.now >= item.start_ns and (self.now - item.start_ns) % item.period_ns == 0:
                end = self.now + item.period_ns
                if item.end_ns is None or end <= item.end_ns:
                    self.owed.append((end, item.amount_ns))
        self._begin()

    def _begin(self) -> None:
        if self.waiting and not self.held:
            self.held = sum(amount for _, amount in self.owed)
            self.owed.clear()

    def replace(self, items: list[Item]) -> None:
        self.items, self.now, self.held = items, 0, 0
        self.owed.clear()
        self._accrue()

    def wake(self) -> None:
        self.owed = [(end, amount) for end, amount in self.owed if end is None or end > self.now]

    def set_waiting(self, waiting: bool) -> None:
        self.waiting = waiting
        self._begin()

    def pass_time(self, ns: int) -> None:
        for _ in range(ns):
            if self.waiting and self.held:
                self.held -= 1
                self.injected += 1
            elif self.waiting:
                self.natural += 1
            self.now += 1
            self._accrue()


periods = st.integers(5, 40)
items = st.one_of(
    st.builds(
        lambda period, amount, start, count: Item(
            min(amount, period), period, start, None if count is None else start + count * period
        ),
        periods,
        st.integers(1, 40),
        st.integers(0, 60),
        st.none() | st.integers(1, 6),
    ),
    st.builds(
        lambda amount, start, room: Item(
            amount, None, start, None if room is None else start + amount + room
        ),
        st.integers(1, 60),
        st.integers(0, 150),
        st.none() | st.integers(0, 60),
    ),
)
steps = st.lists(
    st.tuples(st.sampled_from(["run", "wait", "idle", "pause", "look", "replace"]), st.integers(0, 50)),
    max_size=30,
)


class Vcpu:
    """What an engine does with a hold, on a clock that the test sets."""

    def __init__(self, of: list[Item], others: list[Item] | None = None) -> None:
        self.others = others or []
        self.now = ORIGIN
        self.injected = 0
        self.clock = RunDelay()
        self.hold = Hold(PendingSteal(of), self._inject)
        self.hold.start(ORIGIN)
        self.state = "idle"

    def _inject(self, ns: int) -> None:
        assert ns > 0
        self.injected += ns

    def advance(self) -> bool:
        """Return whether it is held."""
        return self.hold.settle_until(self.now, self.clock.waiting_since)

    def pass_time(self, ns: int, model: Model) -> None:
        self.now += ns
        model.pass_time(ns)

    def do(self, step: str, ns: int, model: Model) -> None:
        held = self.advance()
        assert held == bool(model.waiting and model.held)
        if step in ("run", "wait") and self.state == "idle":
            self.hold.woke(self.now)
            model.wake()
        match step:
            case "run" if not held and not self._owes():
                self.clock.settle(self.now)
                self.state = "running"
                model.set_waiting(False)
            case "run" | "wait" if self.state != "waiting":
                self.clock.wait(self.now)
                self.state = "waiting"
                model.set_waiting(True)
            case "idle" if self.state == "running":
                self.state = "idle"
                model.set_waiting(False)
            case "pause":
                self._pause(ns)
                ns = 0
            case "replace":
                self.hold.replace(PendingSteal(self.others), self.now, self.clock.waiting_since)
                model.replace(self.others)
        self.pass_time(ns, model)

    def _owes(self) -> bool:
        due = self.hold.next_due()
        return due is not None and due <= self.now

    def _pause(self, ns: int) -> None:
        self.clock.settle(self.now)
        self.now += ns
        self.hold.resume(ns)
        if self.state == "waiting":
            self.clock.wait(self.now)


@given(of=st.lists(items, max_size=3), others=st.lists(items, max_size=3), course=steps)
def test_no_ns_is_counted_twice_and_none_is_owed_that_was_not_stolen(
    of: list[Item], others: list[Item], course: list[tuple[str, int]]
) -> None:
    vcpu, model = Vcpu(of, others), Model(of)
    for step, ns in course:
        vcpu.do(step, ns, model)
        vcpu.advance()
        assert vcpu.injected == model.injected
        assert vcpu.clock.read(vcpu.now) == model.injected + model.natural


@given(
    of=st.lists(items, min_size=1, max_size=3), slices=st.lists(st.integers(0, 30), min_size=1, max_size=20)
)
def test_who_is_always_busy_pays_exactly_what_is_owed_however_late_it_is_brought_off_the_cpu(
    of: list[Item], slices: list[int]
) -> None:
    bounded = [item for item in of if item.periods is not None]
    vcpu, model = Vcpu(bounded), Model(bounded)
    for ns in [*slices, 1000]:
        vcpu.do("run", ns, model)
        vcpu.do("wait", 0, model)
    vcpu.do("wait", 10_000, model)
    assert not vcpu.advance()
    assert vcpu.injected == sum(item.amount_ns * (item.periods or 0) for item in bounded)


def test_a_reset_ends_a_hold_and_the_schedule_goes_on() -> None:
    vcpu = Vcpu([Item(50, 100)])
    vcpu.clock.wait(vcpu.now)
    assert vcpu.advance()
    vcpu.now += 20
    vcpu.hold.reset()
    vcpu.clock.settle(vcpu.now)
    vcpu.clock.wait(vcpu.now)
    assert not vcpu.advance()
    assert vcpu.injected == 0
    vcpu.now += 80
    assert vcpu.advance()
    vcpu.now += 50
    assert not vcpu.advance()
    assert vcpu.injected == 50
