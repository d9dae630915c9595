# SPDX-License-Identifier: GPL-2.0-or-later
"""The import rule: packages import only downwards, and nobody takes another package's private names."""

from __future__ import annotations

from pathlib import Path

import pytest
from imports import Import, imports_of

ROOT = Path(__file__).parents[2] / "src"

LAYERS = ("cli", "report", "engine", "machine", "steal", "abi")
"""From the top: each may import those behind it."""

BESIDE = {
    "doctor": {"engine", "machine", "steal", "abi"},  # what stands between a machine and stolen time
    "userland": {"abi"},  # what runs in the stock guest, and the protocol that it speaks
    "images": {"abi", "userland"},  # the stock guest's files
    "transfer": {"engine", "machine", "steal", "abi"},  # a machine that leaves its process
    "lab": {"abi", "images", "userland"},  # a KVM host in an emulator, for the tests of the kvm engine
    # what can happen to stolen time
    "scenario": {"engine", "machine", "steal", "abi", "images", "userland", "report", "transfer"},
}
"""Packages that stand beside the layers, and what they may import."""

ABOVE = {"cli": {"doctor", "images", "lab", "scenario", "transfer", "userland"}, "report": {"userland"}}
"""Which layers may import those."""

FREE = {"errors", "__init__"}
"""Modules that every package may import; they import nothing of pvtime."""


def allowed(package: str) -> set[str]:
    """Return what the modules of ``package`` may import, itself included."""
    if package in FREE:
        return {package}
    if package in BESIDE:
        return {package, *BESIDE[package], *FREE}
    at = LAYERS.index(package)
    return {*LAYERS[at:], *ABOVE.get(package, set()), *FREE}


def package_of(module: str) -> str:
    """Return ``steal`` for ``pvtime.steal.account``."""
    return [*module.split("."), "__init__"][1]


def target(found: Import) -> str:
    """Return the package that an import reaches into; ``from pvtime import steal`` reaches into steal."""
    if found.module == "pvtime" and found.name and (ROOT / "pvtime" / found.name).is_dir():
        return found.name
    return package_of(found.module)


def is_private(name: str) -> bool:
    """Whether ``name`` is its package's own; ``__version__`` and its like are not."""
    return name.startswith("_") and not name.endswith("__")


def home(found: Import) -> str:
    """Return the package whose file imports."""
    return package_of(".".join(found.file.relative_to(ROOT).with_suffix("").parts))


def every_import() -> list[Import]:
    """Return all imports of pvtime's own modules in its sources."""
    files = sorted((ROOT / "pvtime").rglob("*.py"))
    found = (one for file in files for one in imports_of(ROOT, file))
    return [one for one in found if one.module.split(".")[0] == "pvtime"]


def test_packages_import_only_downwards() -> None:
    wrong = [
        f"{one} ({home(one)} may not)" for one in every_import() if target(one) not in allowed(home(one))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_package_takes_the_private_names_of_another() -> None:
    wrong = [
        str(one)
        for one in every_import()
        if home(one) != target(one)
        and any(is_private(part) for part in [*one.module.split("."), one.name or ""])
    ]
    assert not wrong, "\n".join(wrong)


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in (ROOT / "pvtime").glob("*/__init__.py")}
    assert packages <= {*LAYERS, *BESIDE}, "a new package needs its place in this file and in the design"


@pytest.mark.parametrize(
    ("line", "module", "name"),
    [
        ("import pvtime.cli.run", "pvtime.cli.run", None),
        ("from pvtime.cli import run", "pvtime.cli", "run"),
        ("from . import account", "pvtime.steal", "account"),
        ("from ..cli import run", "pvtime.cli", "run"),
        ("def f():\n    from ..cli.run import x", "pvtime.cli.run", "x"),
    ],
)
def test_every_form_of_import_is_found(tmp_path: Path, line: str, module: str, name: str | None) -> None:
    file = tmp_path / "pvtime" / "steal" / "clock.py"
    file.parent.mkdir(parents=True)
    file.write_text(line)
    assert [(one.module, one.name) for one in imports_of(tmp_path, file)] == [(module, name)]
