# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference in docs/api.md is written from the docstrings of today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pvtime

ROOT = Path(__file__).parents[3]


def test_the_reference_is_what_the_docstrings_say() -> None:
    tool = ROOT / "tools" / "write-api"
    reference = subprocess.run([sys.executable, tool], capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "api.md").read_text()
    assert page.endswith(reference), "write it again: tools/write-api docs/api.md"
    assert "``" not in reference
    assert ":meth:" not in reference
    for name in pvtime.__all__:
        assert name == "__version__" or f"`pvtime.{name}`" in reference or f"| `{name}` |" in reference
