# SPDX-License-Identifier: GPL-2.0-or-later
"""Result of a command in the lab: its output, its files, its exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from pvtime.lab.protocol import AgentFrame
from pvtime.lab.qemu import LabError
from pvtime.report.output_file import NewFile

__all__ = ["LAB_FILE", "CompletedRun", "ResultReader"]

LAB_FILE: Final = "the lab's file"
"""Name of a wanted file, for messages."""


@dataclass
class CompletedRun:
    """A completed command in the lab."""

    exit_code: int = 0
    """As in a shell: 128 + N for signal N, 127 for a program that does not exist."""
    stdout: bytes = b""
    """Its output, if no stream was given for it."""
    stderr: bytes = b""
    missing: list[str] = field(default_factory=list)
    """Wanted files that could not be read in the lab."""

    def refuse_missing(self) -> None:
        """Check that a command that succeeded has written the wanted files. One that failed has an exit code.

        :raises LabError: it has not.
        """
        if self.missing and self.exit_code == 0:
            names = ", ".join(self.missing)
            raise LabError(f"the command did not write {names} in the lab: check the names of its files")


class ResultReader:
    """Collects a command's frames; :attr:`result` is complete after EXIT.

    A file has its name when it is complete.
    """

    def __init__(self, wanted: Mapping[str, Path], stdout: BinaryIO | None, stderr: BinaryIO | None) -> None:
        self.result = CompletedRun()
        self._wanted = wanted
        self._stdout = stdout
        self._stderr = stderr
        self._file: NewFile | None = None

    def __enter__(self) -> Self:
        """Nothing is open yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what is incomplete."""
        if self._file is not None:
            self._file.discard()

    def take(self, kind: AgentFrame, payload: bytes) -> None:
        """Take one frame.

        :raises UsageError: a wanted file cannot be written.
        :raises OSError: a stream cannot be written.
        """
        match kind:
            case AgentFrame.STDOUT if self._stdout is None:
                self.result.stdout += payload
            case AgentFrame.STDERR if self._stderr is None:
                self.result.stderr += payload
            case AgentFrame.STDOUT | AgentFrame.STDERR:
                stream = self._stdout if kind is AgentFrame.STDOUT else self._stderr
                assert stream is not None  # the cases above
                stream.write(payload)
                stream.flush()
            case AgentFrame.OPEN:
                self._finish_file()
                self._file = NewFile(self._wanted[payload.decode()], LAB_FILE)
            case AgentFrame.DATA if self._file is not None:
                self._file.write(payload)
            case AgentFrame.MISSING:
                self.result.missing.append(payload.decode())
            case AgentFrame.EXIT:
                self._finish_file()
                code: int = json.loads(payload)
                self.result.exit_code = code if code >= 0 else 128 - code

    def _finish_file(self) -> None:
        if self._file is not None:
            self._file.finish()
            self._file = None
