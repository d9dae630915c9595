# SPDX-License-Identifier: GPL-2.0-or-later
"""Which worker of pytest-xdist runs what: the longest first, and together what shares a fixture that is dear.

A pytest plugin. Without workers tests run in the order of their files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

__all__ = ["group", "pytest_collection_modifyitems", "pytest_xdist_make_scheduler"]

SHARED: Final = re.compile(r'scope="module"|^@cache\b', re.MULTILINE)
"""Source of what the tests of a module make once: each worker that has one of them makes it again."""


@dataclass(frozen=True)
class _Long:
    """Tests whose names match a pattern."""

    pattern: str
    seconds: int
    """How long one takes, or all of a group, on a quiet host."""
    together: bool = False
    """They share a fixture: one worker has them all."""


_LONG: Final = [
    # Both labs on one worker: each emulates a host with two CPUs, and a guest in there has 60 s to boot.
    _Long(r"lab/test_engine\.py", 250, together=True),
    _Long(r"lab/test_module\.py", 80, together=True),
    _Long(r"lab/test_lab_cost\.py", 40, together=True),
    _Long(r"integration/test_(alerts|boot|saved_aarch32|saved_linux|starved_guest|warm)\.py", 15),
    _Long(r"unit/test_invariants\.py", 13),
    _Long(r"integration/test_kexec\.py.*\[userspace", 11, together=True),
    _Long(r"integration/test_images\.py", 12, together=True),
    _Long(r"integration/test_kexec\.py.*\[hypervisor", 10, together=True),
    _Long(r"lab/test_command\.py.*(signal|file)", 9),
    _Long(r"unit/snapshot/test_kills\.py", 10),
    _Long(r"integration/", 5),
    _Long(r"unit/scenario/test_table\.py", 5),
    _Long(r"unit/test_suite\.py", 4),
    _Long(r"unit/machine/test_gicv2\.py", 2),
]
"""All others take less than 2 s."""


def _of(nodeid: str) -> _Long | None:
    return next((each for each in _LONG if re.search(each.pattern, nodeid)), None)


@cache
def _shares(module: Path) -> bool:
    return SHARED.search(module.read_text()) is not None


def group(nodeid: str, root: Path) -> str:
    """Return the name of the tests that one worker has together: the test's own, if it is alone."""
    long = _of(nodeid)
    if long and long.together:
        return long.pattern
    module = nodeid.partition("::")[0]
    return module if _shares(root / module) else nodeid


def _seconds(item: pytest.Item) -> int:
    long = _of(item.nodeid)
    return long.seconds if long else 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest first."""
    if hasattr(config, "workerinput"):
        items.sort(key=_seconds, reverse=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Return a scheduler that keeps this order.

    xdist_group marks would do for the groups, but pytest-xdist 3.8 does not see them with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid, config.rootpath)

    config.option.loadscopereorder = False
    return Scheduling(config, log)
