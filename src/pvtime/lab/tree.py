# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of this machine as entries of the lab's archives, Python modules with their bytecode.

Python under emulation takes four times as long to import modules from their sources: 1.08 s against 0.25 s
for the agent's. So modules are compiled on this machine, if its Python has the lab's bytecode.
"""

from __future__ import annotations

import importlib.util
import marshal
import stat
import struct
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from pvtime.userland.cpio import CpioEntry, directory, regular, symlink

__all__ = ["file_entries", "tree_entries", "with_parents"]

_UNCHECKED_HASH: Final = 0b01
"""PEP 552's flags: valid by hash, and do not check."""


def file_entries(name: str, path: Path, python: str) -> Iterator[CpioEntry]:
    """Yield the entry of one file, and its bytecode's if it is a module.

    :param name: its name in the archive.
    :param python: the lab's Python, such as ``3.11``.
    """
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        yield symlink(name, str(path.readlink()))
        return
    data = path.read_bytes()
    yield regular(name, data, mode & 0o777)
    if path.suffix == ".py" and (compiled := _bytecode(name, data, python)):
        yield compiled


def tree_entries(root: Path, prefix: str, python: str) -> Iterator[CpioEntry]:
    """Yield every file under ``root``, named below ``prefix``, in a fixed order and without old bytecode."""
    for path in sorted(root.rglob("*")):
        if "__pycache__" not in path.parts and (path.is_symlink() or path.is_file()):
            yield from file_entries(f"{prefix}{path.relative_to(root)}", path, python)


def with_parents(entries: Iterable[CpioEntry]) -> Iterator[CpioEntry]:
    """Put a directory's entry before the first entry below it."""
    made: set[str] = set()
    for entry in entries:
        for parent in reversed(PurePosixPath(entry.name).parents[:-1]):
            if str(parent) not in made:
                made.add(str(parent))
                yield directory(str(parent))
        made.add(entry.name)
        yield entry


def _bytecode(name: str, source: bytes, python: str) -> CpioEntry | None:
    """Return a module's bytecode; None if the lab has another Python, or the source does not compile."""
    if python != f"{sys.version_info.major}.{sys.version_info.minor}":
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of somebody else's source
            code = compile(source, f"/{name}", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    flags = struct.pack("<I", _UNCHECKED_HASH)
    header = importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source)
    path = PurePosixPath(name)
    cached = path.parent / "__pycache__" / f"{path.stem}.cpython-{python.replace('.', '')}.pyc"
    return regular(str(cached), header + marshal.dumps(code))
