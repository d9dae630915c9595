# SPDX-License-Identifier: GPL-2.0-or-later
"""Evidence in a failure's text: the console and the figures of every guest that the test has or had.

A pytest plugin, and what those who start guests for tests call: :func:`witness`, :func:`record`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from pvtime.engine.base import Engine

__all__ = ["Evidence", "guest_evidence", "pytest_runtest_makereport", "record", "witness"]

Evidence = dict[str, str]
"""Text by title."""

_LONGEST: Final = 8000
"""Characters of one text, from its end."""

_live: list[Callable[[], Evidence]] = []
_recorded: list[Evidence] = []


def record(title: str, text: str) -> None:
    """Keep a text for the failure of the test that runs, should it fail."""
    _recorded.append({title: text})


@contextmanager
def witness(tell: Callable[[], Evidence]) -> Iterator[None]:
    """Ask ``tell`` when the test fails: where this block raises, or while it is open."""
    _live.append(tell)
    try:
        yield
    except BaseException:
        _recorded.append(_ask(tell))
        raise
    finally:
        _live.remove(tell)


def guest_evidence(console: Callable[[], str], engine: Engine) -> Evidence:
    """Return what a guest has printed, and what its engine says of its vCPUs."""
    samples = "\n".join(map(str, engine.sample()))
    return {"guest's console": console(), f"guest's vCPUs, outcome {engine.wait(0)}": samples}


def _ask(tell: Callable[[], Evidence]) -> Evidence:
    try:
        return tell()
    except Exception as error:  # what is broken is what the test is about: its failure comes first
        return {"evidence": f"not to be had: {type(error).__name__}: {error}"}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the evidence into the report of a failure."""
    report = yield
    if report.failed:
        for evidence in [*_recorded, *map(_ask, _live)]:
            report.sections += [(title, text[-_LONGEST:]) for title, text in evidence.items()]
    if call.when == "teardown" or report.failed:
        _recorded.clear()
    return report
