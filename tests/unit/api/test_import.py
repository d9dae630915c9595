# SPDX-License-Identifier: GPL-2.0-or-later
"""The public API costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys


def modules_after(code: str) -> set[str]:
    """Return the modules that a program has imported at its end."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_pvtime_imports_nothing_else_of_it() -> None:
    bare = modules_after("")
    assert modules_after("import pvtime") - bare == {"pvtime"}


def test_the_pytest_plugin_imports_nothing_before_a_guest_is_wanted() -> None:
    imported = modules_after("import pytest, pvtime.api.pytest_plugin")
    assert {name for name in imported if name.split(".")[0] == "pvtime"} == {
        "pvtime",
        "pvtime.api",
        "pvtime.api.pytest_plugin",
    }
    assert "unicorn" not in imported
