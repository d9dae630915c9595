# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of an update: which of its instructions are for what.

An instruction belongs to the part of the outermost function below the update that has one; the update's own
instructions are the rest, but for the user accesses, which the compiler has inlined into it: from the branch
that follows the look-up of the address, over the unprivileged load or store (LDTR, STTR), to the branch on
its error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pvtime.cost.lab_steps import ExecutedInstruction, FunctionRun

__all__ = ["Part", "PartCounts", "function_counts", "parts_of"]


class Part(Enum):
    """The purpose of instructions of an update."""

    SRCU = "SRCU"
    LOOKUP = "memslot lookup"
    ACCESS = "user access"
    DIRTY = "dirty mark"
    REST = "the rest"


PREFIXES: Final = {
    "__srcu_read_": Part.SRCU,
    "gfn_to_": Part.LOOKUP,
    "__gfn_to_": Part.LOOKUP,
    "__kvm_gfn_to_hva_cache_init": Part.LOOKUP,
    "kvm_gfn_to_hva_cache_init": Part.LOOKUP,
    "kvm_vcpu_gfn_to_": Part.LOOKUP,
    "search_memslots": Part.LOOKUP,
    "mark_page_dirty": Part.DIRTY,
    "kvm_vcpu_mark_page_dirty": Part.DIRTY,
    "__arch_copy_": Part.ACCESS,
    "__check_object_size": Part.ACCESS,
}
"""The parts of functions, by the beginning of their names."""

PartCounts = dict[Part, int]


@dataclass(frozen=True)
class _Code:
    """A set of instructions: those that are ``value`` in the bits of ``mask``."""

    mask: int
    value: int

    def has(self, instruction: ExecutedInstruction) -> bool:
        return instruction.word & self.mask == self.value


# Arm ARM, C4.1.
CALLS: Final = (_Code(0xFC00_0000, 0x9400_0000), _Code(0xFEFF_F000, 0xD63F_0000))
"""BL; BLR, BLRAA and their kind."""
RETURNS: Final = (_Code(0xFFFF_FC1F, 0xD65F_0000), _Code(0xFFFF_FBFF, 0xD65F_0BFF))
"""RET; RETAA, RETAB."""
BRANCHES: Final = (
    _Code(0xFF00_0010, 0x5400_0000),
    _Code(0x7E00_0000, 0x3400_0000),
    _Code(0x7E00_0000, 0x3600_0000),
)
"""B.cond; CBZ, CBNZ; TBZ, TBNZ."""
UNPRIVILEGED: Final = _Code(0x3B20_0C00, 0x3800_0800)
"""LDTR, STTR and their kind."""


def _is(instruction: ExecutedInstruction, codes: Sequence[_Code]) -> bool:
    return any(code.has(instruction) for code in codes)


def parts_of(run: FunctionRun, *, tell_accesses: bool = True) -> PartCounts:
    """Return the number of instructions of each part; they add up to the run's.

    :param tell_accesses: tell inlined user accesses from the rest: where each follows a look-up.
    """
    accesses = _inlined_accesses(run) if tell_accesses else set()
    counts = dict.fromkeys(Part, 0)
    frames: list[_Frame] = []
    entered = False
    for index, instruction in enumerate(run.path):
        if entered:
            inherited = frames[-1].part if frames else None
            frames.append(_Frame(instruction.function, inherited or _part_of(instruction.function)))
        elif frames and frames[-1].part is None and frames[-1].function != instruction.function:
            # It was jumped to, as by the veneers through which a module calls the kernel.
            frames[-1] = _Frame(instruction.function, _part_of(instruction.function))
        part = frames[-1].part if frames else None
        counts[part or (Part.ACCESS if index in accesses else Part.REST)] += 1
        entered = _is(instruction, CALLS)
        if _is(instruction, RETURNS) and frames:
            frames.pop()
    return counts


@dataclass(frozen=True)
class _Frame:
    """A call below the update."""

    function: str
    part: Part | None


def _part_of(function: str) -> Part | None:
    return next((part for prefix, part in PREFIXES.items() if function.startswith(prefix)), None)


def _inlined_accesses(run: FunctionRun) -> set[int]:
    """Return the indices, in the path, of the run's own instructions that make user accesses."""
    own = [index for index, each in enumerate(run.path) if each.function == run.function]
    found: set[int] = set()
    for position, index in enumerate(own):
        if not UNPRIVILEGED.has(run.path[index]):
            continue
        first = position
        # Back to the call before it, and from there on to behind the first branch.
        while first and own[first - 1] == own[first] - 1:
            first -= 1
        branch = next((at for at in range(first, position) if _is(run.path[own[at]], BRANCHES)), first - 1)
        last = position
        while last + 1 < len(own) and own[last + 1] == own[last] + 1:
            last += 1
            if _is(run.path[own[last]], BRANCHES):
                break
        found.update(own[branch + 1 : last + 1])
    return found


def function_counts(run: FunctionRun) -> dict[str, int]:
    """Return the number of instructions in each function, the most first."""
    return dict(Counter(instruction.function for instruction in run.path).most_common())
