# SPDX-License-Identifier: GPL-2.0-or-later
"""Mistakes that VMMs have made, made on purpose: each is found by the check that should find it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from framework.wait import DEADLINE
from pvtime.abi.pvtime import PvTime
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.inject.schedule import Schedule
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
from pvtime.steal.account import Account, AccountState

DRAFTS_ST = 0xC500_0022
"""PV_TIME_ST in the drafts of 2019."""
VCPUS = 2
MEMORY = 64 << 20


def replace(account: Account, method: str, by: Callable[..., object]) -> None:
    """Have an account do something else."""
    setattr(account, method, by)


def one_address(accounts: list[Account]) -> None:
    """Give every vCPU the first one's structure (kvmtool before 6a1f699)."""
    first = accounts[0]
    for account in accounts:
        start = account.init_stolen_time
        replace(account, "init_stolen_time", lambda delay, start=start: start(delay) and first.ipa)


def in_ram(accounts: list[Account]) -> None:
    """Have the structures in memory that the device tree calls RAM."""
    for index, account in enumerate(accounts):
        replace(account, "init_stolen_time", lambda _delay, index=index: RAM_BASE + (48 << 20) + 64 * index)


def misaligned(accounts: list[Account]) -> None:
    """Hand out an address 8 bytes further."""
    for account in accounts:
        start = account.init_stolen_time
        replace(account, "init_stolen_time", lambda delay, start=start: (start(delay) or 0) + 8)


def microseconds(accounts: list[Account]) -> None:
    """Count us."""
    for account in accounts:
        update = account.update_stolen_time
        replace(account, "update_stolen_time", lambda delay, update=update: update(delay // 1000))


def no_update(accounts: list[Account]) -> None:
    """Announce structures, and never write there."""
    for account in accounts:
        replace(account, "update_stolen_time", lambda _delay: None)


def twice(accounts: list[Account]) -> None:
    """Count what another thread lost as well."""
    for account in accounts:
        update = account.update_stolen_time
        replace(account, "update_stolen_time", lambda delay, update=update: update(2 * delay))


def beyond(accounts: list[Account]) -> None:
    """Write a word behind the structure's 16 bytes."""
    for account in accounts:
        update = account.update_stolen_time

        def scribble(delay: int, account: Account = account, update: Callable[[int], None] = update) -> None:
            update(delay)
            words_of(account)[2] = delay

        replace(account, "update_stolen_time", scribble)


def not_from_zero(accounts: list[Account]) -> None:
    """Keep the count at PV_TIME_ST."""
    for account in accounts:
        replace(account, "init_stolen_time", lambda _delay, account=account: account.ipa)


def runs_backwards(accounts: list[Account]) -> None:
    """Forget what was counted at every hundredth update."""
    for account in accounts:
        update, calls = account.update_stolen_time, SimpleNamespace(number=0)

        def forget(
            delay: int,
            account: Account = account,
            update: Callable[[int], None] = update,
            calls: SimpleNamespace = calls,
        ) -> None:
            calls.number += 1
            update(delay)
            if calls.number % 10 == 0:
                words_of(account)[1] = 0

        replace(account, "update_stolen_time", forget)


def words_of(account: Account) -> memoryview:
    """Return the structure's memory as 64-bit words."""
    structure = account._structure
    assert structure is not None
    return cast(memoryview, vars(structure)["_words"])


def no_structure(accounts: list[Account]) -> None:
    """Announce stolen time, and give no address."""
    for account in accounts:
        replace(account, "init_stolen_time", lambda _delay: None)


def anothers(accounts: list[Account]) -> None:
    """Count what is stolen from the next vCPU."""
    delays, updates = [0] * VCPUS, [account.update_stolen_time for account in accounts]
    for index, account in enumerate(accounts):

        def update(delay: int, index: int = index) -> None:
            delays[index] = delay
            updates[index](delays[(index + 1) % VCPUS])

        replace(account, "update_stolen_time", update)


def after_restore(accounts: list[Account], then: Callable[[Account], object]) -> None:
    """Do something wrong when a machine is restored."""
    for account in accounts:
        restore = account.restore

        def restored(
            state: AccountState,
            delay: int,
            account: Account = account,
            restore: Callable[[AccountState, int], None] = restore,
        ) -> None:
            restore(state, delay)
            then(account)

        replace(account, "restore", restored)


def region_not_saved(accounts: list[Account]) -> None:
    """Restore a machine without the memory of its structures."""

    def clear(account: Account) -> None:
        words_of(account)[:] = memoryview(bytes(len(words_of(account)) * 8)).cast("Q")

    after_restore(accounts, clear)


def used_thread(accounts: list[Account]) -> None:
    """Restore a vCPU on a thread that has waited for 5 s, and count that."""
    after_restore(accounts, lambda account: setattr(account, "_last_steal", account._last_steal - 5 * 10**9))


def idle_counts(engine: UnicornEngine) -> None:
    """Count the time for which the first vCPU, which is never off, is idle."""
    vcpu = engine.vm.vcpus[0]
    update = vcpu.account.update_stolen_time
    replace(vcpu.account, "update_stolen_time", lambda delay: update(delay + vcpu.idle_ns))


def read_only(engine: UnicornEngine) -> None:
    """Have the structures in memory that cannot be written."""
    engine.protect(STOLEN_TIME, Access.READ)


def every_account(mistake: Callable[[list[Account]], None]) -> Callable[[UnicornEngine], None]:
    """Return a mistake of an engine that is one of its accounts."""

    def make(engine: UnicornEngine) -> None:
        mistake([vcpu.account for vcpu in engine.vm.vcpus])

    return make


def right(_engine: UnicornEngine) -> None:
    """Make no mistake."""


def judged(
    mistake: Callable[[UnicornEngine], None],
    *events: LifeEvent,
    steal: str = "30%",
    options: str = "seconds=1",
) -> Judgement:
    """Judge a machine that makes the mistake."""

    def build(machine: Machine) -> UnicornEngine:
        engine = UnicornEngine(machine, {}, Schedule.parse([steal]))
        mistake(engine)
        return engine

    with OwnMachine(build, MachineConfig(VCPUS, MEMORY, judge_kernel(options))) as machine:
        return judge(machine, "pvtime", DEADLINE, frozenset(events))


def check_found(judgement: Judgement, check: str, words: str) -> None:
    """Check that a check failed, and named the mistake."""
    assert judgement.exit_code is ExitCode.WRONG, judgement.results
    failed = {each.name: each.reason for each in judgement.results if each.verdict is Verdict.FAIL}
    assert words in failed.get(check, ""), failed


@pytest.mark.parametrize(
    ("mistake", "check", "words"),
    [
        (microseconds, GROWTH, "counts us, not ns"),
        (no_update, GROWTH, "nobody updates the structure"),
        (twice, GROWTH, "more than the thread waited"),
        (beyond, "padding_at_the_end", "beyond a structure's 16 bytes"),
        (runs_backwards, "never_falls", "fell under a reader"),
    ],
)
def test_a_mistake_is_found_by_name(mistake: Callable[[list[Account]], None], check: str, words: str) -> None:
    check_found(judged(every_account(mistake)), check, words)


@pytest.mark.parametrize(
    ("mistake", "check", "words"),
    [
        (one_address, "addresses", "two CPUs have one structure"),
        (misaligned, "addresses", "not aligned to 64 bytes"),
        (no_structure, "every_cpu_has_structure", "gives no address where PV_TIME_FEATURES announces it"),
        (not_from_zero, "starts_again", "did not start the count at 0"),
    ],
)
def test_a_mistake_is_found_without_load(
    mistake: Callable[[list[Account]], None], check: str, words: str
) -> None:
    check_found(judged(every_account(mistake), options=f"checks={check}"), check, words)


def test_a_structure_in_ram_is_shown_with_the_ram() -> None:
    judgement = judged(every_account(in_ram), options="checks=addresses")
    check_found(judgement, "addresses", "Linux would use it as such")
    (details,) = (each.details for each in judgement.results if each.name == "addresses")
    ram = (f"RAM begins {RAM_BASE:#x}", f"RAM ends {RAM_BASE + MEMORY:#x}")
    assert details == (f"cpu 0: structure {RAM_BASE + (48 << 20):#x}", *ram)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (region_not_saved, "what was counted before the restore is lost"),
        (used_thread, "what its new thread had waited before the restore"),
    ],
)
def test_a_mistake_at_a_restore_is_found_by_name(
    mistake: Callable[[list[Account]], None], words: str
) -> None:
    judgement = judged(every_account(mistake), LifeEvent.MIGRATE)
    check_found(judgement, GROWTH, words)
    if mistake is not used_thread:
        check_found(judgement, "never_falls", "fell under a reader")


def test_a_count_of_another_vcpu_is_found() -> None:
    judgement = judged(every_account(anothers), steal="0:60%")
    check_found(judgement, GROWTH, "is off by")  # either may be the worst
    ((first, second),) = (each.details for each in judgement.results if each.name == GROWTH)
    assert "lost time" in first, judgement.results
    assert "another thread's time" in second, judgement.results


def test_idle_time_that_counts_is_found() -> None:
    judgement = judged(idle_counts)
    check_found(judgement, "idle_is_not_stolen", "was idle for")
    check_found(judgement, GROWTH, "idle (WFI) is in it")


def test_a_structure_that_cannot_be_written_is_found() -> None:
    check_found(judged(read_only), GROWTH, "nobody updates the structure")


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
