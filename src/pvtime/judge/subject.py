# SPDX-License-Identifier: GPL-2.0-or-later
"""The subject of a judgement: a machine that boots the image, as the host sees it."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

from pvtime.judge.console import CheckResult
from pvtime.judge.growth import Restored

__all__ = ["Subject"]


class Subject(ABC):
    """A machine that boots the image, and the host's view of it."""

    @abstractmethod
    def read(self, timeout_s: float) -> bytes | None:
        """Return new output of the console, nothing after ``timeout_s``; None at its end."""

    @abstractmethod
    def run_delays(self) -> dict[int, int]:
        """Return the time, in ns, that the host knows to be stolen from each vCPU so far."""

    def look_for_vcpus(self) -> dict[int, int]:
        """Look for vCPUs that are not known yet; return :meth:`run_delays`."""
        return self.run_delays()

    @abstractmethod
    @contextlib.contextmanager
    def stealing(self) -> Iterator[None]:
        """Steal from the vCPUs for the time of a ``with`` block."""

    @abstractmethod
    def pause(self, seconds: float) -> None:
        """Bring the machine to rest for a while.

        :raises ControlError: there is no way, or the VMM refuses.
        """

    @abstractmethod
    def migrate(self) -> Restored:
        """Save the machine, end it, and let it go on elsewhere.

        :raises ControlError: there is no way, or the VMM refuses.
        """

    @abstractmethod
    def complaint(self) -> str:
        """Return what the machine said beside its console."""

    def ending(self) -> str:
        """Return how the machine has ended, in words; nothing if it has not, or if that is not known."""
        return ""

    def outside(self) -> list[CheckResult]:
        """Return the results of checks that need no guest."""
        return []

    def version(self) -> str:
        """Return the version of the VMM; nothing if it does not say."""
        return ""
