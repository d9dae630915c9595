# SPDX-License-Identifier: GPL-2.0-or-later
"""The console of a guest, as the public API has it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Final

from pvtime.errors import GuestCommandError
from pvtime.run.console_log import ConsoleLog

__all__ = ["GuestConsole"]

RETRY_INTERVAL_S: Final = 0.02

QUOTED: Final = 200
"""Characters of the output's end that a message has."""


class GuestConsole:
    """A guest's console: its output, the last 1 MiB of which is kept, and its input. For any thread.

    :meth:`read` and :meth:`expect` have one position in the output together: what one has returned, or passed
    over, the next does not see.
    """

    def __init__(
        self, log: ConsoleLog, receive: Callable[[bytes], int], refuse_ended: Callable[[], None]
    ) -> None:
        self._log = log
        self._receive = receive
        self._refuse_ended = refuse_ended
        self._position = 0
        self._reading = threading.RLock()
        self._sending = threading.Lock()

    @property
    def text(self) -> str:
        """All output that is kept. Bytes that are not UTF-8 are replaced."""
        return self._log.read(0)[0].decode("utf-8", "replace")

    def read(self, timeout: float = 0.0) -> str:
        """Return the output since the last call.

        :param timeout: seconds to wait for some; an empty text is returned where none came.
        """
        with self._reading:
            self._log.wait(self._position, timeout)
            data, self._position = self._log.read(self._position)
            return data.decode("utf-8", "replace")

    def expect(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Wait for output that matches a regular expression, and return the match.

        The next :meth:`read` or :meth:`expect` begins behind it.

        :param timeout: seconds.
        :raises GuestCommandError: it has not come in time.
        :raises GuestEndedError: the guest has ended without it.
        """
        wanted, give_up_at = re.compile(pattern), time.monotonic() + timeout
        with self._reading:
            while True:
                data, end = self._log.read(self._position)
                # One character for each byte, so that a place in the text is one in the output.
                if match := wanted.search(data.decode("latin-1")):
                    self._position = end - len(data) + match.end()
                    return match
                left = give_up_at - time.monotonic()
                if left <= 0:
                    tail = data[-QUOTED:].decode("utf-8", "replace")
                    raise GuestCommandError(
                        f"the console has not shown {pattern!r} within {timeout:g} s, but at last {tail!r}"
                    )
                if not self._log.wait(end, left) and self._log.closed:
                    self._refuse_ended()

    def send(self, text: str | bytes, timeout: float = 10.0) -> None:
        """Type something; a line ends with a newline.

        :param timeout: seconds in which the guest must take it.
        :raises GuestCommandError: the guest takes nothing.
        :raises GuestEndedError: the guest has ended.
        """
        data, give_up_at = text.encode() if isinstance(text, str) else text, time.monotonic() + timeout
        with self._sending:
            while True:
                self._refuse_ended()
                data = data[self._receive(data) :]
                if not data:
                    return
                if time.monotonic() > give_up_at:
                    raise GuestCommandError(f"the guest has not taken what was typed within {timeout:g} s")
                time.sleep(RETRY_INTERVAL_S)
