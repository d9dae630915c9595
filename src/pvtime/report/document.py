# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON report (docs/report.md): written whole or not at all, parsed strictly."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pvtime.engine.base import Outcome
from pvtime.errors import UsageError
from pvtime.report.model import SCHEMA, RunReport, VcpuRow

__all__ = ["from_json", "refuse_unwritable", "to_json", "write"]

TYPES: Mapping[str, tuple[type, ...]] = {
    "schema": (int,),
    "engine": (str,),
    "placement": (str,),
    "kernel": (str, type(None)),
    "boot_seconds": (int, float, type(None)),
    "elapsed_seconds": (int, float),
    "outcome": (str,),
    "vcpus": (list,),
    "index": (int,),
    "ran_ns": (int,),
    "truth_ns": (int,),
    "structure_ns": (int, type(None)),
    "guest_steal_ns": (int, type(None)),
    "enabled": (bool,),
    "loads": (int,),
    "injected_ns": (int,),
    "fault": (str, type(None)),
}
"""What each field may be. A bool is an int to Python, so it is told apart by hand."""


def to_json(report: RunReport) -> str:
    """Return ``report`` as a JSON document with a newline at its end."""
    import json  # 5 ms of import, which a run without a report need not pay

    document = {"schema": report.schema} | asdict(report)
    document["outcome"] = report.outcome.value
    return json.dumps(document, indent=2) + "\n"


def from_json(text: str) -> RunReport:
    """Parse a report.

    :raises UsageError: it is no JSON, lacks a field, has one of another type or value, or is of a schema
        that this release does not know. Fields that are unknown are ignored: later releases may add some.
    """
    import json

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the report is not JSON: {error}") from error
    values = _checked(document, RunReport, "the report")
    if values["schema"] != SCHEMA:
        raise UsageError(f"the report has schema {values['schema']}; this release reads schema {SCHEMA}")
    try:
        values["outcome"] = Outcome(values["outcome"])
    except ValueError as error:
        raise UsageError(f"the report's outcome {values['outcome']!r} is unknown") from error
    rows = (_checked(row, VcpuRow, f"vcpus[{at}]") for at, row in enumerate(values["vcpus"]))
    values["vcpus"] = tuple(VcpuRow(**row) for row in rows)
    return RunReport(**values)


def _checked(document: object, model: type[RunReport] | type[VcpuRow], where: str) -> dict[str, Any]:
    """Return the fields of ``model`` in ``document``; refuse what is missing or of another type."""
    if not isinstance(document, dict):
        raise UsageError(f"{where} is not a JSON object")
    values = {}
    for field in fields(model):
        if field.name not in document:
            raise UsageError(f"{where} has no field {field.name!r}")
        value = document[field.name]
        wanted = TYPES[field.name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise UsageError(f"{where}: {field.name!r} cannot be {value!r}")
        values[field.name] = value
    return values


def refuse_unwritable(path: Path) -> None:
    """Check, before a guest boots, that a report can be written to ``path``; change nothing there.

    :raises UsageError: it cannot; the message says why.
    """
    try:
        reason = _why_unwritable(Path(os.path.realpath(path)))
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise UsageError(f"cannot write the report to {path}: {reason}")


def _why_unwritable(path: Path) -> str | None:
    """Return what stands against a report at ``path``; None where nothing does.

    :raises OSError: the file system refuses even to look, or to take a new file.
    """
    if path.is_dir():
        return "it is a directory"
    if not path.parent.is_dir():
        return f"{path.parent} is no directory; create it first"
    if path.exists() and not os.access(path, os.W_OK):
        return "permission denied"
    if _is_plain(path):
        # access(2) says yes to root where the file system is read-only or takes no new files, as in /proc.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    return None


def write(report: RunReport, path: Path) -> None:
    """Write ``report`` to ``path``: complete, or not at all (a device or pipe is written directly).

    :raises UsageError: the file system refused.
    """
    text = to_json(report)
    try:
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
