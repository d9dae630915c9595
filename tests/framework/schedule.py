# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of tests on several workers: the longest first, so that none is left alone with one at the end.

A pytest plugin. It acts in the workers of pytest-xdist alone; elsewhere tests run file by file.
"""

from __future__ import annotations

import re
from typing import Final

import pytest

__all__ = ["pytest_collection_modifyitems"]

_SECONDS: Final[list[tuple[str, int]]] = [
    # The lab's tests of one CPU model are a group: one worker has them all, and boots that lab once.
    (r"lab/test_engine\.py.*neoverse-n1", 150),
    (r"lab/test_engine\.py.*cortex-a72", 149),
    (r"unit/test_invariants\.py", 40),
    (r"integration/test_kexec\.py.*userspace", 17),
    (r"integration/test_kexec\.py", 10),
    (r"lab/test_command\.py", 9),
    (r"integration/test_images\.py", 12),
    (r"integration/", 5),
    (r"unit/snapshot/test_kills\.py", 10),
    (r"unit/scenario/test_table\.py", 5),
    (r"behaviour/test_stealing\.py", 3),
    (r"unit/machine/test_gicv2\.py", 2),
]
"""How long a test, or its group, takes about, by a pattern of its name; all others take less than 2 s."""


def _seconds(item: pytest.Item) -> int:
    return next((seconds for pattern, seconds in _SECONDS if re.search(pattern, item.nodeid)), 0)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest first."""
    if hasattr(config, "workerinput"):
        items.sort(key=_seconds, reverse=True)
