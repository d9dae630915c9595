# SPDX-License-Identifier: GPL-2.0-or-later
"""The rule of integration: a skipped test is a failure, for a test that did not run has shown nothing.

A pytest plugin. It acts where the environment has PVTIME_CI=1, in the workers of pytest-xdist too.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Final, TypeVar

import pytest

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

_MUST_RUN: Final = os.environ.get("PVTIME_CI") == "1"

R = TypeVar("R", pytest.TestReport, pytest.CollectReport)


def _refuse_skip(report: R) -> R:
    # An expected failure (xfail) has run, and stays what it is.
    if _MUST_RUN and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and PVTIME_CI=1 wants every test to run: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a failure of a skipped test."""
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Make a failure of a module that was skipped while it was imported."""
    return _refuse_skip((yield))
