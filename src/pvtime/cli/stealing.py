# SPDX-License-Identifier: GPL-2.0-or-later
"""``--steal``: items, and files of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pvtime.errors import UsageError
from pvtime.inject.schedule import Item, Schedule

__all__ = ["schedule"]


def schedule(values: Iterable[str]) -> Schedule:
    """Return the schedule that the options' values say; ``@FILE`` is a file with an item a line.

    :raises UsageError: a file cannot be read, or an item is none; both are named.
    """
    items: list[Item] = []
    for value in values:
        items += _of_file(Path(value[1:])) if value.startswith("@") else [Item.parse(value)]
    return Schedule(tuple(items))


def _of_file(path: Path) -> Iterator[Item]:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise UsageError(f"--steal @{path}: {error.strerror}") from error
    except ValueError as error:  # no UTF-8, or a name with a NUL
        raise UsageError(f"--steal @{path}: it is no text: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if item := line.partition("#")[0].strip():
            try:
                yield Item.parse(item)
            except UsageError as error:
                raise UsageError(f"{path}:{number}: {error}") from error
