# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's monitor protocol, as far as a judgement needs it: one command at a time, on a UNIX socket.

Specification: docs/interop/qmp-spec.rst in QEMU. The library qemu.qmp would be one more dependency, for these
lines.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["Qmp", "QmpError"]

MAX_LINE: Final = 1 << 20
RETRY_S: Final = 0.02


class QmpError(Exception):
    """QEMU does not answer, or refuses a command; the message has its reason."""


class Qmp:
    """A connection to the monitor at ``path``, which QEMU may not have created yet.

    :raises QmpError: nobody answers within ``timeout_s``, which each command has, too.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            while True:
                try:
                    self._socket.connect(str(path))
                    break
                except OSError as error:
                    if time.monotonic() > end:
                        raise QmpError(f"QEMU's monitor does not answer: {error.strerror}") from error
                    time.sleep(RETRY_S)
            self._lines = self._socket.makefile("rb")
            self._receive()  # the greeting
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()

    def execute(self, command: str, **arguments: object) -> Any:
        """Return what a command returns.

        :raises QmpError: QEMU refuses it, or has gone.
        """
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise QmpError(f"QEMU's monitor has gone: {error}") from error
        while True:
            answer = self._receive()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise QmpError(f"QEMU refuses {command}: {answer['error'].get('desc', answer['error'])}")

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._lines.readline(MAX_LINE)
        except OSError as error:
            raise QmpError(f"QEMU's monitor does not answer: {error}") from error
        if not line:
            raise QmpError("QEMU has ended")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise QmpError("QEMU's monitor does not speak QMP") from error
        return answer if isinstance(answer, dict) else {}
