# SPDX-License-Identifier: GPL-2.0-or-later
"""The scenarios' guests: the packaged bytes are those of the source, and both sides have the same numbers."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import pytest

from pvtime.abi.psci import VERSION_1_1, Psci
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.machine.layout import STOLEN_TIME
from pvtime.machine.psci import PsciCalls
from pvtime.probe.guest import boot, guest, probe_image
from pvtime.probe.mailbox import (
    ALIGN,
    BOXES,
    CLOCK_INSTRUCTIONS,
    CODE,
    LPT_CLOCK_INSTRUCTIONS,
    MAILBOXES,
    MAX_PROBES,
    SECONDARY_ENTRY,
    SIZE,
    Command,
    Mailbox,
    ProbeState,
)
from pvtime.probe.x86 import x86_image

TOOL = Path(__file__).parents[3] / "tools" / "build-guests"
PACKAGES = {
    "aarch64-linux-gnu-as": "binutils-aarch64-linux-gnu",
    "x86_64-linux-gnu-as": "binutils-x86-64-linux-gnu",
}
"""The assemblers; Debian has each in a package, and its own architecture's in binutils."""
PAGE = 0x1000


def numbers() -> dict[str, int]:
    """Return what the probe's source defines as plain numbers."""
    source = (resources.files("pvtime.probe") / "guests" / "probe.S").read_text()
    return {name: int(value, 0) for name, value in re.findall(r"\.equ\s+(\w+),\s+(\w+)\s", source)}


def test_the_packaged_guests_are_what_the_sources_give(tmp_path: Path) -> None:
    for assembler, package in PACKAGES.items():
        if shutil.which(assembler) is None:
            pytest.skip(f"{assembler} is missing: install {package}")
    subprocess.run([TOOL, tmp_path], check=True)
    packaged = {"probe.bin": probe_image(), "x86.bin": x86_image()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == packaged


def test_the_mailbox_is_where_the_source_says() -> None:
    fields = {name.upper(): getattr(Mailbox, name).offset for name, *_ in Mailbox._fields_}
    del fields["PADDING"]
    theirs = numbers()
    assert {name: theirs[name] for name in fields} == fields
    assert theirs["MAILBOX"] == ctypes.sizeof(Mailbox) == 2 * Mailbox.answered.offset


def test_commands_and_states_have_the_same_numbers() -> None:
    theirs = numbers()
    assert {command.name: theirs[command.name] for command in Command} == {c.name: c.value for c in Command}
    assert [theirs["POLLING"], theirs["RESTING"]] == [ProbeState.POLLING, ProbeState.RESTING]
    assert theirs["STOLEN_TIME"] == STOLEN_TIME.base


def test_the_length_of_a_clock_is_that_of_its_instructions() -> None:
    source = (resources.files("pvtime.probe") / "guests" / "probe.S").read_text()
    macro = source.partition(".macro\tlpt_clock gate=0")[2].partition(".endm")[0]
    path = re.sub(r"\t\.if\t\\gate\n.*?\t\.endif\n", "", macro, flags=re.DOTALL)
    instructions = re.findall(r"^(?:\d:)?\t([a-z]+)\t?", path, flags=re.MULTILINE)
    assert instructions[-2:] == ["add", "b"], "a reading that is repeated ends with these two"
    assert len(instructions) - 2 == LPT_CLOCK_INSTRUCTIONS
    assert instructions[2:4] == ["isb", "mrs"]
    assert len(instructions[2:4]) == CLOCK_INSTRUCTIONS


def test_what_lies_behind_the_code_has_room() -> None:
    theirs = numbers()
    assert len(probe_image()) == CODE <= theirs["TABLES"]
    assert theirs["TABLES"] + 3 * PAGE == theirs["MAILBOXES"] == MAILBOXES == BOXES[0]
    assert len(BOXES) == MAX_PROBES
    assert BOXES[-1] + ctypes.sizeof(Mailbox) <= theirs["SCRATCH"]
    assert theirs["SCRATCH"] + 64 * MAX_PROBES <= theirs["SIZE"] == SIZE
    assert ALIGN == PAGE


def test_it_is_entered_at_two_branches() -> None:
    words = [int.from_bytes(probe_image()[at : at + 4], "little") for at in (0, SECONDARY_ENTRY)]
    assert [word >> 26 for word in words] == [0b000101] * 2


def test_a_call_is_repeated_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    functions: list[int] = []

    def count(_calls: PsciCalls, _index: int, function: int, _args: Sequence[int]) -> int:
        functions.append(function)
        return VERSION_1_1

    monkeypatch.setattr(PsciCalls, "call", count)
    with boot(UnicornEngine, guest()) as probe:
        for times in (1, 2, 500):
            functions.clear()
            probe.repeat_call(0, Psci.VERSION, times)
            assert functions == [Psci.VERSION] * times
