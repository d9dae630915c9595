# SPDX-License-Identifier: GPL-2.0-or-later
"""tools/write-readers: its parsers, on what the programs printed in one guest (readers.json)."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).with_name("readers.json")

EXPECTED = {
    "/proc/stat": (64.61, 36.63, 18.32, None),
    "busybox top": (None, 31.0, 15.0, 44.0),
    "procps top": (61.5, 19.4, 19.1, 60.8),
    "vmstat": (54.0, 29.0, 17.0, None),
    "mpstat": (54.17, 25.89, 19.94, None),
    "htop": (51.9, 27.5, 20.6, 22.1),
    "psutil": (53.6, 30.4, 16.1, 52.1),
    "node_exporter": (62.58, 28.92, 20.77, None),
}
"""By reader: stolen, idle and busy percent, and the CPU% of the busy process."""


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    """Return the tool as a module."""
    name, path = "write_readers", str(ROOT / "tools" / "write-readers")
    spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their types up
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.dont_write_bytecode = writes
        del sys.modules[name]


@pytest.fixture
def outputs() -> dict[str, Any]:
    """Return the outputs of one case: Linux 6.1, half busy, 60 % injected."""
    (case,) = json.loads(KEPT.read_text())["cases"]
    return dict(case["outputs"])


def test_every_reader_is_understood(tool: ModuleType, outputs: dict[str, Any]) -> None:
    read = dict(tool.readings(outputs))
    assert list(read) == list(EXPECTED)
    for name, (steal, *others) in EXPECTED.items():
        one = read[name]
        assert (one.steal is None) == (steal is None)
        assert [one.steal or 0, one.idle, one.busy, one.process or 0] == pytest.approx(
            [steal or 0, *(other or 0 for other in others)], abs=0.01
        )
    # The kernel's columns do not add up; percentages that are divided by their own sum do.
    assert read["/proc/stat"].total > 115
    for name in ("procps top", "vmstat", "mpstat", "psutil"):
        assert read[name].total == pytest.approx(100, abs=1)


def test_the_page_has_each_case_beside_the_truth(tool: ModuleType) -> None:
    document = json.loads(KEPT.read_text())
    (case,) = document["cases"]
    document["cases"] = [case | {"load": load} for load in ("idle", "half", "busy")]
    page = tool.page(document)
    assert "| half | 60 % | **63 / 11 / 26** | 65 / 37 / 18 | - / 31 / 15 | 62 / 19 / 19 |" in page
    assert "| 6.1 | half | 60 % | **26 %** | 44 % | 61 % | 22 % | 52 % |" in page
    case["structure_is_truth"] = False
    with pytest.raises(SystemExit, match="was not the truth"):
        tool.page(document | {"cases": [case]})


@pytest.mark.parametrize("name", ["busybox top", "procps top", "mpstat", "htop"])
def test_what_is_not_understood_is_refused(tool: ModuleType, outputs: dict[str, Any], name: str) -> None:
    with pytest.raises((ValueError, StopIteration, IndexError)):
        tool.PARSERS[name]("another version of it\n", None)


def test_the_page_in_docs_is_of_this_tool(tool: ModuleType) -> None:
    page = (ROOT / "docs" / "readers.md").read_text()
    assert page.startswith(tool.TITLE)
    for name in [*tool.PARSERS, "/proc/stat", "node_exporter"]:
        assert f" {name} |" in page
