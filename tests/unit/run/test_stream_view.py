# SPDX-License-Identifier: GPL-2.0-or-later
"""The stream of a run: its lines, and a reader that takes none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from framework.fakes import sample
from framework.wait import DEADLINE
from pvtime.abi.image import IMAGE_MAGIC, ImageHeader
from pvtime.errors import UsageError
from pvtime.report.model import Moment, VcpuRow
from pvtime.report.views import QuietView
from pvtime.run.events import EventKind, RunEvent
from pvtime.run.stream_view import LineWriter, StreamView

PROGRAM = [sys.executable, str(Path(__file__).parents[2] / "fake_run.py"), "run"]


def moment(seconds: float) -> Moment:
    """Return one."""
    return Moment(seconds, (VcpuRow(**vars(sample(0))),))


def test_the_stream_has_a_sample_every_interval_and_every_event(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    writer = LineWriter(path, patience_s=DEADLINE)
    view = StreamView(QuietView(), writer, 1.0)
    assert view.interval == 1.0
    view.begin({"name": "web"})
    for seconds in (0.0, 0.4, 1.0, 1.3, 2.0):
        view.moment(moment(seconds))
    view.event(RunEvent(2.1, EventKind.PANIC, "Kernel panic"))
    view.last(moment(2.2))
    writer.close()
    header, *lines = map(json.loads, path.read_text().splitlines())
    assert header == {"schema": 1, "machine": {"name": "web"}}
    assert [line["sample"]["elapsed_seconds"] for line in lines if "sample" in line] == [0.0, 1.0, 2.0, 2.2]
    assert [line["event"] for line in lines if "event" in line] == [
        {"elapsed_seconds": 2.1, "kind": "panic", "text": "Kernel panic", "vcpu": None}
    ]


def test_a_reader_that_takes_nothing_holds_up_nobody_and_the_loss_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    writer = LineWriter(tmp_path / "fifo", length=5, patience_s=0.05)  # an open that waits for a reader
    for _ in range(10):
        writer.put({})
    with pytest.raises(UsageError, match="lines of the stream were lost"):
        writer.close()
    os.close(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK))


def test_a_full_disk_is_told() -> None:
    writer = LineWriter(Path("/dev/full"), patience_s=DEADLINE)
    writer.put({})
    with pytest.raises(UsageError, match="cannot write the stream to /dev/full: No space"):
        writer.close()


def test_a_run_streams_to_standard_output_alone(tmp_path: Path) -> None:
    header = ImageHeader(magic=IMAGE_MAGIC, image_size=1 << 20)
    (tmp_path / "Image").write_bytes(bytes(header) + bytes(4096))
    (tmp_path / "initrd").write_bytes(b"initrd")
    images = ["--kernel", str(tmp_path / "Image"), "--initrd", str(tmp_path / "initrd")]
    done = subprocess.run(
        [*PROGRAM, *images, "--append", "panic", "--duration", "0.3", "--report-stream", "-"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    first, *lines = map(json.loads, done.stdout.splitlines())
    assert first["machine"]["engine"] == "fake"
    assert [line["event"]["kind"] for line in lines if "event" in line] == ["panic", "ended"]
    assert "sample" in lines[-1]
    assert "stolen time per vCPU" in done.stderr
