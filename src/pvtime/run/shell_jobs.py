# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that the stock userland's agent runs in a shell of the guest."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

from pvtime.errors import GuestCommandError, GuestEndedError, UsageError
from pvtime.records import dataclass
from pvtime.userland.protocol import (
    MAX_SHELL_COMMAND,
    ShellExit,
    ShellOutput,
    encode_share,
    encode_shell,
)

__all__ = ["ShellJobs", "ShellResult"]

OUTPUT_LIMIT: Final = 4 << 20
"""Bytes of one command's output that are kept. The agent sends 1 MiB at most; the guest may send anything."""

RETRY_INTERVAL_S: Final = 0.02

FIRST_NUMBERS: Final = 900_000_000
"""The first command's number is below this at random: a guest that was saved may go on with commands of the
machine before, whose answers and files are not for this one."""


@dataclass(frozen=True)
class ShellResult:
    """The end of a command."""

    code: int
    output: bytes


class _Job:
    """A command that has not ended."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.code: int | None = None
        self.lost = False
        """The guest was reset."""


class ShellJobs:
    """The commands of one machine. For any thread.

    :param send: passes bytes to the agent and returns how many it took.
    """

    def __init__(self, send: Callable[[bytes], int]) -> None:
        self._send = send
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._jobs: dict[int, _Job] = {}
        self._number = int.from_bytes(os.urandom(4)) % FIRST_NUMBERS
        self._over = False

    def run(self, command: str, timeout: float) -> ShellResult:
        """Run a command and return its end.

        :param timeout: seconds until it must have ended.
        :raises UsageError: the command is too long.
        :raises GuestCommandError: it has not ended in time, and may run on; or the guest was reset meanwhile.
        :raises GuestEndedError: the machine has ended.
        """

        def line(number: int) -> bytes:
            try:
                return encode_shell(number, command)
            except UnicodeEncodeError as error:
                raise UsageError(f"the command is not text: character {error.start + 1} is wrong") from None
            except ValueError:
                raise UsageError(
                    f"the command is too long: give one of at most {MAX_SHELL_COMMAND} bytes"
                ) from None

        return self._run(line, timeout, command)

    def write_share(self, timeout: float) -> None:
        """Have the guest write the files of /share to its disk.

        :param timeout: seconds.
        :raises GuestCommandError: it failed, or has not done so in time, or was reset meanwhile.
        :raises GuestEndedError: the machine has ended.
        """
        if self._run(encode_share, timeout, "the files of /share").code:
            raise GuestCommandError(
                "the guest could not give the files of /share: they may be more than --share-size"
            )

    def _run(self, line: Callable[[int], bytes], timeout: float, name: str) -> ShellResult:
        """Send a request, of which ``line`` returns the line with its number; return its end.

        :param name: name of the request, for messages.
        """
        give_up_at = time.monotonic() + timeout
        with self._changed:
            self._number += 1
            number, job = self._number, _Job()
            self._jobs[number] = job
        try:
            self._send_whole(line(number), job, give_up_at)
            with self._changed:
                self._changed.wait_for(
                    lambda: job.code is not None or job.lost or self._over, give_up_at - time.monotonic()
                )
                if job.code is not None:
                    return ShellResult(job.code, bytes(job.output))
                self._refuse_lost(job)
            raise GuestCommandError(f"the command has not ended within {timeout:g} s: {name}")
        finally:
            with self._changed:
                del self._jobs[number]

    def _send_whole(self, data: bytes, job: _Job, give_up_at: float) -> None:
        with self._sending:
            while data := data[self._send(data) :]:
                self._refuse_lost(job)
                if time.monotonic() > give_up_at:
                    raise GuestCommandError("the guest takes no command: it may have stopped")
                time.sleep(RETRY_INTERVAL_S)

    def _refuse_lost(self, job: _Job) -> None:
        if self._over:
            raise GuestEndedError("the machine has ended before the command in it had")
        if job.lost:
            raise GuestCommandError("the guest was reset before the command in it had ended")

    def handle(self, message: ShellOutput | ShellExit) -> None:
        """Take what the agent has sent."""
        with self._changed:
            job = self._jobs.get(message.number)
            if job is None or job.code is not None:
                return
            if isinstance(message, ShellOutput):
                job.output += message.data[: OUTPUT_LIMIT - len(job.output)]
            else:
                job.code = message.code
                self._changed.notify_all()

    def reset(self) -> None:
        """Note that the guest was reset: no command that runs in it ends any more."""
        with self._changed:
            for job in self._jobs.values():
                job.lost = True
            self._changed.notify_all()

    def close(self) -> None:
        """Note that the machine has ended."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
