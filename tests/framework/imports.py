# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds what the files of a package import, without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Import", "classes_of", "imports_of"]


@dataclass(frozen=True)
class Import:
    """``file:line`` imports ``module``, and from it ``name`` where it says one."""

    file: Path
    line: int
    module: str
    name: str | None
    for_types: bool = False
    """Only a type checker sees it: it is under ``if TYPE_CHECKING``."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: imports {self.module}" + (f".{self.name}" if self.name else "")


def imports_of(root: Path, file: Path) -> Iterator[Import]:
    """Yield all that ``file`` imports, also in functions and for types alone; ``root`` is on sys.path."""
    here = list(file.relative_to(root).with_suffix("").parts)
    nodes = list(ast.walk(ast.parse(file.read_text(), str(file))))
    conditions = [node for node in nodes if isinstance(node, ast.If)]
    guarded = [node for node in conditions if ast.unparse(node.test) == "TYPE_CHECKING"]
    for_types = {id(node) for guard in guarded for statement in guard.body for node in ast.walk(statement)}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, None, id(node) in for_types)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(file, node.lineno, module, alias.name, id(node) in for_types)


def classes_of(file: Path) -> Iterator[str]:
    """Yield the names of the classes that ``file`` defines."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.ClassDef):
            yield node.name
