# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that tests of several modules start from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from framework.interactive import save_at_prompt
from pvtime.images.cache import exclusive, silent
from pvtime.images.store import StockImages


@pytest.fixture
def saved_at_prompt(tmp_path_factory: pytest.TempPathFactory, stock_images: StockImages) -> Path:
    """Return an interactive guest that was saved at its prompt: all workers have the same."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    saved = root / "at-prompt"
    with exclusive(root / "at-prompt.lock", silent):
        if not saved.exists():
            save_at_prompt(saved)
    return saved
