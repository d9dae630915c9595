# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers and fields as declarations: what goes in comes out, and nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.abi.layout import Field, Register

u64 = st.integers(0, (1 << 64) - 1)


class Sample(Register):
    """Neighbouring fields of several widths, and a gap."""

    top = Field(63, 60)
    wide = Field(47, 16)
    byte = Field(15, 8)
    bit = Field(7)
    low = Field(2, 0)


FIELDS = {"top": (63, 60), "wide": (47, 16), "byte": (15, 8), "bit": (7, 7), "low": (2, 0)}
names = st.sampled_from(list(FIELDS))


def width(name: str) -> int:
    """Bits of a field."""
    high, low = FIELDS[name]
    return high - low + 1


@given(value=u64, name=names)
def test_a_field_is_its_bits(value: int, name: str) -> None:
    _, low = FIELDS[name]
    assert getattr(Sample(value), name) == value >> low & (1 << width(name)) - 1


@given(value=u64, name=names, new=u64)
def test_changing_a_field_changes_no_other_bit(value: int, name: str, new: int) -> None:
    high, low = FIELDS[name]
    new &= (1 << width(name)) - 1
    changed = Sample(value).with_(**{name: new})
    assert isinstance(changed, Sample)
    assert getattr(changed, name) == new
    outside = ~(((1 << high + 1) - 1) ^ ((1 << low) - 1))
    assert changed & outside == value & outside


@given(st.fixed_dictionaries({name: st.integers(0, (1 << width(name)) - 1) for name in FIELDS}))
def test_a_register_of_fields_has_these_and_zeros(fields: dict[str, int]) -> None:
    made = Sample.of(**fields)
    assert {name: getattr(made, name) for name in FIELDS} == fields
    assert made & ~Sample(0).with_(**{name: (1 << width(name)) - 1 for name in FIELDS}) == 0


@given(name=names, excess=st.integers(0, 1 << 70))
def test_a_value_that_does_not_fit_is_refused(name: str, excess: int) -> None:
    value = (1 << width(name)) + excess
    with pytest.raises(ValueError, match=f"does not fit into {width(name)} bits"):
        Sample.of(**{name: value})
    with pytest.raises(ValueError, match="does not fit"):
        Sample(0).with_(**{name: -1 - excess})


def test_a_register_is_a_number() -> None:
    assert Sample.of(byte=0x12, bit=1) == 0x1280
    assert Sample(0x1280) | 1 == 0x1281
