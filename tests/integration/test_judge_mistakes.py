# SPDX-License-Identifier: GPL-2.0-or-later
"""Mistakes that VMMs have made, made on purpose: each is found by the check that should find it."""

from __future__ import annotations

import queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from framework.wait import DEADLINE
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.inject.schedule import Schedule
from pvtime.judge.console import Verdict
from pvtime.judge.image_file import judge_kernel
from pvtime.judge.session import ExitCode, Judgement, judge
from pvtime.judge.subject import OwnMachine
from pvtime.machine.layout import RAM_BASE
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.probe.guest import machine_with_engine
from pvtime.steal.account import Account

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


def judged(mistake: Callable[[list[Account]], None] | None) -> Judgement:
    """Judge a machine that makes the mistake."""
    config = MachineConfig(VCPUS, MEMORY, judge_kernel(), append="seconds=1")
    console: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def build(machine: Machine) -> UnicornEngine:
        return UnicornEngine(machine, {}, Schedule.parse(["30%"]))

    with machine_with_engine(build, config, console.put) as (_, engine):
        if mistake is not None:
            mistake([vcpu.account for vcpu in engine.vm.vcpus])
        engine.start()
        return judge(OwnMachine(engine, console), "pvtime", DEADLINE)


@pytest.mark.parametrize(
    ("mistake", "check", "words"),
    [
        (one_address, "addresses", "two CPUs have one structure"),
        (in_ram, "addresses", "Linux would use it as such"),
        (misaligned, "addresses", "not aligned to 64 bytes"),
        (microseconds, "grows_by_run_delay", "counts us, not ns"),
        (no_update, "grows_by_run_delay", "nobody updates the structure"),
        (twice, "grows_by_run_delay", "more than the thread waited"),
        (beyond, "padding_at_the_end", "beyond a structure's 16 bytes"),
        (not_from_zero, "starts_again", "did not start the count at 0"),
        (runs_backwards, "never_falls", "fell under a reader"),
    ],
)
def test_a_mistake_is_found_by_name(mistake: Callable[[list[Account]], None], check: str, words: str) -> None:
    judgement = judged(mistake)
    assert judgement.exit_code is ExitCode.WRONG
    failed = {each.name: each.reason for each in judgement.results if each.verdict is Verdict.FAIL}
    assert words in failed.get(check, ""), failed


def test_without_a_mistake_nothing_fails() -> None:
    judgement = judged(None)
    assert judgement.exit_code is not ExitCode.WRONG, judgement.results
