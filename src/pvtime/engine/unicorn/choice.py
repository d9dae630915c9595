# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the two ways to drive the emulated CPU an engine takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pvtime.engine.unicorn.core import Core, CoreConfig
from pvtime.engine.unicorn.fast import FastCore
from pvtime.engine.unicorn.levels import ABORTING_MODELS
from pvtime.engine.unicorn.public import PublicCore
from pvtime.engine.unicorn.selftest import passes
from pvtime.errors import EngineError, UsageError

__all__ = ["make_core"]

_VALUES: Final = {"internals": ("auto", "on", "off"), "allow-abort": ("off", "on")}
"""Of each option; its default first."""


def make_core(options: Mapping[str, str], config: CoreConfig) -> Core:
    """Make the emulated CPU that ``options`` ask for.

    :raises UsageError: an unknown option, value or CPU model, or a model that lets a guest end this process.
    :raises EngineError: ``internals=on`` where they cannot be used.
    """
    if unknown := options.keys() - _VALUES.keys():
        known = " and ".join(f"{name}={'|'.join(values)}" for name, values in _VALUES.items())
        raise UsageError(f"engine option {min(unknown)!r}: the unicorn engine has {known}")
    for name, value in options.items():
        if value not in _VALUES[name]:
            raise UsageError(f"engine option {name}={value}: give one of {', '.join(_VALUES[name])}")
    chosen = {name: options.get(name, values[0]) for name, values in _VALUES.items()}
    if config.model in ABORTING_MODELS and chosen["allow-abort"] == "off":
        raise UsageError(
            f"CPU model {config.model!r}: any program in the guest can make pvtime abort; "
            "give the engine option allow-abort=on if you trust the guest"
        )
    if chosen["internals"] != "off" and passes():
        return FastCore(config)
    if chosen["internals"] == "on":
        raise EngineError(
            "this build of the Unicorn library is not one whose internals are known: leave out internals=on"
        )
    return PublicCore(config)
