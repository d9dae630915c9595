# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the emulated CPU: by the library's internals if this build is known and passes a self-test of twenty
instructions, else by its public interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from pvtime.abi.arm64 import SysReg
from pvtime.engine.base import BREAK, COUNTER_FREQUENCY
from pvtime.engine.unicorn.core import Core, CoreConfig
from pvtime.engine.unicorn.el_setup import ABORTING_MODELS
from pvtime.engine.unicorn.internals import LAYOUTS, LibraryLayout
from pvtime.engine.unicorn.internals_core import InternalsCore
from pvtime.engine.unicorn.public_core import PublicCore
from pvtime.errors import EngineError, UsageError
from pvtime.machine.memory import GuestMemory

__all__ = ["PROGRAM", "SYNC", "make_core", "passes"]

_BASE: Final = 0x1_0000
SYNC: Final = _BASE + 0xA00
_IRQ: Final = _BASE + 0xA80
_BRK_SYNDROME: Final = 0xF200_5AA5
_RESULT: Final = 0x7E57

# Hand-assembled A64; the mnemonics are beside each word. The vectors are at _BASE + 0x800.
PROGRAM: Final = {
    _BASE: (
        0xD281_0000,  # mov x0, #0x800
        0xF2A0_0020,  # movk x0, #1, lsl #16
        0xD518_C000,  # msr vbar_el1, x0
        0xD42B_54A0,  # brk #0x5aa5
        0xD400_0002,  # hvc #0
        0xAA00_03F3,  # mov x19, x0
        0xD503_47FF,  # msr daifclr, #7
        0x9100_0694,  # 1: add x20, x20, #1
        0xF110_029F,  # cmp x20, #0x400
        0x54FF_FFC1,  # b.ne 1b
        0xD400_0002,  # hvc #0
    ),
    SYNC: (
        0xD538_5215,  # mrs x21, esr_el1
        0xD538_4020,  # mrs x0, elr_el1
        0x9100_1000,  # add x0, x0, #4
        0xD518_4020,  # msr elr_el1, x0
        0xD69F_03E0,  # eret
    ),
    _IRQ: (
        0xD538_4036,  # mrs x22, elr_el1
        0xD400_0002,  # hvc #0
    ),
}
_LOOP: Final = range(_BASE + 0x1C, _BASE + 0x28)


class _SelfTest:
    """A CPU with the program, and its host: the first call raises the interrupt, the second ends the run.

    :raises EngineError: this build of the library is not one that is known.
    """

    def __init__(self, program: Mapping[int, Sequence[int]], layouts: Mapping[str, LibraryLayout]) -> None:
        memory = GuestMemory(_BASE, 0x1000, "self-test")
        for address, words in program.items():
            memory.write(address, b"".join(word.to_bytes(4, "little") for word in words))
        self._core = InternalsCore(CoreConfig("cortex-a72", [memory], [], self), layouts)
        self._calls = 0

    def passes(self) -> bool:
        """Return whether an exception, a call and an interrupt arrive."""
        self._core.contexts.load(self._core.contexts.new(0, _BASE, 0))
        self._core.run()
        x = self._core.registers()
        return x[19] == _RESULT and x[21] == _BRK_SYNDROME and x[22] in _LOOP

    def hypercall(self, registers: Sequence[int]) -> int:
        self._calls += 1
        self._core.set_irq(self._calls == 1)
        if self._calls > 1:
            self._core.kick()
        return _RESULT

    def read_register(self, register: SysReg) -> int | None:
        return None

    def write_register(self, register: SysReg, value: int) -> bool:
        return False


def passes(
    program: Mapping[int, Sequence[int]] = PROGRAM, layouts: Mapping[str, LibraryLayout] = LAYOUTS
) -> bool:
    """Return whether the internals are known and an exception, a call and an interrupt arrive by them.

    :param program: the self-test's, as words by address.
    :param layouts: the builds that are known, by the host's architecture.
    """
    try:
        return _SelfTest(program, layouts).passes()
    except EngineError:
        return False


@cache
def _pass_once() -> None:
    """Run the self-test with this process's library, which does not change: 3 ms.

    :raises EngineError: it does not pass. The next caller tries again: the host may have lacked memory.
    """
    if not passes():
        raise EngineError("this build of the Unicorn library is not one whose internals are known")


def _is_known(layouts: Mapping[str, LibraryLayout]) -> bool:
    if layouts is not LAYOUTS:
        return passes(layouts=layouts)
    try:
        _pass_once()
    except EngineError:
        return False
    return True


_VALUES: Final = {"internals": ("auto", "on", "off"), "allow-abort": ("off", "on")}
"""The values of each engine option, the default first."""


def make_core(
    options: Mapping[str, str], config: CoreConfig, layouts: Mapping[str, LibraryLayout] = LAYOUTS
) -> Core:
    """Make the emulated CPU that ``options`` ask for.

    :raises UsageError: an unknown option, value or CPU model, or a model that lets a guest end this process.
    :raises EngineError: ``internals=on`` where they cannot be used.
    """
    if unknown := options.keys() - _VALUES.keys() - {BREAK, COUNTER_FREQUENCY}:
        known = ", ".join(f"{name}={'|'.join(values)}" for name, values in _VALUES.items())
        raise UsageError(
            f"engine option {min(unknown)!r}: the unicorn engine has {known}, {BREAK}=NAME and "
            f"{COUNTER_FREQUENCY}=HZ"
        )
    for name, value in options.items():
        if name in (BREAK, COUNTER_FREQUENCY):
            continue
        if value not in _VALUES[name]:
            raise UsageError(f"engine option {name}={value}: give one of {', '.join(_VALUES[name])}")
    chosen = {name: options.get(name, values[0]) for name, values in _VALUES.items()}
    if config.model in ABORTING_MODELS and chosen["allow-abort"] == "off":
        raise UsageError(
            f"CPU model {config.model!r}: any program in the guest can make pvtime abort; "
            "give the engine option allow-abort=on if you trust the guest"
        )
    if chosen["internals"] != "off" and _is_known(layouts):
        return InternalsCore(config, layouts)
    if chosen["internals"] == "on":
        raise EngineError(
            "this build of the Unicorn library is not one whose internals are known: leave out internals=on"
        )
    return PublicCore(config)
