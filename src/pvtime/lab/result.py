# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes back from a command in the lab: its output, its files, its exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pvtime.lab.frames import Kind

__all__ = ["CompletedRun", "Receiver"]


@dataclass
class CompletedRun:
    """How a command in the lab ended."""

    exit_code: int = 0
    """As a shell has it: 128 + N for signal N, 127 for a program that is not there."""
    stdout: bytes = b""
    """What it wrote, where no stream was given for it."""
    stderr: bytes = b""
    missing: list[str] = field(default_factory=list)
    """Wanted files that could not be read in the lab."""


class Receiver:
    """Takes a command's frames one by one; :attr:`result` is whole after EXIT.

    A file takes its name when all of it is there; until then it has ``.part`` behind it.
    """

    def __init__(self, wanted: Mapping[str, Path], stdout: BinaryIO | None, stderr: BinaryIO | None) -> None:
        self.result = CompletedRun()
        self._wanted = wanted
        self._stdout = stdout
        self._stderr = stderr
        self._file: BinaryIO | None = None
        self._path = Path()

    def __enter__(self) -> Self:
        """Nothing is open yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what is incomplete."""
        if self._file is not None:
            self._file.close()
            _part(self._path).unlink(missing_ok=True)

    def take(self, kind: Kind, payload: bytes) -> None:
        """Take one frame.

        :raises OSError: a file or stream cannot be written.
        """
        match kind:
            case Kind.STDOUT if self._stdout is None:
                self.result.stdout += payload
            case Kind.STDERR if self._stderr is None:
                self.result.stderr += payload
            case Kind.STDOUT | Kind.STDERR:
                stream = self._stdout if kind is Kind.STDOUT else self._stderr
                assert stream is not None  # the cases above
                stream.write(payload)
                stream.flush()
            case Kind.OPEN:
                self._finish_file()
                self._path = self._wanted[payload.decode()]
                self._file = _part(self._path).open("wb")
            case Kind.DATA if self._file is not None:
                self._file.write(payload)
            case Kind.MISSING:
                self.result.missing.append(payload.decode())
            case Kind.EXIT:
                self._finish_file()
                code: int = json.loads(payload)
                self.result.exit_code = code if code >= 0 else 128 - code

    def _finish_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            os.replace(_part(self._path), self._path)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")
