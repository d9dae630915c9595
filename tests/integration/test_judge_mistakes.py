# SPDX-License-Identifier: GPL-2.0-or-later
"""Mistakes that VMMs have made, made on purpose: each is found by the check that should find it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from framework.wait import DEADLINE, wait_until
from pvtime.abi.pvtime import PvTime
from pvtime.engine.base import BREAK, Outcome
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.engine.unicorn.mistakes import MISTAKES
from pvtime.errors import UsageError
from pvtime.inject.schedule import Schedule
from pvtime.judge.choice import image_choice
from pvtime.judge.console import Verdict
from pvtime.judge.growth import NAME as GROWTH
from pvtime.judge.image_file import judge_kernel
from pvtime.judge.own_machine import OwnMachine
from pvtime.judge.session import ExitCode, Judgement, LifeEvent, judge
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.memory_map import Access
from pvtime.machine.psci import PsciCalls
from pvtime.machine.smccc import hypercall
from pvtime.probe.guest import machine_with_engine
from pvtime.steal.account import Account
from pvtime.steal.placement import PlacementName

GROWTH_CHECKS = image_choice(frozenset({GROWTH}))
SHORTEST = f"seconds=0 {GROWTH_CHECKS}"
"""Options of the image: it has its counts compared, half a second of which is stolen, and checks no more."""
DRAFTS_ST = 0xC500_0022
"""PV_TIME_ST in the drafts of 2019."""
VCPUS = 2
MEMORY = 64 << 20


def replace(account: Account, method: str, by: Callable[..., object]) -> None:
    """Have an account do something else."""
    setattr(account, method, by)


def idle_counts(engine: UnicornEngine) -> None:
    """Count the time for which the first vCPU, which is never off, is idle."""
    vcpu = engine.vm.vcpus[0]
    update = vcpu.account.update_stolen_time
    replace(vcpu.account, "update_stolen_time", lambda delay: update(delay + vcpu.idle_ns))


def read_only(engine: UnicornEngine) -> None:
    """Have the structures in memory that cannot be written."""
    engine.protect(STOLEN_TIME, Access.READ)


def right(_engine: UnicornEngine) -> None:
    """Make no mistake."""


def judged(
    mistake: str | Callable[[UnicornEngine], None],
    *events: LifeEvent,
    steal: str = "50%",
    options: str = SHORTEST,
) -> Judgement:
    """Judge a machine that makes the mistake: one of ``--break``, or of this module.

    :param options: of the image.
    """
    broken = {BREAK: mistake} if isinstance(mistake, str) else {}

    def build(machine: Machine) -> UnicornEngine:
        engine = UnicornEngine(machine, broken, Schedule.parse([steal]))
        if not isinstance(mistake, str):
            mistake(engine)
        return engine

    with OwnMachine(build, MachineConfig(VCPUS, MEMORY, judge_kernel(options))) as machine:
        return judge(machine, "pvtime", DEADLINE, frozenset(events))


def named(judgement: Judgement) -> bool:
    """Whether a judgement has an answer."""
    return judgement.exit_code is not ExitCode.CANNOT_TELL


def told(
    mistake: str | Callable[[UnicornEngine], None],
    *events: LifeEvent,
    enough: Callable[[Judgement], bool] = named,
    **how: str,
) -> Judgement:
    """Judge until it can be told: a busy host reads its figures too late to compare them, and says so."""
    judgements: list[Judgement] = []

    def again() -> Judgement | None:
        judgements.append(judged(mistake, *events, **how))
        return judgements[-1] if enough(judgements[-1]) else None

    return wait_until(again, message=lambda: judgements[-1].results)


def says(check: str, words: str) -> Callable[[Judgement], bool]:
    """Return whether a check of a judgement fails with these words.

    While the process is kept from reading, the bounds of what the host knows widen: an error that is known
    less exactly can have another name, or none.
    """

    def told_so(judgement: Judgement) -> bool:
        failed = [each for each in judgement.results if each.verdict is Verdict.FAIL]
        return any(each.name == check and words in each.reason for each in failed)

    return told_so


def check_found(judgement: Judgement, check: str, words: str) -> None:
    """Check that a check failed, and named the mistake."""
    assert judgement.exit_code is ExitCode.WRONG, judgement.results
    failed = {each.name: each.reason for each in judgement.results if each.verdict is Verdict.FAIL}
    assert words in failed.get(check, ""), failed


FOUND_BY = {
    "one-structure": "addresses",
    "in-ram": "addresses",
    "misaligned": "addresses",
    "no-address": "every_cpu_has_structure",
    "not-from-zero": "starts_again",
    "microseconds": GROWTH,
    "no-update": GROWTH,
    "twice": GROWTH,
    "beyond": "padding_under_load",
    "backwards": "never_falls",
    "another-vcpu": GROWTH,
    "not-saved": GROWTH,
    "used-thread": GROWTH,
}
"""The check that finds a mistake of ``--break``."""


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("microseconds", "counts us, not ns"),
        ("no-update", "nobody updates the structure"),
        ("twice", "more than the thread waited"),
    ],
)
def test_a_mistake_is_found_by_name(mistake: str, words: str) -> None:
    judgement = told(mistake, enough=says(FOUND_BY[mistake], words))
    check_found(judgement, FOUND_BY[mistake], words)


def test_a_count_that_falls_is_found() -> None:
    judgement = judged("backwards", options=f"seconds=1 checks={FOUND_BY['backwards']}")
    check_found(judgement, FOUND_BY["backwards"], "fell under a reader")


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("one-structure", "two CPUs have one structure"),
        ("beyond", "beyond a structure's 16 bytes"),
        ("misaligned", "not aligned to 64 bytes"),
        ("no-address", "gives no address where PV_TIME_FEATURES announces it"),
        ("not-from-zero", "did not start the count at 0"),
    ],
)
def test_a_mistake_is_found_without_load(mistake: str, words: str) -> None:
    check_found(judged(mistake, options=f"checks={FOUND_BY[mistake]}"), FOUND_BY[mistake], words)


def test_a_structure_in_ram_is_shown_with_the_ram() -> None:
    judgement = judged("in-ram", options="checks=addresses")
    check_found(judgement, "addresses", "Linux would use it as such")
    (details,) = (each.details for each in judgement.results if each.name == "addresses")
    ram = (f"RAM begins {RAM_BASE:#x}", f"RAM ends {RAM_BASE + MEMORY:#x}")
    assert details == (f"cpu 0: structure {RAM_BASE + (48 << 20):#x}", *ram)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("not-saved", "what was counted before the restore is lost"),
        ("used-thread", "what its new thread had waited before the restore"),
    ],
)
def test_a_mistake_at_a_restore_is_found_by_name(mistake: str, words: str) -> None:
    options = f"seconds=1 {GROWTH_CHECKS}"
    judgement = told(mistake, LifeEvent.MIGRATE, enough=says(GROWTH, words), options=options)
    check_found(judgement, GROWTH, words)
    if mistake != "used-thread":
        check_found(judgement, "never_falls", "fell under a reader")


def test_a_count_of_another_vcpu_is_found() -> None:
    def details(judgement: Judgement) -> list[str]:
        return [detail for each in judgement.results if each.name == GROWTH for detail in each.details]

    def both(judgement: Judgement) -> bool:
        return [detail.count(":") > 1 for detail in details(judgement)] == [True, True]

    judgement = told("another-vcpu", steal="0:70%", enough=both)
    check_found(judgement, GROWTH, "is off by")  # either may be the worst
    first, second = details(judgement)
    assert "lost time" in first, judgement.results
    assert "another thread's time" in second, judgement.results


def test_idle_time_that_counts_is_found() -> None:
    words = "idle (WFI) is in it"
    judgement = told(idle_counts, enough=says(GROWTH, words))
    check_found(judgement, "idle_is_not_stolen", "was idle for")
    check_found(judgement, GROWTH, words)


def test_a_structure_that_cannot_be_written_is_found() -> None:
    check_found(told(read_only), GROWTH, "nobody updates the structure")


def test_the_number_of_the_drafts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    drafts = {int(PvTime.ST): DRAFTS_ST, DRAFTS_ST: int(PvTime.ST)}

    def call(
        index: int, account: Account, delay: int, psci: PsciCalls, registers: Sequence[int], *_: Any
    ) -> int:
        return hypercall(index, account, delay, psci, [drafts.get(number, number) for number in registers])

    monkeypatch.setattr("pvtime.engine.unicorn.guest_traps.hypercall", call)
    check_found(judged(right, options="seconds=0"), "no_live_physical_time", "as in the drafts of 2019")


def test_without_a_mistake_nothing_fails_in_all_a_machines_life() -> None:
    judgement = judged(right, *LifeEvent, options="seconds=1 reset")
    assert judgement.exit_code is not ExitCode.WRONG, judgement.results
    verdicts = {each.name: each.verdict for each in judgement.results}
    assert {name for name, verdict in verdicts.items() if verdict is not Verdict.PASS} <= {
        GROWTH,  # on a busy host a reading may come too late to compare
        f"after_reset_{GROWTH}",
        # and the load may be over before the host is there
        *(event.value for event in LifeEvent),
    }
    assert f"after_reset_{GROWTH}" in verdicts


def test_the_docs_name_each_mistake_and_the_check_that_finds_it() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "judge.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+) \| `([a-z_]+)` \|$", docs, re.MULTILINE)
    texts = {name: (mistake.__doc__ or "").removesuffix(".") for name, mistake in MISTAKES.items()}
    assert rows == [(name, text, FOUND_BY[name]) for name, text in texts.items()]


def test_a_broken_machine_says_so_and_what_is_no_mistake_is_refused() -> None:
    config = MachineConfig(VCPUS, MEMORY, judge_kernel())
    with machine_with_engine(lambda machine: UnicornEngine(machine, {BREAK: "twice"}), config) as (_, engine):
        assert engine.notice == "BROKEN ON PURPOSE (--break twice): its stolen time is wrong"
        assert engine.label == "unicorn (broken on purpose: twice)", "the name in a report"
    with (
        pytest.raises(UsageError, match="no mistake 'tvice' to make: give one of one-structure, in-ram, "),
        machine_with_engine(lambda machine: UnicornEngine(machine, {BREAK: "tvice"}), config),
    ):
        pass


def test_a_mistake_is_made_where_the_host_provides_the_structure_and_nowhere_else() -> None:
    # A vCPU without a structure, and a structure of the guest's own, ended the engine's thread.
    def broken(machine: Machine) -> UnicornEngine:
        return UnicornEngine(machine, {BREAK: "beyond"})

    without = MachineConfig(VCPUS, MEMORY, judge_kernel(), no_pvtime=frozenset({0}))
    with machine_with_engine(broken, without) as (_, engine):
        engine.start()
        engine.stop()
        assert engine.wait(DEADLINE) is Outcome.STOPPED
    guests = MachineConfig(VCPUS, MEMORY, judge_kernel(), placement=PlacementName.GUEST)
    with (
        pytest.raises(UsageError, match="structures that the host provides"),
        machine_with_engine(broken, guests),
    ):
        pass
