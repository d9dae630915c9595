# SPDX-License-Identifier: GPL-2.0-or-later
"""lpt: one time across moves between hosts whose counters have other frequencies. Never merged into Linux."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pvtime.abi.pvtime import STRUCTURE_STRIDE, LptStructure, PvTime
from pvtime.abi.registration import LptCall, RegisterResult, Registration
from pvtime.machine.layout import RAM_BASE, Region
from pvtime.machine.timer import NATIVE
from pvtime.probe.mailbox import CLOCK_INSTRUCTIONS, LPT_CLOCK_INSTRUCTIONS
from pvtime.probe.mailbox_client import ProbeError
from pvtime.probe.probe import LptReading, LptWatch, Probe
from pvtime.scenario import claims
from pvtime.scenario.env import ScenarioEnv, await_loads
from pvtime.scenario.events import Event, Finding, Step
from pvtime.scenario.guest_side import signed
from pvtime.scenario.leaving import migrated
from pvtime.scenario.model import Scenario
from pvtime.steal.live_physical_time import scale
from pvtime.steal.placement import PlacementName

__all__ = ["SCENARIO"]

PV_HZ: Final = NATIVE.hz
HOSTS: Final = (25_000_000, 1_000_000_000, PV_HZ) * 2
"""Frequencies of the hosts that the guest is moved to; it begins on one with the last."""

SECOND: Final = RAM_BASE + (32 << 20)
"""Address of the second kernel."""
DATA: Final = Region("data", RAM_BASE + (16 << 20), 1 << 20)
"""Data of the second kernel, over the first kernel's structure where the guest provides it."""
OLD: Final = DATA.base + 0x4_0000
NEW: Final = SECOND + (1 << 20)
GATE: Final = RAM_BASE + (24 << 20)
PATTERN: Final = 0x5A5A_5A5A_5A5A_5A5A
LOADS: Final = 20

_TWO_TICKS: Final = 2
"""Of the slowest counter: more than the fixed-point scale and the counters' granularity explain."""


@dataclass(frozen=True)
class LptSide:
    """A kernel or firmware, and the calls that it makes for Live Physical Time.

    :param base: address of its memory for the structure, where the guest provides it.
    """

    placement: PlacementName
    base: int

    @property
    def call(self) -> str:
        """Name of the call that it finds the structure by."""
        return "LPT_SET" if self.placement is PlacementName.GUEST else "PV_TIME_LPT"

    def request(self, probe: Probe) -> int:
        """Request the structure; return its address, or a negative error."""
        if self.placement is not PlacementName.GUEST:
            return signed(probe.call(0, PvTime.LPT)[0])
        answer = signed(probe.call(0, LptCall.SET, Registration(self.base).with_(enable=1))[0])
        return answer if answer < 0 else self.base

    def enable(self, probe: Probe) -> int:
        """Request the structure; return its address.

        :raises ProbeError: the request is refused.
        """
        answer = self.request(probe)
        if answer < 0:
            raise ProbeError(f"{self.call} answers {answer}")
        return answer

    def disable(self, probe: Probe) -> int:
        """Have the hypervisor stop writing; return the answer."""
        return signed(probe.call(0, LptCall.SET, 0)[0])


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Move a guest that reads its time, hand it over to a second kernel, and let two consumers ask."""
    yield from _moves(env)
    yield from _hand_over(env, disable=False)
    yield from _hand_over(env, disable=True)
    yield from _two_consumers(env)


def _boot(env: ScenarioEnv) -> contextlib.AbstractContextManager[Probe]:
    return env.boot(1, lpt=PV_HZ)


def _moves(env: ScenarioEnv) -> Iterator[Event]:
    kernel = LptSide(env.placement, OLD)
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(_boot(env))
        structure = kernel.enable(probe)
        found = _structure(probe, structure)
        yield Step(
            f"On a host whose counter has {_mhz(PV_HZ)}, the guest asks for Live Physical Time "
            f"({kernel.call}), never merged into Linux: its structure is at {structure:#x}. A reading of the "
            f"counter takes {CLOCK_INSTRUCTIONS} instructions, one of Live Physical Time "
            f"{LPT_CLOCK_INSTRUCTIONS}."
        )
        await_loads(probe, 0, LOADS)
        same = bytes(_structure(probe, structure)) == bytes(found)
        yield env.finding("the structure is written", "once a run" if same else "more often", "once a run")
        earliest = time.monotonic_ns()
        first = probe.read_lpt(0, structure, GATE)
        latest = time.monotonic_ns()
        moves, away = [], 0
        for run, hz in enumerate(HOSTS, 2):
            began = time.monotonic_ns()
            probe.begin_lpt_watch(0, structure, 2 * run)
            probe, _ = stack.enter_context(migrated(env.with_counter(hz), probe))
            moves.append((hz, probe.end_lpt_watch(0)))
            away += time.monotonic_ns() - began
        before = time.monotonic_ns()
        last = probe.read_lpt(0, structure, GATE)
        after = time.monotonic_ns()
        yield Step(
            f"It reads both clocks over and over, while it is moved {len(moves)} times. The first reading on "
            "each host:",
            tuple(_table(moves)),
        )
        # No more has passed than on the host's clock; and no less, but for the time that the moves took.
        enough = before - latest - away
        yield _continuity(env, first, moves, last, range(enough, after - earliest))
        yield _raw(env, moves)
        sequence = _structure(probe, structure).sequence_number
        runs = "even, and half of it the number of runs" if sequence == 2 * (len(moves) + 1) else "wrong"
        yield env.finding("sequence_number", runs, "even, and half of it the number of runs")
        yield from _torn_reading(env, stack, probe, structure)


def _torn_reading(
    env: ScenarioEnv, stack: contextlib.ExitStack, probe: Probe, structure: int
) -> Iterator[Event]:
    """Move the guest between its reading of the counter and of the scale."""
    hz = HOSTS[0]
    probe.begin_lpt_read(0, structure, GATE)
    moved, _ = stack.enter_context(migrated(env.with_counter(hz), probe))
    reading = moved.end_lpt_read(0, GATE)
    yield Step(
        f"It is moved to {_mhz(hz)} after it has read the counter, and before the scale. Without the "
        f"sequence number the reading would be {_seconds(reading.unchecked)}; with it the "
        f"guest reads again (retries: {reading.retries}) and has {_seconds(reading.ticks)}."
    )
    right = reading.ticks == scale(PV_HZ, hz).apply(reading.counter)
    wrong = reading.unchecked != scale(PV_HZ, hz).apply(reading.counter)
    once = right and wrong and reading.retries == 1
    yield env.finding(
        "a reading that a move comes into",
        "read again, and right" if once else "wrong",
        "read again, and right",
    )
    lpt = moved.machine.lpt
    needs = ["the counter's frequency", "the sequence number"]
    given = "the address that the guest registered"
    if lpt is not None and lpt.state().registration:
        needs.append(given)
    yield env.finding(
        "sent beside memory",
        ", ".join(needs),
        ", ".join(needs[:2]),
        guest=", ".join([*needs[:2], given]),
    )


def _continuity(
    env: ScenarioEnv,
    first: LptReading,
    moves: list[tuple[int, LptWatch]],
    last: LptReading,
    elapsed_ns: range,
) -> Finding:
    """Find whether the readings are in order, and the time from the first to the last can have passed."""
    readings = [first.ticks, *(watch.ticks for _, watch in moves), last.ticks]
    passed = last.ticks - first.ticks
    slack = _TWO_TICKS * len(readings) * -(-PV_HZ // min(HOSTS))
    goes_on = "goes on, never backwards"
    observed = goes_on
    if readings != sorted(readings) or any(watch.backwards for _, watch in moves):
        observed = "runs backwards"
    elif not NATIVE.ticks(elapsed_ns.start) - slack <= passed <= NATIVE.ticks(elapsed_ns.stop) + slack:
        observed = "jumps"
    return env.finding("Live Physical Time", observed, goes_on)


def _raw(env: ScenarioEnv, moves: list[tuple[int, LptWatch]]) -> Finding:
    """Find what the counter shows on each host, to a guest that knows the first host's frequency."""
    explained = all(watch.ticks == scale(PV_HZ, hz).apply(watch.counter) for hz, watch in moves)
    wrong = "wrong by the ratio of the frequencies"
    return env.finding("the counter's own time", wrong if explained else "wrong", wrong)


def _hand_over(env: ScenarioEnv, *, disable: bool) -> Iterator[Event]:
    """Have a second kernel take over, and move it."""
    old, new = LptSide(env.placement, OLD), LptSide(env.placement, NEW)
    with _boot(env) as first:
        structure = old.enable(first)
        how = ""
        if disable and old.disable(first) == RegisterResult.NOT_SUPPORTED:
            how = "no such call; "
        second = first.take_over(SECOND)
        second.fill(0, DATA.base, DATA.size, PATTERN)
        with migrated(env.with_counter(HOSTS[0]), second) as (arrived, _):
            target = Probe(arrived.machine, arrived.engine, SECOND)
            changed = 8 * len(target.differences(0, DATA.base, DATA.size, PATTERN))
            yield Step(
                f"{'With' if disable else 'Without'} asking the hypervisor to leave the structure at "
                f"{structure:#x} alone, a second kernel takes over, fills its data at "
                f"{DATA.base:#x}..{DATA.end - 1:#x}, and is moved: {changed} bytes of its data change."
            )
            observed = how + (f"overwritten: {changed} bytes" if changed else "no byte of RAM changed")
            same = "no byte of RAM changed"
            if disable:
                expected = f"no such call; {same}"
                yield env.finding("disabled before kexec", observed, expected, guest=same)
                return
            overwritten = f"overwritten: {STRUCTURE_STRIDE} bytes"
            yield env.finding("not disabled before kexec", observed, same, guest=overwritten)
            answer = new.request(target)
            said = "granted" if answer >= 0 else f"refused: {RegisterResult(answer).name}"
            yield env.finding("the second kernel's request", said, "granted", guest="refused: IN_USE")


def _two_consumers(env: ScenarioEnv) -> Iterator[Event]:
    """Let firmware ask, then a kernel."""
    firmware, kernel = LptSide(env.placement, OLD), LptSide(env.placement, NEW)
    with _boot(env) as probe:
        structure = firmware.enable(probe)
        before = probe.read_lpt(0, structure, GATE)
        answer = kernel.request(probe)
        said = "granted" if answer >= 0 else f"refused: {RegisterResult(answer).name}"
        after = probe.read_lpt(0, structure, GATE)
        yield Step(
            f"Firmware has Live Physical Time and reads {_seconds(before.ticks)}. A kernel asks too "
            f"({kernel.call}): its request is {said}, and the firmware reads {_seconds(after.ticks)}."
        )
        yield env.finding("the second consumer's request", said, "granted", guest="refused: IN_USE")
        goes_on = after.ticks >= before.ticks and after.ticks == after.counter
        yield env.finding(
            "the first consumer's time then", "continues" if goes_on else "is another", "continues"
        )


def _structure(probe: Probe, address: int) -> LptStructure:
    """Return the structure as the guest reads it."""
    words = [probe.load(0, address + offset) for offset in range(0, STRUCTURE_STRIDE, 8)]
    return LptStructure.from_buffer_copy(b"".join(word.to_bytes(8, "little") for word in words))


def _table(moves: list[tuple[int, LptWatch]]) -> Iterator[str]:
    """Yield the readings, one host a line."""
    yield "host's counter   counter as 62.5 MHz   Live Physical Time   repeated   backwards"
    for hz, watch in moves:
        yield (
            f"{_mhz(hz):>14}   {_seconds(watch.counter):>19}   {_seconds(watch.ticks):>18}   "
            f"{watch.retries:>8}   {watch.backwards:>9}"
        )


def _mhz(hz: int) -> str:
    return f"{hz / 1e6:g} MHz"


def _seconds(ticks: int) -> str:
    """Return a time of the first host's frequency."""
    return f"{ticks / PV_HZ:.6f} s"


SCENARIO: Final = Scenario(
    "lpt",
    "Live Physical Time (never merged): one time on hosts with other counters",
    events,
    (claims.LPT,),
)
