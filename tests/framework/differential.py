# SPDX-License-Identifier: GPL-2.0-or-later
"""Generated sequences of hypervisor calls, and a payload that makes them all in one boot of any engine.

As a program, ``python3 -m framework.differential ENGINE FILE [SEQUENCES]`` makes them and writes the answers
as JSON.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from framework.engines import CHOICES, Choice
from framework.payload import RESULTS, Payload, boot_on
from framework.wait import DEADLINE
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime
from pvtime.abi.smccc import Smccc
from pvtime.engine.base import Outcome
from pvtime.machine.gic import GicVersion
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME

__all__ = ["SEQUENCES", "Answers", "Call", "answers_of", "differences", "generate"]

SEQUENCES: Final = 2000
SEED: Final = 0xDE_0057
PARK: Final = RAM_BASE + 0x8000
"""Where CPU_ON sends vCPU 1: it says with what argument, and switches itself off when it is told to."""

_U32: Final = (1 << 32) - 1
_U64: Final = (1 << 64) - 1
_NEVER: Final = frozenset(
    {Psci.SYSTEM_OFF, Psci.SYSTEM_RESET, Psci.CPU_OFF, Psci.CPU_SUSPEND, Psci.CPU_SUSPEND_64}
)
"""These end the machine, or stop the vCPU that makes the calls; tests/behaviour has them one by one."""

_KNOWN: Final[list[int]] = [*Smccc, *PvTime, *(function for function in Psci if function not in _NEVER)]
_WORKAROUNDS: Final = (0x8000_8000, 0x8000_7FFF, 0x8000_3FFF)
_TRNG: Final = (0x8400_0050, 0x8400_0051, 0x8400_0052, 0x8400_0053, 0xC400_0053)
_VENDOR: Final = (0x8600_FF01, 0x8600_0000, 0x8600_0001)
_EDGES: Final[list[int]] = [
    0,
    1,
    2,
    3,
    4,
    0xFF,
    0x100,
    0x7FFF_FFFF,
    1 << 31,
    _U32,
    1 << 32,
    1 << 40,
    1 << 63,
    _U64,
]

_CALLS: Final = RAM_BASE + (8 << 20)
_ANSWERS: Final = RAM_BASE + (16 << 20)
_CALL: Final = struct.Struct("<5Q")
_ANSWER: Final = struct.Struct("<13Q")
_FILLED: Final = 1 << 62
"""ns of stolen time that a call finds in the structure; all other bits there are ones."""
_PRECISION: Final = 40
"""Bits of stolen time that really was stolen, which no two runs have in common."""
KEPT: Final = [_U64, _FILLED >> _PRECISION, *[_U64] * 6]
ZEROED: Final = [0] * 8


@dataclass(frozen=True)
class Call:
    """X0 to X3, and whether it is the last of its sequence: vCPU 1 is switched off behind it."""

    x: tuple[int, int, int, int]
    last: bool

    @property
    def function(self) -> int:
        """What both engines look at."""
        return self.x[0] & _U32


def _differs_by_design(call: Call) -> str | None:
    """Return the row of the table in docs/hypercalls.md that excuses a difference."""
    asked = call.x[1] & _U32
    if call.function in _WORKAROUNDS or (call.function == Smccc.ARCH_FEATURES and asked in _WORKAROUNDS):
        return "SMCCC_ARCH_WORKAROUND"
    if call.function in _TRNG:
        return "TRNG"
    if call.function in _VENDOR:
        return "vendor-specific hypervisor services"
    return None


def differences(calls: list[Call], theirs: Answers, ours: Answers) -> list[str]:
    """Return the calls that were answered differently, but for those that differ by design."""
    return [
        f"{[hex(x) for x in call.x]}: kvm {their}, embedded {our}"
        for call, their, our in zip(calls, theirs.given, ours.given, strict=True)
        if their != our and not _differs_by_design(call)
    ]


def _function(draw: random.Random) -> int:
    kind = draw.random()
    if kind < 0.7:
        function = draw.choice(_KNOWN)
    elif kind < 0.8:
        function = draw.choice([*_KNOWN, *_WORKAROUNDS, *_TRNG, *_VENDOR]) + draw.choice([-1, 1, 2])
    elif kind < 0.9:
        function = draw.choice([*_WORKAROUNDS, *_TRNG, *_VENDOR])
    else:
        function = draw.getrandbits(32)
    return function & _U32


def _argument(draw: random.Random) -> int:
    kind = draw.random()
    if kind < 0.45:
        return draw.choice(_EDGES)
    if kind < 0.8:
        return draw.choice(_KNOWN) | draw.choice([0, 0, 1 << 32, draw.getrandbits(32) << 32])
    return draw.getrandbits(64)


def _call(draw: random.Random, last: bool) -> Call:
    while (function := _function(draw)) in _NEVER:
        pass
    arguments = [_argument(draw) for _ in range(3)]
    if function in (Psci.CPU_ON, Psci.CPU_ON_64):
        upper = draw.getrandbits(32) << 32 if function == Psci.CPU_ON else 0
        arguments[1] = PARK | upper
        if draw.random() < 0.5:
            arguments[0] = 1 | upper
    elif function in (Psci.SYSTEM_RESET2, Psci.SYSTEM_RESET2_64):
        # Types between the architecture's only one and the vendor's own: the others do reset.
        arguments[0] = draw.randint(1, 0x7FFF_FFFF) | draw.choice([0, draw.getrandbits(32) << 32])
    elif function in (Psci.AFFINITY_INFO, Psci.AFFINITY_INFO_64) and draw.random() < 0.7:
        arguments[:2] = [draw.choice(_EDGES), draw.randint(0, 4)]
    upper = draw.choice([0, 0, 0, draw.getrandbits(32) << 32])
    return Call((function | upper, *arguments), last)  # type: ignore[arg-type]


def generate(sequences: int = SEQUENCES) -> list[Call]:
    """Return the calls of so many sequences: the same ones wherever this is asked."""
    draw = random.Random(SEED)
    lengths = [draw.randint(1, 6) for _ in range(sequences)]
    return [_call(draw, number == length - 1) for length in lengths for number in range(length)]


def _payload() -> Payload:
    """Return the program: for each call fill the structure, make it, and store registers and structure."""
    mailbox = RESULTS
    code = Payload().mov(19, _CALLS).mov(20, _ANSWERS).mov(21, RESULTS + 64).load(21, 21)
    code.mov(22, STOLEN_TIME.base).mov(23, _U64).mov(24, _FILLED).mov(25, mailbox)
    code.label("next").cbz(21, "over")
    for offset in range(0, 64, 8):
        code.store(24 if offset == 8 else 23, 22, offset)
    for register in range(4):
        code.load(register, 19, 8 * register)
    code.hvc()
    for register in range(4):
        code.store(register, 20, 8 * register)
    for offset in range(0, 64, 8):
        code.load(4, 22, offset).store(4, 20, 32 + offset)
    code.load(5, 19, 32).cbz(5, "go on").call(Psci.AFFINITY_INFO_64, 1, 0).cbnz(0, "go on")
    code.mov(6, 1).store(6, 25).label("still on").call(Psci.AFFINITY_INFO_64, 1, 0).cbz(0, "still on")
    code.load(6, 25, 8).store(6, 20, 96).store(31, 25).store(31, 25, 8)
    code.label("go on").add(19, 19, _CALL.size).add(20, 20, _ANSWER.size).sub(21, 21, 1).b("next")
    code.label("over").power_off()
    while code.here < PARK:
        code.halt()
    code.mov(25, mailbox).store(0, 25, 8).label("parked").load(1, 25).cbz(1, "parked")
    return code.cpu_off()


@dataclass(frozen=True)
class Answers:
    """What came of all calls: for each X0 to X3, the structure, and what vCPU 1 was switched on with."""

    asked: str
    """A digest of the calls."""
    given: list[list[object]]


def answers_of(engine: Choice, gic: GicVersion = GicVersion.AUTO, sequences: int = SEQUENCES) -> Answers:
    """Make all calls in one boot."""
    calls = generate(sequences)
    table = b"".join(_CALL.pack(*call.x, call.last) for call in calls)
    with boot_on(engine, _payload(), vcpus=2, gic=gic) as guest:
        load = guest.machine.load

        def load_with_table(flavour: object, timers: object) -> object:
            entry = load(flavour, timers)  # type: ignore[arg-type]
            guest.machine.memory.write(_CALLS, table)
            guest.tell(8, len(calls))
            return entry

        guest.machine.load = load_with_table  # type: ignore[method-assign, assignment]
        guest.engine.start()
        assert guest.engine.wait(DEADLINE) is Outcome.POWER_OFF, "the sequences do not end"
        raw = guest.machine.memory.read(_ANSWERS, _ANSWER.size * len(calls))
    given = [[*words[:4], _judged(words[4:12]), words[12]] for words in _ANSWER.iter_unpack(raw)]
    return Answers(hashlib.sha256(table).hexdigest(), given)


def _judged(structure: tuple[int, ...]) -> object:
    """Return what became of the structure, but for the nanoseconds that were stolen meanwhile."""
    words = [structure[0], structure[1] >> _PRECISION, *structure[2:]]
    return {str(KEPT): "kept", str(ZEROED): "zeroed"}.get(str(words), words)


if __name__ == "__main__":
    asked = int(sys.argv[3]) if len(sys.argv) > 3 else SEQUENCES
    found = answers_of(CHOICES[sys.argv[1]][0], sequences=asked)
    Path(sys.argv[2]).write_text(json.dumps(asdict(found), separators=(",", ":")))
