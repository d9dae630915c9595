# SPDX-License-Identifier: GPL-2.0-or-later
"""The engines, and which one ``auto`` takes on this host."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from pvtime.engine.base import Engine
from pvtime.errors import UsageError
from pvtime.inject.schedule import NOTHING, Schedule
from pvtime.records import dataclass

if TYPE_CHECKING:
    from pvtime.machine.machine import Machine

__all__ = ["AUTO", "ENGINES", "Build", "EngineKind", "choose", "preferred"]

AUTO: Final = "auto"
ARM64: Final = "aarch64"


class Build(Protocol):
    """Makes the engine of a machine."""

    def __call__(self, machine: Machine, options: Mapping[str, str], steal: Schedule = NOTHING) -> Engine:
        """Make it.

        :param steal: the steal to inject.

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
    identity: Callable[[], str]
    """Returns name and release of what executes the guest's instructions."""
    build: Build


def _kvm_obstacle() -> str | None:
    if platform.machine() != ARM64:  # said without an import of what takes 20 ms
        return f"it needs an arm64 host and this one is {platform.machine()} (pvtime lab emulates one)"
    from pvtime.engine.kvm.engine import obstacle

    return obstacle()


def _kernel() -> str:
    return f"{platform.machine()} {platform.release()}"


def _library() -> str:
    import unicorn

    return f"unicorn {unicorn.__version__}"


def _kvm(machine: Machine, options: Mapping[str, str], steal: Schedule = NOTHING) -> Engine:
    from pvtime.engine.kvm.engine import KvmEngine

    return KvmEngine(machine, options, steal)


def _unicorn(machine: Machine, options: Mapping[str, str], steal: Schedule = NOTHING) -> Engine:
    from pvtime.engine.unicorn.engine import UnicornEngine  # it loads a native library

    return UnicornEngine(machine, options, steal)


ENGINES: Final = [
    EngineKind("kvm", "this host's own CPUs, at full speed", _kvm_obstacle, _kernel, _kvm),
    EngineKind("unicorn", "an emulated CPU, which runs on every host", lambda: None, _library, _unicorn),
]
"""In the order in which ``auto`` tries them."""


@contextmanager
def preferred(kind: EngineKind) -> Iterator[None]:
    """Have another engine for a block, such as a test's own: ``auto`` tries it first, as a name does."""
    ENGINES.insert(0, kind)
    try:
        yield
    finally:
        ENGINES.remove(kind)


def choose(name: str) -> tuple[EngineKind, str]:
    """Return the engine that ``name`` asks for, and the reason in words.

    :raises UsageError: there is no such engine, or this host cannot use it.
    """
    passed_over: list[str] = []
    for kind in ENGINES:
        if name not in (AUTO, kind.name):
            continue
        obstacle = kind.obstacle()
        if obstacle is None:
            return kind, "; ".join([kind.merit, *passed_over]) if name == AUTO else "as asked for"
        if name == kind.name:
            raise UsageError(f"engine {name} cannot be used here: {obstacle}")
        passed_over.append(f"not {kind.name}: {obstacle}")
    known = ", ".join([AUTO, *(kind.name for kind in ENGINES)])
    raise UsageError(f"engine {name!r} is unknown: choose one of {known}")
