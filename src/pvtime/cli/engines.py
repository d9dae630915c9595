# SPDX-License-Identifier: GPL-2.0-or-later
"""The engines that ``--engine`` knows, and which one ``auto`` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pvtime.engine.base import Engine
from pvtime.errors import UsageError

if TYPE_CHECKING:
    from pvtime.machine.machine import Machine

__all__ = ["AUTO", "ENGINES", "EngineKind", "choose"]

AUTO: Final = "auto"


class Build(Protocol):
    """Makes the engine of a machine."""

    def __call__(self, machine: Machine, options: Mapping[str, str]) -> Engine:
        """Make it.

        :raises UsageError: an option is unknown or has an impossible value.
        :raises EngineError: this host cannot run the machine.
        """


@dataclass(frozen=True)
class EngineKind:
    """An engine that can be chosen."""

    name: str
    merit: str
    """Why ``auto`` takes it where it can."""
    obstacle: Callable[[], str | None]
    """Returns why this host cannot use it; None where it can."""
    build: Build


def _unicorn(machine: Machine, options: Mapping[str, str]) -> Engine:
    from pvtime.engine.unicorn.engine import UnicornEngine  # it loads a native library

    return UnicornEngine(machine, options)


ENGINES: Final = [
    EngineKind("unicorn", "an emulated CPU, which runs on every host", lambda: None, _unicorn),
]
"""In the order in which ``auto`` tries them."""


def choose(name: str) -> tuple[EngineKind, str]:
    """Return the engine that ``name`` asks for, and the reason in words.

    :raises UsageError: there is no such engine, or this host cannot use it.
    """
    for kind in ENGINES:
        if name == kind.name:
            if obstacle := kind.obstacle():
                raise UsageError(f"engine {name} cannot be used here: {obstacle}")
            return kind, "as asked for"
        if name == AUTO and kind.obstacle() is None:
            return kind, kind.merit
    known = ", ".join([AUTO, *(kind.name for kind in ENGINES)])
    raise UsageError(f"engine {name!r} is unknown: take one of {known}")
