# SPDX-License-Identifier: GPL-2.0-or-later
"""Judgements of many VMMs and hosts, from their JSON, as one table in Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pvtime.errors import UsageError, oserror_context
from pvtime.judge.console import CheckResult, Verdict
from pvtime.judge.document import SCHEMA
from pvtime.judge.growth import NAME as GROWTH
from pvtime.judge.session import ExitCode

__all__ = ["MergedJudgement", "parse_judgement", "read_judgement", "table"]

MAX_FILE: Final = 8 << 20
MAX_TEXT: Final = 1024
_CODES: Final = {code.name.lower().replace("_", "-"): code for code in ExitCode}
_CELLS: Final = {Verdict.PASS: "pass", Verdict.FAIL: "**fail**", Verdict.SKIP: "skip"}
_DATA: Final = re.compile(r"^pvtime-data: [a-z0-9_= ]{1,100}(?=\r?$)", re.MULTILINE)
MAX_DATA: Final = 64
_NAME: Final = re.compile("[a-z0-9_]{1,80}")


@dataclass(frozen=True)
class MergedJudgement:
    """A judgement as the table needs it."""

    title: str
    code: ExitCode
    checks: tuple[CheckResult, ...]
    data: tuple[str, ...] = ()
    """The console's lines with the counts."""

    def named(self, title: str) -> MergedJudgement:
        """Return the same with another title."""
        return replace(self, title=title)


def read_judgement(path: Path) -> MergedJudgement:
    """Read a file that ``pvtime judge --json`` has written.

    :raises UsageError: it cannot be read, or is none.
    """
    with oserror_context(str(path), UsageError), path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    return parse_judgement(data[:MAX_FILE].decode(errors="replace"), str(path))


def parse_judgement(text: str, name: str) -> MergedJudgement:
    """Return the judgement of a JSON document.

    :param name: the document's, for messages.
    :raises UsageError: it is none.
    """
    try:
        return _judgement(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(
            f"{name} is no judgement: give files that pvtime judge --json of this version has written"
        ) from None


def _judgement(document: dict[str, Any]) -> MergedJudgement:
    if document["schema"] != SCHEMA or document["schema"] is True:
        raise ValueError("another version")
    host = document["host"]
    facts = (
        document.get("version", ""),
        f"Linux {_text(host['kernel'])} on {_text(host['architecture'])}",
        f"{int(host['cpus'])} CPUs",
    )
    title = ", ".join(filter(None, map(_text, (document["subject"], *facts))))
    checks = [
        CheckResult(
            _check_name(check["name"]),
            Verdict(check["verdict"]),
            _text(check["reason"]),
            tuple(map(_text, check["details"])),
        )
        for check in document["checks"]
    ]
    if len({check.name for check in checks}) < len(checks):
        raise ValueError("two results of one check")
    data = tuple(_DATA.findall(document["console"])[:MAX_DATA])
    return MergedJudgement(title, _CODES[document["verdict"]], tuple(checks), data)


def _check_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ValueError("not a name of a check")
    return name


def _text(text: str) -> str:
    """Return one line without what Markdown or a terminal would take for more than text."""
    if not isinstance(text, str):
        raise TypeError("no text")
    return "".join(char if char.isprintable() and char not in "|`<>" else "?" for char in text[:MAX_TEXT])


def table(judgements: Sequence[MergedJudgement]) -> Iterator[str]:
    """Yield the lines: the subjects by number, the checks that not all pass, and the reasons."""
    for number, each in enumerate(judgements, 1):
        yield f"{number}. {each.title}: **{each.code.name.lower().replace('_', ' ')}**"
    names = list(dict.fromkeys(check.name for each in judgements for check in each.checks))
    found = [{check.name: check.verdict for check in each.checks} for each in judgements]
    differ = [name for name in names if any(each.get(name) not in (None, Verdict.PASS) for each in found)]
    if differ:
        yield ""
        yield "| check | " + " | ".join(str(number + 1) for number in range(len(judgements))) + " |"
        yield "|---" * (len(judgements) + 1) + "|"
        for name in differ:
            cells = [_CELLS[each[name]] if name in each else "" for each in found]
            yield f"| `{name}` | " + " | ".join(cells) + " |"
        yield ""
        yield "An empty cell: not made."
    if passed := [f"`{name}`" for name in names if name not in differ]:
        yield ""
        yield f"Passed wherever they were made: {', '.join(passed)}."
    for number, each in enumerate(judgements, 1):
        told = [check for check in each.checks if _is_told(check)]
        if told:
            yield ""
            yield f"{number}:"
            yield ""
        for check in told:
            yield f"    {check.name}: {check.verdict.value}" + (f": {check.reason}" if check.reason else "")
            yield from (f"        {detail}" for detail in check.details)
            if check.verdict is Verdict.FAIL and check.name.endswith(GROWTH):
                yield from (f"            {line}" for line in each.data)


def _is_told(check: CheckResult) -> bool:
    """Whether a table's reader needs more of a check than its verdict."""
    return (
        check.verdict is Verdict.FAIL
        or check.name.endswith(GROWTH)
        or check.name == "migrate"
        or (check.verdict is Verdict.SKIP and check.name == "announced")
    )
