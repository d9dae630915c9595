# SPDX-License-Identifier: GPL-2.0-or-later
"""One emulated arm64 KVM host for all tests of a CPU model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvtime.images.store import StockImages
from pvtime.kmod.build import COMPILER
from pvtime.lab.initramfs import LabExtras
from pvtime.lab.lab import Lab
from pvtime.lab.qemu import CPUS, PROGRAM, LabOptions

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def qemu() -> str:
    """Return the emulator's name, where it is installed."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed: there is no lab (Debian: apt install qemu-system-arm)")
    return PROGRAM


@pytest.fixture(scope="module", params=CPUS)
def lab(request: pytest.FixtureRequest, qemu: str, stock_images: StockImages) -> Iterator[Lab]:
    """Return a booted lab with these very tests in it: with VHE and without."""
    module = shutil.which(COMPILER) is not None
    programs = ("qemu-system-arm",) if request.param == CPUS[0] else ()  # a VMM of others, for pvtime who
    extras = LabExtras(
        programs=programs, distributions=("pytest",), trees={"root/tests": TESTS}, module=module
    )
    with Lab(LabOptions(cpu=request.param), extras=extras) as lab:
        yield lab
