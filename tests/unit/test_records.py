# SPDX-License-Identifier: GPL-2.0-or-later
"""The dataclass of what a run imports is as good as that of the standard library."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import field

import pytest

from pvtime import records

RUN = (
    "pvtime.cli.run",
    "pvtime.run.run_machine",
    "pvtime.run.source",
    "pvtime.run.warm",
    "pvtime.engine.unicorn.engine",
    "pvtime.engine.kvm.engine",
    "pvtime.images.store",
    "pvtime.userland.build",
)
"""Modules of a run that import all that it needs before the guest's first instruction."""


@records.dataclass(frozen=True)
class Shared:
    first: int
    secret: bytes = field(default=b"", repr=False)


@dataclasses.dataclass(frozen=True)
class Generated:
    first: int
    secret: bytes = field(default=b"", repr=False)


@records.dataclass
class Mutable:
    first: list[int]


@records.dataclass(slots=True)
class Slotted:
    first: int


def test_it_looks_as_the_generated_one_does() -> None:
    assert repr(Shared(1, b"x")) == repr(Generated(1, b"x")).replace("Generated", "Shared")


def test_it_has_the_hash_of_the_generated_one() -> None:
    assert hash(Shared(1, b"x")) == hash(Generated(1, b"x"))


def test_it_equals_one_of_its_own_class_with_the_same_values() -> None:
    assert Shared(1, b"x") == Shared(1, b"x") != Shared(1, b"y")
    other_class: object = Generated(1)
    assert Shared(1) != other_class
    assert Slotted(2) == Slotted(2) != Slotted(3)


def test_what_can_change_has_no_hash() -> None:
    assert Mutable([1]) == Mutable([1])
    with pytest.raises(TypeError, match="unhashable"):
        hash(Mutable([1]))


def test_slots_take_no_other_attribute() -> None:
    with pytest.raises(AttributeError):
        Slotted(2).other = 3  # type: ignore[attr-defined]


def test_the_standard_library_knows_it_for_a_dataclass() -> None:
    assert dataclasses.asdict(dataclasses.replace(Shared(1), first=2)) == {"first": 2, "secret": b""}


def test_a_run_imports_no_class_whose_comparison_is_generated() -> None:
    program = (
        "import dataclasses, sys\n"
        "make = dataclasses._process_class\n"
        "def process(cls, init, repr, eq, *others):\n"
        "    if eq and cls.__module__.startswith('pvtime.'): print(cls.__module__, cls.__qualname__)\n"
        "    return make(cls, init, repr, eq, *others)\n"
        "dataclasses._process_class = process\n"
        f"import {', '.join(RUN)}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "", "take dataclass from pvtime.records"
