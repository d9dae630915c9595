# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures for every test, and what a skipped test means where nobody looks."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from framework.engines import CHOICES
from pvtime.errors import ImagesError
from pvtime.images.cache import cache_directory
from pvtime.images.store import StockImages
from pvtime.images.store import stock_images as fetch

MUST_RUN = os.environ.get("PVTIME_CI") == "1"
"""A test that did not run has shown nothing: where .ci/run says so, a skip is a failure."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what behavioural tests run on."""
    parser.addoption(
        "--engine", choices=sorted(CHOICES), default="unicorn", help="the engine for tests/behaviour"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests of KVM itself where another engine is chosen."""
    if collection_path == Path(__file__).with_name("kvm") and config.getoption("--engine") != "kvm":
        return True
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for ``engine`` each way to run the chosen one."""
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", CHOICES[metafunc.config.getoption("--engine")], ids=str)


def pytest_configure(config: pytest.Config) -> None:
    """Let the commands that tests start hear of signals, of which a job in the background ignores some."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a failure of a skip. An expected failure (xfail) has run, and stays what it is."""
    report = yield
    if MUST_RUN and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and PVTIME_CI=1 wants every test to run: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for a whole module that was skipped while it was imported."""
    report = yield
    if MUST_RUN and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and PVTIME_CI=1 wants every test to run: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def stock_images() -> StockImages:
    """Return the stock kernel and busybox: the user's cached ones, fetched by the first test to need them."""
    try:
        return fetch(cache_directory())
    except ImagesError as error:
        pytest.skip(f"no stock images: {error}")
