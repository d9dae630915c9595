# SPDX-License-Identifier: GPL-2.0-or-later
"""Contents of the packages: the docs beside the program, and the whole checkout in the source archive."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pvtime import __version__

ROOT = Path(__file__).parents[2]


def test_the_docs_that_the_readme_links_to_are_installed_beside_it() -> None:
    data_files = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    installed = {
        str(Path(folder).relative_to("share/doc/pvtime") / path.name)
        for folder, patterns in data_files.items()
        for pattern in patterns
        for path in ROOT.glob(pattern)
    }
    linked = set(re.findall(r"\]\((docs/[^)#]*)", (ROOT / "README.md").read_text()))
    assert linked
    assert linked | {"README.md", "CHANGELOG.md"} <= installed


def test_the_source_archive_has_what_the_tests_and_the_makefile_need() -> None:
    words = (ROOT / "MANIFEST.in").read_text().split()
    assert {
        "docs",
        "examples",
        "tests",
        "tools",
        "bench",
        "Makefile",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
    } <= set(words)


def test_the_command_is_installed() -> None:
    (script,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["script-files"]
    assert (ROOT / script).read_text().startswith("#!python\n"), "pip puts its Python into this line alone"


def test_the_changes_of_this_version_are_told() -> None:
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


def test_every_file_of_the_packages_is_installed() -> None:
    # The module's and the judge's sources, the userland: what is no Python is installed if a pattern says so.
    package = ROOT / "src" / "pvtime"
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "pvtime"
    ]
    installed = {path for pattern in patterns for path in package.glob(pattern)}
    data = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {"module", "image", "init", "guests"} <= {part for path in data for part in path.parts}
    assert data - installed == set(), "no pattern of package-data has them"
