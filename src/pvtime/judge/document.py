# SPDX-License-Identifier: GPL-2.0-or-later
"""A judgement as JSON, as JUnit's XML, and as lines for a person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree

from pvtime.judge.console import CheckResult, Verdict
from pvtime.judge.growth import NAME as GROWTH
from pvtime.judge.session import ExitCode, Judgement

__all__ = ["SCHEMA", "lines", "to_json", "to_junit", "to_ktap"]

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
        "version": judgement.version,
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


def to_ktap(judgement: Judgement) -> str:
    """Return KTAP (the kernel's Documentation/dev-tools/ktap.rst), and a line for LAVA with each result.

    The image prints both itself, without what only the host knows.
    """
    text = ["KTAP version 1", f"1..{len(judgement.results)}"]
    for number, result in enumerate(judgement.results, 1):
        text += (f"# {_one_line(detail)}" for detail in result.details)
        if result.verdict is Verdict.FAIL:
            text += [f"not ok {number} {result.name}", f"# {_one_line(result.reason)}"]
        elif result.verdict is Verdict.SKIP:
            text.append(f"ok {number} {result.name} # SKIP {_one_line(result.reason)}")
        else:
            text.append(f"ok {number} {result.name}")
        text.append(f"pvtime-result: {result.name} {result.verdict.value}")
    return "\n".join([*text, f"# {_one_line(judgement.subject)}: {_conclusion(judgement)}", ""])


def lines(judgement: Judgement) -> Iterator[str]:
    """Yield a line for each check, and the verdict."""
    width = max(len(result.name) for result in judgement.results)
    for result in judgement.results:
        yield _line(result, width)
        if result.verdict is not Verdict.PASS or result.name.endswith(GROWTH):
            yield from (f"{'':6}{'':{width}}  {detail}" for detail in map(_printable, result.details))
    yield ""
    yield f"{judgement.subject}: {_conclusion(judgement)}"


def _conclusion(judgement: Judgement) -> str:
    if judgement.chosen and judgement.exit_code is ExitCode.RIGHT:
        return "the chosen checks pass"
    return _CONCLUSION[judgement.exit_code]


def _line(result: CheckResult, width: int) -> str:
    return f"{_WORDS[result.verdict]:4}  {result.name:{width}}  {_printable(result.reason)}".rstrip()


def _one_line(text: str) -> str:
    return _printable(text).replace("\n", " ")


def _printable(text: str) -> str:
    """Return a guest's or VMM's text without control characters, but for its lines."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
