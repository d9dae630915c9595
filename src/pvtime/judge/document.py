# SPDX-License-Identifier: GPL-2.0-or-later
"""A judgement as JSON, as JUnit's XML, and as lines for a person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree

from pvtime.judge.console import CheckResult, Verdict
from pvtime.judge.session import ExitCode, Judgement

__all__ = ["SCHEMA", "lines", "to_json", "to_junit"]

SCHEMA: Final = 1

_WORDS: Final = {Verdict.PASS: "pass", Verdict.FAIL: "FAIL", Verdict.SKIP: "skip"}
_CONCLUSION: Final = {
    ExitCode.RIGHT: "stolen time is right",
    ExitCode.WRONG: "stolen time is wrong",
    ExitCode.CANNOT_TELL: "no verdict on stolen time",
}


def to_json(judgement: Judgement) -> str:
    """Return the document; docs/judge.md describes it."""
    document = {
        "schema": SCHEMA,
        "subject": judgement.subject,
        "verdict": judgement.exit_code.name.lower().replace("_", "-"),
        "host": judgement.host,
        "checks": [
            {
                "name": result.name,
                "verdict": result.verdict.value,
                "reason": result.reason,
                "details": list(result.details),
            }
            for result in judgement.results
        ],
        "console": judgement.console.decode(errors="replace"),
        "complaint": judgement.complaint,
    }
    return json.dumps(document, indent=2) + "\n"


def to_junit(judgement: Judgement) -> str:
    """Return the XML that test runners read."""
    suite = ElementTree.Element("testsuite", name="pvtime judge", tests=str(len(judgement.results)))
    counts = {verdict: sum(result.verdict is verdict for result in judgement.results) for verdict in Verdict}
    suite.set("failures", str(counts[Verdict.FAIL]))
    suite.set("skipped", str(counts[Verdict.SKIP]))
    for result in judgement.results:
        case = ElementTree.SubElement(suite, "testcase", classname="pvtime.judge", name=result.name)
        if result.verdict is Verdict.FAIL:
            ElementTree.SubElement(case, "failure", message=_printable(result.reason))
        elif result.verdict is Verdict.SKIP:
            ElementTree.SubElement(case, "skipped", message=_printable(result.reason))
        if result.details:
            ElementTree.SubElement(case, "system-out").text = _printable("\n".join(result.details))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def lines(judgement: Judgement) -> Iterator[str]:
    """Yield a line for each check, and the verdict."""
    width = max(len(result.name) for result in judgement.results)
    for result in judgement.results:
        yield _line(result, width)
        if result.verdict is not Verdict.PASS or result.name == "grows_by_run_delay":
            yield from (f"{'':6}{'':{width}}  {detail}" for detail in map(_printable, result.details))
    yield ""
    yield f"{judgement.subject}: {_CONCLUSION[judgement.exit_code]}"


def _line(result: CheckResult, width: int) -> str:
    return f"{_WORDS[result.verdict]:4}  {result.name:{width}}  {_printable(result.reason)}".rstrip()


def _printable(text: str) -> str:
    """Return a guest's or VMM's text without control characters, but for its lines."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
