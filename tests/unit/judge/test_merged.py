# SPDX-License-Identifier: GPL-2.0-or-later
"""Judgements as one table: what differs is seen, and no file can make it more than text."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pvtime.cli.merge import merge_command
from pvtime.errors import UsageError
from pvtime.judge.console import CheckResult, Verdict
from pvtime.judge.document import to_json
from pvtime.judge.growth import NAME as GROWTH
from pvtime.judge.host_facts import HostFacts
from pvtime.judge.merged import parse_judgement, table
from pvtime.judge.session import Judgement

HOST: HostFacts = {"kernel": "6.1", "architecture": "aarch64", "cpus": 2}
PASSED = (CheckResult("header", Verdict.PASS), CheckResult(GROWTH, Verdict.PASS, "", ("cpu 0: grew 7 ns",)))
LOST = CheckResult(GROWTH, Verdict.FAIL, "it lost | time", ("cpu 0: grew 1 ns",))


def document(*results: CheckResult, subject: str = "a-vmm") -> str:
    """Return a judgement's JSON."""
    return to_json(Judgement(subject, results, b"", "", dict(HOST), "A VMM 1.0"))


def test_what_differs_is_in_the_table_and_the_rest_is_named() -> None:
    found = [parse_judgement(document(*results), "a file") for results in (PASSED, (PASSED[0], LOST))]
    lines = list(table(found))
    assert lines[0] == "1. a-vmm, A VMM 1.0, Linux 6.1 on aarch64, 2 CPUs: **right**"
    assert lines[1].endswith("**wrong**")
    assert f"| `{GROWTH}` | pass | **fail** |" in lines
    assert "Passed wherever they were made: `header`." in lines
    assert f"    {GROWTH}: fail: it lost ? time" in lines


def test_a_wrong_count_has_the_consoles_lines_beside_it() -> None:
    console = b"# pvtime-data: no\r\npvtime-data: end cpu=0 stolen_ns=1 clock_ns=2\r\npvtime-data: <b>\r\n"
    for result in (LOST, PASSED[1]):
        judgement = Judgement("a-vmm", (result,), console, "", dict(HOST))
        lines = list(table([parse_judgement(to_json(judgement), "a file")]))
        shown = [line.strip() for line in lines if "pvtime-data" in line]
        assert shown == (["pvtime-data: end cpu=0 stolen_ns=1 clock_ns=2"] if result is LOST else [])


@pytest.mark.parametrize(
    ("results", "code"),
    [([PASSED], 0), ([PASSED, PASSED[:1]], 4), ([PASSED, PASSED[:1], (LOST,)], 1)],
)
def test_the_exit_code_is_the_worst(
    results: list[tuple[CheckResult, ...]], code: int, tmp_path: Path
) -> None:
    files = [tmp_path / str(number) for number in range(len(results))]
    for file, each in zip(files, results, strict=True):
        file.write_text(document(*each))
    done = CliRunner().invoke(merge_command, [str(file) for file in files], standalone_mode=False)
    assert done.exception is None
    assert done.return_value == code


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": 2}', "[" * 100000, document().replace("1", "9", 1)]
)
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"a file is no judgement"):
        parse_judgement(text, "a file")


@pytest.mark.parametrize(
    "fields",
    [
        {"schema": True},
        {"subject": ["a", "b"]},
        {"host": {**HOST, "kernel": {}}},
        {"host": {**HOST, "cpus": [2]}},
        {
            "checks": [
                {"name": "header", "verdict": word, "reason": "", "details": []} for word in ("fail", "pass")
            ]
        },
    ],
)
def test_a_document_with_something_else_in_it_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"a file is no judgement"):
        parse_judgement(json.dumps({**json.loads(document(*PASSED)), **fields}), "a file")


@given(st.text(), st.text(), st.text())
def test_a_file_is_no_more_than_text(subject: str, reason: str, detail: str) -> None:
    failed = CheckResult("padding", Verdict.FAIL, reason, (detail,))
    lines = list(table([parse_judgement(document(failed, subject=subject), "a file")]))
    assert all(line.isprintable() for line in lines)
    assert not any("`" in line or "<" in line for line in lines if "`padding`" not in line)


JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each)
)


@given(st.dictionaries(st.sampled_from(["subject", "verdict", "host", "checks", "version"]), JSON))
def test_no_document_is_more_than_refused(fields: dict[str, object]) -> None:
    whole = {**json.loads(document(*PASSED)), **fields}
    with contextlib.suppress(UsageError):
        list(table([parse_judgement(json.dumps(whole), "a file")]))
