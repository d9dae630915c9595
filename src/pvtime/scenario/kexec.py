# SPDX-License-Identifier: GPL-2.0-or-later
"""kexec: a second kernel takes over the memory that the first one had stolen time in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.abi.registration import KvmStealTime, RegisterResult
from pvtime.images.cache import FetchProgress
from pvtime.machine.layout import RAM_BASE, Region
from pvtime.probe.mailbox import MAILBOXES, SIZE
from pvtime.probe.probe import Probe
from pvtime.scenario import claims
from pvtime.scenario.changes import Snapshot, dump, fields_of
from pvtime.scenario.env import ScenarioEnv, await_loads, await_stolen, count_text, re_enable
from pvtime.scenario.events import Event, Step
from pvtime.scenario.guest_side import GuestSide
from pvtime.scenario.model import Scenario
from pvtime.steal.placement import PlacementName

__all__ = ["SCENARIO"]

SECOND: Final = RAM_BASE + (32 << 20)
"""Address of the second kernel."""

DATA: Final = Region("data", RAM_BASE + (16 << 20), 1 << 20)
"""Data of the second kernel, over the first kernel's structures where the guest provides them."""

OLD: Final = DATA.base + 0x4_0000
NEW: Final = SECOND + (1 << 20)
PATTERN: Final = 0x5A5A_5A5A_5A5A_5A5A
LOADS: Final = 20


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Hand over without disabling stolen time first, then with it."""
    yield from _hand_over(env, disable=False)
    yield from _hand_over(env, disable=True)


def _hand_over(env: ScenarioEnv, *, disable: bool) -> Iterator[Event]:
    old, new = env.guest_side(OLD), env.guest_side(NEW)
    with env.boot() as first:
        structures = [old.enable(first, index) for index in range(2)]
        where = " and ".join(f"{ipa:#x}" for ipa in structures)
        before = await_stolen(first, 0, 1)[0]
        yield Step(f"The first kernel asks for stolen time ({old.call}): its structures are at {where}.")
        how = ""
        if disable:
            answer = old.disable(first, 0)
            how = "no such call; " if answer == RegisterResult.NOT_SUPPORTED else ""
            yield Step(f"It asks the hypervisor to leave vCPU 0's alone: the answer is {answer}.")
        first.stop_vcpu(1)
        second = first.take_over(SECOND)
        second.fill(0, DATA.base, DATA.size, PATTERN)
        yield Step(
            f"It switches vCPU 1 off and jumps into a second kernel at {SECOND:#x}, which fills its data at "
            f"{DATA.base:#x}..{DATA.end - 1:#x} with 5a."
        )
        mailboxes = Region("mailboxes", SECOND + MAILBOXES, SIZE - MAILBOXES)
        snapshot = Snapshot(second.machine.memory, mailboxes)
        snapshot.expect(DATA, PATTERN)
        second.start_vcpu(1)
        await_loads(second, 0, LOADS)
        second.rest(1)
        changes = snapshot.changes()
        yield Step(
            f"After {LOADS} loads of vCPU 0, {8 * len(changes)} of the {snapshot.bytes_compared} bytes of "
            f"RAM outside its mailboxes are in words that have changed, though the guest wrote none of them.",
            dump(changes),
        )
        fields = fields_of(KvmStealTime, structures[0], changes)
        observed = how + (f"overwritten: {', '.join(fields)}" if fields else "no byte of RAM changed")
        if not disable:
            corrupted = "overwritten: steal, version, preempted"
            yield env.finding(
                "not disabled before kexec", observed, "no byte of RAM changed", guest=corrupted
            )
            yield from _second_request(env, second, new)
            return
        unchanged = "no byte of RAM changed"
        yield env.finding("disabled before kexec", observed, f"no such call; {unchanged}", guest=unchanged)
        _, after, observed = re_enable(second, 0, lambda: new.enable(second, 0))
        yield Step(
            f"The second kernel asks for stolen time: {before.truth_ns} ns or more have been stolen by then, "
            f"and its count is {count_text(after)}."
        )
        yield env.finding("the second kernel's count", observed, "starts from zero")


def _second_request(env: ScenarioEnv, second: Probe, new: GuestSide) -> Iterator[Event]:
    """Make the request of a second kernel that knows nothing of the first."""
    answer = new.request(second, 0)
    said = "granted" if answer >= 0 else f"refused: {RegisterResult(answer).name}"
    shown = f"{answer:#x}" if answer >= 0 else str(answer)
    yield Step(f"The second kernel's own {new.call} is answered {shown}.")
    yield env.finding("the second kernel's request", said, "granted", guest="refused: IN_USE")


def real(progress: FetchProgress, placement: PlacementName) -> Iterator[Event]:
    """Have Debian's kernel start itself by kexec; see :attr:`Scenario.real`."""
    from pvtime.scenario import linux_kexec  # it needs Unicorn

    return linux_kexec.real(progress, placement)


SCENARIO: Final = Scenario(
    "kexec",
    "a second kernel takes over the memory: does the hypervisor write into its data?",
    events,
    (claims.KEXEC, claims.X86),
    real,
)
