# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python side of the lab: pvtime as it runs here, and the packages that it needs.

All of them are pure Python, so that the installed files serve on arm64 as they are. Unicorn is not and
stays out: the lab is there for the kvm engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import pvtime
from pvtime.errors import UsageError
from pvtime.lab.tree import file_entries, tree_entries
from pvtime.userland.cpio import Entry, regular

__all__ = ["REQUIRED", "closure", "distribution_entries", "pvtime_entries"]

SITE: Final = "usr/lib/python3/dist-packages"
"""Debian's Python looks here by itself."""

REQUIRED: Final = ("cattrs", "click", "fdt", "rich")
"""What pvtime imports there."""

START: Final = b"#!/usr/bin/python3\nimport sys\nfrom pvtime.cli import main\nsys.exit(main())\n"

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


def pvtime_entries(python: str) -> Iterator[Entry]:
    """Yield the pvtime that runs here, wherever it was installed or checked out, and its command."""
    yield from tree_entries(Path(pvtime.__file__).parent, f"{SITE}/pvtime/", python)
    yield regular("usr/bin/pvtime", START, 0o755)


def closure(names: Iterable[str]) -> list[Distribution]:
    """Return the installed distributions ``names`` and what they need, sorted by name.

    :raises UsageError: one of them is not installed.
    """
    found: dict[str, Distribution] = {}
    waiting = [(name, False) for name in names]
    while waiting:
        name, optional = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()  # as PEP 503 compares names
        if key in found:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            if optional:
                continue
            raise UsageError(
                f"the Python package {name} is not installed: the lab takes it from here"
            ) from None
        for requirement in found[key].requires or ():
            if "extra ==" not in requirement and (match := _NAME.match(requirement)):
                waiting.append((match.group(), ";" in requirement))
    return [found[key] for key in sorted(found)]


def distribution_entries(distributions: Iterable[Distribution], python: str) -> Iterator[Entry]:
    """Yield the files of installed distributions, but for their commands (``../../bin``) and old bytecode."""
    for installed in distributions:
        for file in sorted(installed.files or (), key=str):
            path = Path(str(installed.locate_file(file)))
            if ".." not in file.parts and "__pycache__" not in file.parts and path.is_file():
                yield from file_entries(f"{SITE}/{file}", path, python)
