# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples of the public API: immutable, and what their difference says."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pvtime
from pvtime.api.sample import Sample, VcpuFigures
from pvtime.report.model import Moment, VcpuRow

TIMES = st.integers(0, 2**63)


def figures(*times: int, starts: int = 1, structure: int | None = 5) -> VcpuFigures:
    """Return a vCPU's figures."""
    ran, stolen, idle, stopped, host = times or (0,) * 5
    return VcpuFigures(0, ran, stolen, idle, stopped, host, 7, starts, True, 9, structure, 3, None)


@given(before=st.lists(TIMES, min_size=5, max_size=5), growth=st.lists(TIMES, min_size=5, max_size=5))
def test_a_difference_is_the_growth_of_every_column_and_of_their_sum(
    before: list[int], growth: list[int]
) -> None:
    first = figures(*before)
    second = figures(*(own + more for own, more in zip(before, growth, strict=True)))
    grown = Sample(3.5, (second,)) - Sample(1.0, (first,))
    (vcpu,) = grown.vcpus
    assert [vcpu.ran, vcpu.stolen, vcpu.idle, vcpu.stopped, vcpu.host] == growth
    assert vcpu.elapsed == sum(growth) == second.elapsed - first.elapsed
    assert (grown.seconds, vcpu.index, vcpu.enabled, vcpu.truth, vcpu.loads) == (2.5, 0, True, 0, 0)


def test_what_began_again_or_is_not_known_has_no_difference() -> None:
    restarted = figures(starts=2) - figures()
    assert (restarted.starts, restarted.stolen) == (1, 0)
    assert (restarted.truth, restarted.structure, restarted.injected) == (None, None, None)
    assert (figures() - figures(structure=None)).structure is None


def test_a_sample_is_immutable_and_goes_into_json_and_tables() -> None:
    row = VcpuRow(0, ran_ns=1, truth_ns=4, structure_ns=4, enabled=True, loads=2, stolen_ns=3)
    sample = Sample.of(Moment(2.0, (row,)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.seconds = 1  # type: ignore[misc]
    document = json.loads(json.dumps(sample.to_dict()))
    assert document["vcpus"][0]["stolen"] == 3
    assert sample.rows() == [{"seconds": 2.0, **document["vcpus"][0]}]
    assert sample.vcpus[0].stolen_share == 0.75
    assert figures().stolen_share == 0


def test_a_sample_turns_into_a_data_frame_where_pandas_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sample(2.0, (figures(1, 2, 3, 4, 5), figures(6, 7, 8, 9, 10)))
    frames: list[object] = []
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: frames.append(rows)))
    sample.to_frame()
    assert frames == [sample.rows()]
    assert [row["ran"] for row in sample.rows()] == [1, 6]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pandas"):
        sample.to_frame()


def test_the_public_names_are_there_and_others_are_not() -> None:
    assert {name: getattr(pvtime, name) for name in pvtime.__all__}
    assert set(pvtime.__all__) <= set(dir(pvtime))
    assert len(pvtime.__all__) <= 11, "ten, and the version"
    with pytest.raises(AttributeError, match="has no attribute 'Gast'"):
        getattr(pvtime, "Gast")  # noqa: B009
