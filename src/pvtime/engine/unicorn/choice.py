# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the two ways to drive the emulated CPU an engine takes."""

from __future__ import annotations

from collections.abc import Mapping

from pvtime.engine.unicorn.core import Core, CoreConfig
from pvtime.engine.unicorn.fast import FastCore
from pvtime.engine.unicorn.public import PublicCore
from pvtime.engine.unicorn.selftest import passes
from pvtime.errors import EngineError, UsageError

__all__ = ["make_core"]

_OPTION = "internals"
_VALUES = ("auto", "on", "off")


def make_core(options: Mapping[str, str], config: CoreConfig) -> Core:
    """Make the emulated CPU that ``options`` ask for.

    :raises UsageError: an unknown option, value or CPU model.
    :raises EngineError: ``internals=on`` where they cannot be used.
    """
    if unknown := options.keys() - {_OPTION}:
        raise UsageError(
            f"--engine-option {min(unknown)}: the unicorn engine has {_OPTION}={'|'.join(_VALUES)}"
        )
    wanted = options.get(_OPTION, "auto")
    if wanted not in _VALUES:
        raise UsageError(f"--engine-option {_OPTION}={wanted}: give one of {', '.join(_VALUES)}")
    if wanted != "off" and passes():
        return FastCore(config)
    if wanted == "on":
        raise EngineError(
            "this build of the Unicorn library is not one whose internals are known: leave out internals=on"
        )
    return PublicCore(config)
