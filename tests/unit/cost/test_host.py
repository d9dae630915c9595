# SPDX-License-Identifier: GPL-2.0-or-later
"""The refusals of ``pvtime cost``, and its sentences."""

from __future__ import annotations

import errno
import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from pvtime.cli.command import main
from pvtime.cost.host import LoadCost, measure_host
from pvtime.cost.host_table import verdict
from pvtime.cost.statistics import MedianInterval
from pvtime.errors import UsageError

LOAD = LoadCost(
    name="undisturbed",
    rounds=100,
    without=None,
    with_=None,
    difference=MedianInterval(85, 80, 90, 0.995),
    control=MedianInterval(5, 4, 6, 0.995),
    loads=1600,
    updates=1600,
    updates_without=0,
)


def test_a_difference_above_the_controls_is_told_from_noise() -> None:
    assert verdict(LOAD) == (
        "undisturbed: an update takes 80 ns (74 to 86 with 99% confidence), "
        "which can be told from this host's noise."
    )


def test_one_that_may_be_the_controls_is_not() -> None:
    load = replace(LOAD, control=MedianInterval(5, -40, 80, 0.995))
    assert load.distinguishable is False
    assert verdict(load) == (
        "undisturbed: the difference is 80 ns (0 to 130 with 99% confidence), "
        "which cannot be told from this host's noise."
    )


@pytest.mark.parametrize("absent", [{"control": None}, {"difference": None}])
def test_without_an_interval_there_is_no_verdict_but_advice(absent: dict[str, None]) -> None:
    load = replace(LOAD, rounds=7, **absent)  # type: ignore[arg-type]
    assert (load.update, load.distinguishable) == (None, None)
    assert verdict(load) == (
        "undisturbed: too few rounds for an interval (7): "
        "give more of them and more time (--rounds, --duration)."
    )


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_a_host_without_kvm_is_told_so(machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(UsageError, match="there is no such file: this host's kernel has no KVM"):
        measure_host(1, 1, str(tmp_path / "kvm"))


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_a_user_who_may_not_is_told_what_to_do(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, _flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UsageError, match=r"/dev/kvm: EACCES: .* join the group that owns /dev/kvm"):
        measure_host(1, 1)


def test_an_architecture_without_a_guest_of_ours_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert main(["cost"]) == 2
    assert capsys.readouterr().err == (
        "pvtime: an update's cost is measured on arm64 and x86_64 hosts, and this one is riscv64\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "give 1 to 100000"),
        (["--rounds", "many"], "'many' is not a possible number"),
        (["--duration", "0"], "give a positive number of seconds"),
    ],
)
def test_impossible_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cost", *arguments]) == 2
    assert message in capsys.readouterr().err
