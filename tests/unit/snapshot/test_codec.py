# SPDX-License-Identifier: GPL-2.0-or-later
"""States survive JSON, and JSON that says anything else than a state is refused with the field's path."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.errors import SavedStateError
from pvtime.schema import U8
from pvtime.snapshot.codec import JsonObject, decode, encode, from_json, to_json


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    number: int
    data: bytes


@dataclass
class Outer:
    many: list[Inner]
    named: dict[str, Inner]
    perhaps: int | None
    pair: tuple[int, ...]
    numbers: frozenset[int]
    colour: Colour
    free: JsonObject
    flag: bool
    byte: U8
    bytes_by_name: dict[str, U8]
    some_bytes: list[U8]
    text: str = "a default"


inners = st.builds(Inner, st.integers(-(1 << 992), 1 << 992), st.binary())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
outers = st.builds(
    Outer,
    many=st.lists(inners, max_size=3),
    named=st.dictionaries(st.text(), inners, max_size=3),
    perhaps=st.none() | st.integers(),
    pair=st.lists(st.integers(), max_size=3).map(tuple),
    numbers=st.frozensets(st.integers(), max_size=3),
    colour=st.sampled_from(Colour),
    free=st.dictionaries(st.text(), json_values, max_size=3),
    flag=st.booleans(),
    byte=st.integers(0, 255),
    bytes_by_name=st.dictionaries(st.text(), st.integers(0, 255), max_size=3),
    some_bytes=st.lists(st.integers(0, 255), max_size=3),
    text=st.text(),
)


@given(state=outers)
def test_a_state_survives(state: Outer) -> None:
    for text in (to_json(encode(state)), to_json(encode(state), compact=True)):
        assert decode(Outer, from_json(text, "state"), "state") == state


EXAMPLE = Outer(
    many=[Inner(1, b"\0\1")],
    named={"k": Inner(2, b"")},
    perhaps=None,
    pair=(1, 2),
    numbers=frozenset({3}),
    colour=Colour.RED,
    free={"a": [True]},
    flag=True,
    byte=4,
    bytes_by_name={"a": 5, "b": 6},
    some_bytes=[7, 8],
)


def test_people_read_a_field_a_line_and_peers_one_line() -> None:
    assert to_json({"a": 1, "b": [2]}).splitlines() == ["{", ' "a": 1,', ' "b": [', "  2", " ]", "}"]
    assert to_json({"a": 1, "b": [2]}, compact=True) == '{"a": 1, "b": [2]}'


WRONG: dict[str, tuple[Callable[[Any], object], str]] = {
    "bool for int": (lambda d: d["many"][0].update(number=True), r"s.many\[0\].number: is a bool, not a n"),
    "float for int": (lambda d: d.update(perhaps=1.0), "s.perhaps: is a fraction, not a number"),
    "int for bool": (lambda d: d.update(flag=1), "s.flag: is a number, not a bool"),
    "text for int": (lambda d: d.update(pair=[1, "2"]), r"s.pair\[1\]: is a text, not a number"),
    "null for int": (lambda d: d["named"]["k"].update(number=None), r"s.named\['k'\].number: is null, not a"),
    "int for text": (lambda d: d.update(text=3), "s.text: is a number, not a text"),
    "text for list": (lambda d: d.update(pair="12"), "s.pair: is a text, not a list"),
    "object for list": (lambda d: d.update(many={}), "s.many: is an object, not a list"),
    "list for object": (lambda d: d.update(free=[]), "s.free: is a list, not an object"),
    "list for dataclass": (lambda d: d["named"].update(k=[1]), r"s.named\['k'\]: is a list, not an object"),
    "text for set": (lambda d: d.update(numbers="3"), "s.numbers: is a text, not a list"),
    "text in set": (lambda d: d.update(numbers=["3"]), "s.numbers.*: is a text, not a number"),
    "no member": (lambda d: d.update(colour="green"), "s.colour: is not one of red, blue$"),
    "number for member": (lambda d: d.update(colour=1), "s.colour: is a number, not a text"),
    "above": (lambda d: d.update(byte=256), "s.byte: is not a number from 0 to 255$"),
    "bool in its range": (lambda d: d.update(byte=True), "s.byte: is a bool, not a number$"),
    "one above": (
        lambda d: d["some_bytes"].append(256),
        r"s.some_bytes\[2\]: is not a number from 0 to 2",
    ),
    "one bool": (lambda d: d["some_bytes"].append(True), r"s.some_bytes\[2\]: is a bool, not a number$"),
    "one below": (lambda d: d["bytes_by_name"].update(b=-1), r"s.bytes_by_name\['b'\]: is not a number f"),
    "one text": (lambda d: d["bytes_by_name"].update(b="1"), r"s.bytes_by_name\['b'\]: is a text, not a n"),
    "one number for a name": (
        lambda d: d["bytes_by_name"].update({1: 1}),
        "s.bytes_by_name.*: is a number, n",
    ),
    "missing": (lambda d: d["many"][0].pop("data"), r"s.many\[0\]: has no data$"),
    "missing with a default": (lambda d: d.pop("text"), "s: has no text$"),
    "unknown": (lambda d: d["named"]["k"].update(more=1), r"s.named\['k'\]: has the unknown field 'more'$"),
    "no base64": (lambda d: d["many"][0].update(data="A"), r"s.many\[0\].data: is not base64 text"),
    "loose base64": (lambda d: d["many"][0].update(data="AA==AA"), r"s.many\[0\].data: is not base64 text"),
    "no ASCII": (lambda d: d["many"][0].update(data="\u1234"), r"s.many\[0\].data: is not base64 text"),
}


@pytest.mark.parametrize("what", WRONG)
def test_anything_else_is_refused_with_its_path(what: str) -> None:
    document = encode(EXAMPLE)
    change, message = WRONG[what]
    change(document)
    with pytest.raises(SavedStateError, match=f"^{message}"):
        decode(Outer, document, "s")


@given(document=json_values)
def test_no_document_makes_it_fail_otherwise(document: Any) -> None:
    with pytest.raises(SavedStateError, match=r"^s: "):
        decode(Outer, document, "s")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ('{"a": 1', "is not valid JSON"),
        (b'{"a": "\xff"}', "is not UTF-8 text: byte 7 is wrong"),
        ('{"a": %s}' % ("9" * 641), "a number has 641 digits"),
        ('{"a": %s}' % ("[" * 200_000), "is nested too deeply"),
        ('{"a": 1,\n "b": x}', "is not valid JSON: look at line 2, column 7"),
    ],
)
def test_what_is_no_json_object_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(SavedStateError, match=message):
        from_json(text, "s")


def test_a_run_that_saves_nothing_does_not_import_the_library() -> None:
    run = "pvtime.cli.run, pvtime.machine.machine, pvtime.engine.unicorn.engine, pvtime.snapshot.codec"
    script = f"import sys, {run}; print([name for name in ('cattrs', 'json') if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
