# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures and options for every test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from framework import evidence, schedule, skips
from framework.engines import CHOICES
from pvtime.errors import ImagesError
from pvtime.images.cache import cache_directory
from pvtime.images.store import StockImages
from pvtime.images.store import stock_images as fetch

PLUGINS = (evidence, schedule, skips)

with contextlib.suppress(ImportError):  # the lab does not have it, nor any test there that needs it
    from hypothesis import HealthCheck, settings

    # No test depends on how busy the host is. A failure prints what reproduces it, as each run has other
    # examples.
    settings.register_profile(
        "pvtime",
        max_examples=60,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.register_profile("long", parent=settings.get_profile("pvtime"), max_examples=2000)
    settings.load_profile("pvtime")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what behavioural tests run on."""
    parser.addoption(
        "--engine", choices=sorted(CHOICES), default="unicorn", help="the engine for tests/behaviour"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests of KVM itself, and of the module in it, where another engine is chosen."""
    of_kvm = [Path(__file__).with_name(name) for name in ("kmod", "kvm")]
    return True if collection_path in of_kvm and config.getoption("--engine") != "kvm" else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for ``engine`` each way to run the chosen one."""
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", CHOICES[metafunc.config.getoption("--engine")], ids=str)


def pytest_configure(config: pytest.Config) -> None:
    """Let the commands that tests start hear of signals, of which a job in the background ignores some."""
    for plugin in PLUGINS:
        config.pluginmanager.register(plugin)
    # Compiling pvtime's modules takes a third of the CPU time from a command's start to the guest's.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # The machines of the tests are not among the user's.
    runtime = tempfile.mkdtemp(prefix="pvtime-test-")
    config.add_cleanup(lambda: shutil.rmtree(runtime, ignore_errors=True))
    os.environ["XDG_RUNTIME_DIR"] = runtime


@pytest.fixture(scope="session")
def stock_images() -> StockImages:
    """Return the stock kernel and busybox: the user's cached ones, fetched by the first test to need them."""
    try:
        return fetch(cache_directory())
    except ImagesError as error:
        pytest.skip(f"no stock images: {error}")
