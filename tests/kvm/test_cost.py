# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime cost`` on arm64's KVM: its round trips are loads, and stolen time is in those that ask for it."""

from __future__ import annotations

import fcntl
import json
import threading

import pytest

from pvtime.cli.command import main
from pvtime.cost.kvm_arm64 import arm64_round_trips
from pvtime.cost.neighbour import Neighbour
from pvtime.cost.round_trips import KVM_RUN, Pace, measure
from pvtime.steal.run_delay import Schedstat

ROUNDS = 12
PACE = Pace(ROUNDS, 600, 1)


def test_the_structure_counts_from_the_moment_on_at_which_stolen_time_is_enabled() -> None:
    clock = Schedstat(threading.get_native_id())
    with arm64_round_trips() as vm, Neighbour() as neighbour:
        measure(vm, PACE, neighbour.take_cpu)
        assert vm.stolen_ns() == 0
        vm.enable()
        rounds = measure(vm, PACE, neighbour.take_cpu)
        assert (len(rounds.plain), len(rounds.counted)) == (ROUNDS, ROUNDS)
        assert 0 < vm.stolen_ns() <= clock.run_delay()
        while True:  # until no wait comes between the entry and the clock
            before = clock.run_delay()
            fcntl.ioctl(vm.select(True), KVM_RUN)
            if clock.run_delay() == before:
                break
        assert vm.stolen_ns() == before
    clock.close()


def test_the_command_has_a_figure_for_each_kind_of_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--json", "--rounds", str(ROUNDS), "--duration", "600"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["machine"], document["exit"]) == ("aarch64", "MMIO")
    assert [load["name"] for load in document["loads"]] == ["undisturbed", "preempted"]
    for load in document["loads"]:
        assert load["rounds"] == ROUNDS
        assert load["updates"] is None, "the structure does not count them"
        for figures in (load["update_ns"], load["difference_ns"], load["control_ns"]):
            assert figures["low"] <= figures["median"] <= figures["high"]
