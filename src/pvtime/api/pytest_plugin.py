# SPDX-License-Identifier: GPL-2.0-or-later
"""A pytest plugin with a fixture ``guest``: a guest that runs for the time of one test.

It is loaded into every pytest of an environment with pvtime, so it imports nothing of pvtime before a test
wants a guest.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pvtime.api.guest import Guest

__all__ = ["guest", "pytest_addoption", "pytest_configure", "pytest_runtest_makereport"]

MARKER = "pvtime_guest"
TAIL = 4000
"""Characters of the console's end that the report of a failed test has."""

_GUEST = pytest.StashKey["Guest"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for guests."""
    parser.getgroup("pvtime").addoption(
        "--pvtime-kernel",
        metavar="IMAGE",
        help="arm64 Image that the fixture guest boots; default: a stock kernel",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", f"{MARKER}(**parameters): parameters of pvtime.Guest for the fixture guest"
    )


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """Start a guest with the marker's parameters, and end it after the test."""
    import pvtime

    parameters = {}
    if kernel := request.config.getoption("--pvtime-kernel"):
        parameters["kernel"] = kernel
    marker = request.node.get_closest_marker(MARKER)
    if marker is not None:
        parameters |= marker.kwargs
    with pvtime.Guest(**parameters) as running:
        request.node.stash[_GUEST] = running
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of the guest's console to the report of a test that failed."""
    report = yield
    running = item.stash.get(_GUEST, None)
    if running is not None and report.failed:
        report.sections.append(("the guest's console", running.console.text[-TAIL:]))
    return report
