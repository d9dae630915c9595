# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON report (docs/report.md): write it whole or not at all, parse it strictly."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_origin

from pvtime.engine.base import Outcome
from pvtime.errors import UsageError
from pvtime.files import try_new_file
from pvtime.report.model import SCHEMA, RunReport

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = ["from_json", "refuse_unwritable", "to_json", "write"]

T = TypeVar("T")


def to_json(report: RunReport) -> str:
    """Return ``report`` as a JSON document with a newline at its end."""
    import json  # 5 ms of import, which a run without a report need not pay

    document = {"schema": report.schema} | asdict(report)
    document["outcome"] = report.outcome.value
    return json.dumps(document, indent=2) + "\n"


def from_json(text: str) -> RunReport:
    """Parse a report.

    :raises UsageError: ``text`` is not JSON, lacks a field, has one of a wrong type or value, or has a schema
        that this release does not know. Unknown fields are ignored: later releases may add some.
    """
    import json

    from cattrs import transform_error

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the report is not JSON: {error}") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if type(schema) is int and schema != SCHEMA:
        raise UsageError(f"the report has schema {schema}; this release reads schema {SCHEMA}")
    converter = _converter()
    try:
        return converter.structure(document, RunReport)
    except Exception as error:  # cattrs groups what is wrong with each field
        first = transform_error(error, format_exception=lambda cause, _type: str(cause))[0]
        reason, _, path = first.rpartition(" @ $")
        raise UsageError(f"the report{path and ': '}{path.lstrip('.')} {reason}") from None


@cache
def _converter() -> Converter:
    """Return a converter that takes a field's declared type exactly, and no default for a missing field.

    cattrs is imported here: a run, which only writes reports, need not pay for it.
    """
    from cattrs import Converter
    from cattrs.cols import homogenous_tuple_structure_factory
    from cattrs.gen import make_dict_structure_fn

    converter = Converter()

    def exactly(kinds: tuple[type, ...], name: str, structure: Callable[[Any], T]) -> Callable[..., T]:
        def hook(value: object, _type: object) -> T:
            if type(value) not in kinds:
                raise ValueError(f"is {'null' if value is None else repr(value)}, not {name}")
            return structure(value)

        return hook

    def complete(cls: type[T]) -> Callable[..., T]:
        structure = make_dict_structure_fn(cls, converter)
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]

        def build(document: dict[str, Any]) -> T:
            if missing := [name for name in names if name not in document]:
                raise ValueError(f"has no field {missing[0]!r}")
            return structure(document, cls)

        return exactly((dict,), "an object", build)

    def is_tuple(cls: Any) -> bool:
        return get_origin(cls) is tuple

    def rows(cls: Any) -> Callable[..., Any]:
        structure = homogenous_tuple_structure_factory(cls, converter)
        return exactly((list,), "a list", lambda document: structure(document, cls))

    converter.register_structure_hook(int, exactly((int,), "an integer", int))
    converter.register_structure_hook(float, exactly((int, float), "a number", float))
    converter.register_structure_hook(str, exactly((str,), "a text", str))
    converter.register_structure_hook(bool, exactly((bool,), "true or false", bool))
    converter.register_structure_hook(Outcome, exactly((str,), "a text", Outcome))
    converter.register_structure_hook_factory(is_dataclass, complete)
    converter.register_structure_hook_factory(is_tuple, rows)
    return converter


def refuse_unwritable(path: Path) -> None:
    """Check, before a guest boots, that a report can be written to ``path``; change nothing there.

    :raises UsageError: no report can be written; the message has the reason.
    """
    try:
        _refuse_foreign_link(path)
        reason = _why_unwritable(Path(os.path.realpath(path)))
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise UsageError(f"cannot write the report to {path}: {reason}")


def _refuse_foreign_link(path: Path) -> None:
    """Check that ``path`` is not a symbolic link of another user's in a directory that all may write to.

    Where the kernel's protected_symlinks is off, such a link has root write over a file of the link's choice.

    :raises UsageError: it is.
    """
    if path.is_symlink():
        link, directory = path.lstat(), path.parent.stat()
        if directory.st_mode & stat.S_IWOTH and link.st_uid not in (os.geteuid(), directory.st_uid):
            raise UsageError(
                f"cannot write the report to {path}: it is another user's symbolic link; choose another name"
            )


def _why_unwritable(path: Path) -> str | None:
    """Return the reason for which no report can be written to ``path``; None if there is none.

    :raises OSError: the file system refuses even to look, or to take a new file.
    """
    if path.is_dir():
        return "it is a directory"
    if not path.parent.is_dir():
        return f"{path.parent} is not a directory: create it first"
    if path.exists() and not os.access(path, os.W_OK):
        return "permission denied"
    if _is_plain(path):
        try_new_file(path.parent)
    return None


def write(report: RunReport, path: Path) -> None:
    """Write ``report`` to ``path``: complete, or not at all (a device or pipe is written directly).

    :raises UsageError: the file system refused.
    """
    text = to_json(report)
    try:
        _refuse_foreign_link(path)
        if _is_plain(path):
            _replace(path, text)
        else:
            path.write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write the report to {path}: {error.strerror}") from error


def _is_plain(path: Path) -> bool:
    """Whether ``path`` is, or would become, a regular file: one that may be replaced by a new one."""
    return path.is_file() or not path.exists()


def _replace(path: Path, text: str) -> None:
    """Write beside the target (a link's target stays where the link points), then rename over it."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    """Return the process's umask; there is no way to read it but to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
