# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions by address, from whatever /proc/kallsyms says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pvtime.cost.lab_steps import Symbols

LINES = """\
ffff800008000000 T _text
ffff800008000100 t first
ffff800008000200 d data
ffff800008000300 W second\t[a_module]
ffff800008000300 t $x
not a line
"""


def test_an_address_is_in_the_function_before_it() -> None:
    symbols = Symbols(LINES.splitlines())
    assert symbols.function(0xFFFF800008000104) == ("first", 4)
    assert symbols.function(0xFFFF800008000204) == ("first", 0x104), "data is no function"
    assert symbols.function(0xFFFF800008000300) == ("second", 0)
    assert symbols.function(0x10) == ("", 0x10)


def test_a_function_is_found_by_its_name() -> None:
    symbols = Symbols(LINES.splitlines())
    assert symbols.address("second") == 0xFFFF800008000300
    assert symbols.address("data") is None
    assert symbols.address("$x") is None


@given(st.lists(st.text(max_size=40)), st.integers(0, (1 << 64) - 1))
def test_no_line_is_too_odd(lines: list[str], address: int) -> None:
    name, offset = Symbols(lines).function(address)
    assert 0 <= offset <= address
    assert isinstance(name, str)


@given(st.dictionaries(st.integers(0, (1 << 64) - 1), st.from_regex(r"[a-z_]{1,9}", fullmatch=True)))
def test_every_listed_function_starts_at_its_address(listed: dict[int, str]) -> None:
    symbols = Symbols(f"{address:016x} t {name}" for address, name in listed.items())
    assert all(symbols.function(address) == (name, 0) for address, name in listed.items())
