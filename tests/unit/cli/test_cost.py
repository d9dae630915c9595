# SPDX-License-Identifier: GPL-2.0-or-later
"""Refusals of ``pvtime cost --lab``, before anything is fetched or booted."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvtime.cli.command import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lab", "--plot", "cost.png"], "--plot cost.png: it draws SVG: give a name that ends in .svg"),
        (["--lab", "--markdown", "."], "cannot write the page to .: it is a directory"),
        (["--lab", "--plot", "no/such/directory.svg"], "cannot write the plot to no/such/directory.svg: "),
        (["--markdown", "cost.md"], "--markdown and --plot are for --lab: give that too"),
        (["--lab"], "qemu-system-aarch64 is not installed"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["cost", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pvtime: {message}")
    assert err.count("\n") == 1
