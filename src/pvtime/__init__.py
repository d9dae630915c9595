# SPDX-License-Identifier: GPL-2.0-or-later
"""pvtime: a virtual machine monitor for arm64 Linux with stolen time (Arm DEN0057A) at its centre.

The names of the public API (docs/api.md) are imported when they are used first: the command line's start is
not to pay for them.
"""

import sys

if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m") == __name__:
    # python -m pvtime, and this is our first line: until __main__ handles signals, Ctrl-C has its default
    # action, not a traceback from an import. What comes before, site and runpy, is the interpreter's.
    import _signal  # type: ignore[import-not-found]

    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:  # as it is in a script's background
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

__all__ = [
    "EngineError",
    "EventKind",
    "Guest",
    "GuestCommandError",
    "GuestEndedError",
    "PvtimeError",
    "RunEvent",
    "Sample",
    "UsageError",
    "VcpuFigures",
    "__version__",
]

__version__ = "0.1.0"

TYPE_CHECKING = False  # that of typing takes 10 ms to import
if TYPE_CHECKING:
    from pvtime.api.guest import Guest
    from pvtime.api.sample import Sample, VcpuFigures
    from pvtime.errors import EngineError, GuestCommandError, GuestEndedError, PvtimeError, UsageError
    from pvtime.run.events import EventKind, RunEvent

_HOMES = {
    "EngineError": "errors",
    "EventKind": "run.events",
    "Guest": "api.guest",
    "GuestCommandError": "errors",
    "GuestEndedError": "errors",
    "PvtimeError": "errors",
    "RunEvent": "run.events",
    "Sample": "api.sample",
    "UsageError": "errors",
    "VcpuFigures": "api.sample",
}


def __getattr__(name: str) -> object:
    """Import a name of the public API."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
