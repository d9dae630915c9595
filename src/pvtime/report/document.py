# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON report (docs/report.md), parsed strictly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_origin

from pvtime.engine.base import Outcome
from pvtime.errors import UsageError, json_reason, one_line
from pvtime.report.model import SCHEMA, RunReport, VcpuRow

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = ["MAX_NS", "MAX_SECONDS", "from_json", "to_json"]

T = TypeVar("T")

MAX_NS: Final = 1 << 64
MAX_SECONDS: Final = MAX_NS / 1e9


def to_json(report: RunReport) -> str:
    """Return ``report`` as a JSON document with a newline at its end."""
    import json  # 5 ms of import, which a run without a report need not pay

    document = {"schema": report.schema} | asdict(report)
    document["outcome"] = report.outcome.value
    return json.dumps(document, indent=2) + "\n"


def from_json(text: str) -> RunReport:
    """Parse a report.

    A report may be another user's: its texts are returned as one line without control characters.

    :raises UsageError: ``text`` is not JSON, lacks a field, has one of a wrong type or value, or has a schema
        that this release does not know. Unknown fields are ignored: later releases may add some.
    """
    import json

    from cattrs import transform_error

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the report is not JSON: {json_reason(error)}") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if type(schema) is int and schema != SCHEMA:
        raise UsageError(f"the report has schema {schema}; this release reads schema {SCHEMA}")
    converter = _converter()
    try:
        report = converter.structure(document, RunReport)
    except Exception as error:  # cattrs groups what is wrong with each field
        first = transform_error(error, format_exception=lambda cause, _type: str(cause))[0]
        reason, _, path = first.rpartition(" @ $")
        raise UsageError(f"the report{path and ': '}{path.lstrip('.')} {reason}") from None
    _check_vcpus(report.vcpus, len(report.vcpus), "vcpus")
    if report.begin is not None:
        _check_vcpus(report.begin.vcpus, len(report.vcpus), "begin.vcpus")
    return report


def _check_vcpus(rows: tuple[VcpuRow, ...], count: int, name: str) -> None:
    """Check that there is a row for each vCPU, in their order.

    :raises UsageError: there is not.
    """
    if not rows or [row.index for row in rows] != list(range(count)):
        raise UsageError(f"the report: {name} does not have every vCPU once, in the order of their index")


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

    def within(limit: float, structure: Callable[[Any], T]) -> Callable[[Any], T]:
        def build(value: float) -> T:
            if not -limit <= value <= limit:  # NaN too
                raise ValueError(f"is beyond {limit:g}")
            return structure(value)

        return build

    converter.register_structure_hook(int, exactly((int,), "an integer", within(MAX_NS, int)))
    converter.register_structure_hook(float, exactly((int, float), "a number", within(MAX_SECONDS, float)))
    converter.register_structure_hook(str, exactly((str,), "a text", one_line))
    converter.register_structure_hook(bool, exactly((bool,), "true or false", bool))
    converter.register_structure_hook(Outcome, exactly((str,), "a text", Outcome))
    converter.register_structure_hook_factory(is_dataclass, complete)
    converter.register_structure_hook_factory(is_tuple, rows)
    return converter
