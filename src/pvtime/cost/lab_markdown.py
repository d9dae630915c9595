# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/cost.md: the figures of one run, and what they say about the thread's claims."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path
from typing import Final

from pvtime.cost.lab_cost import (
    LabCost,
)
from pvtime.cost.lab_frequencies import (
    WorkloadRate,
    share,
)
from pvtime.cost.lab_parts import Part
from pvtime.cost.lab_table import cost_tables, markdown_table
from pvtime.cost.lab_updates import (
    AS_MERGED,
    CACHED,
    MISSED_SLOTS,
    STRAIGHT,
    X86,
    UpdateCost,
)
from pvtime.cost.lab_workloads import Workload

__all__ = ["cost_page", "verdicts"]

PAGE: Final = "cost_page.md"
"""The page's text, with fields."""

OBJDUMP: Final = "aarch64-linux-gnu-objdump"
LISTED: Final = (STRAIGHT, AS_MERGED)
"""Updates whose disassembly is shown."""


def verdicts(cost: LabCost) -> list[tuple[str, str]]:
    """Return the thread's claims about cost, each with a sentence; those without a figure are left out."""
    updates = [cost.update(name) for name in (AS_MERGED, STRAIGHT, X86, CACHED)]
    merged, straight, x86, cached = updates
    found: list[tuple[str, str]] = []
    if merged is None:
        return found
    if straight is not None:
        found.append(
            (
                '"put_user is more expensive than a straight store" (Zyngier, Price)',
                f"True: an update takes {merged.instructions} instructions with put_user and "
                f"{straight.instructions} with a straight store. The user accesses alone, a get_user and a "
                f"put_user, are {merged.parts[Part.ACCESS]} of them; finding their address is "
                f"{merged.parts[Part.LOOKUP]}.",
            )
        )
    hypercalls = _rate(cost, Workload.HYPERCALL, 1)
    alone, crowded = _rate(cost, Workload.COMPUTE, 1), _rate(cost, Workload.COMPUTE, 4)
    busiest = max(cost.rates, key=lambda rate: rate.loads, default=None)
    if alone is not None and crowded is not None and busiest is not None:
        found.append(
            (
                '"this isn\'t done too often" (Zyngier)',
                f"True of guests that compute: {alone.loads:.0f} loads a second alone on a CPU, "
                f"{crowded.loads:.0f} for four vCPUs together that share it. Not of a guest that goes to "
                f"user space, or sleeps beside others, all the time: {busiest.loads:.0f}.",
            )
        )
        found.append(
            (
                '"a small hit with put_user()" (Zyngier)',
                f"True: {_percent(merged, crowded.loads, 3)} of the CPU's instructions for four vCPUs that "
                f"compute on one CPU, {_percent(merged, busiest.loads, 1)} at the most loads that were seen "
                f"({busiest.workload}, {busiest.loads:.0f} a second).",
            )
        )
    if hypercalls is not None:
        found.append(
            (
                '"The structure is updated on every return to the VM" (Price)',
                f"False: a guest that makes hypercalls is entered {hypercalls.entries:.0f} times a second "
                f"and loaded {hypercalls.loads:.0f} times. Made at every entry, updates as merged would be "
                f"{_percent(merged, hypercalls.entries, 1)} of the CPU's instructions.",
            )
        )
    if x86 is not None and cached is not None and straight is not None:
        found.append(
            (
                '"Performance can suffer if the host kernel doesn\'t have a suitably aligned/sized area" '
                "(Price, of the third approach)",
                f"Not beside the second: an update in the guest's own memory, as x86 has it, takes "
                f"{x86.instructions} instructions, {merged.instructions} as merged. It looks its address up "
                f"once and keeps it; the second approach with a kept address takes {cached.instructions}. "
                f"All are far from the {straight.instructions} of the first.",
            )
        )
    return found


def _percent(update: UpdateCost, rate: float, digits: int) -> str:
    return f"{100 * share(update.instructions, rate):.{digits}f} %"


def _rate(cost: LabCost, workload: Workload, vcpus: int) -> WorkloadRate | None:
    return next((r for r in cost.rates if (r.workload, r.vcpus) == (workload.value, vcpus)), None)


def cost_page(cost: LabCost) -> str:
    """Return the page."""
    updates, growth, rates, shares, entries, ticks = (markdown_table(table) for table in cost_tables(cost))
    claims = "".join(f"| {claim} | {verdict} |\n" for claim, verdict in verdicts(cost))
    absent = "".join(f"\nNot measured: {name}: {reason}.\n" for name, reason in cost.absent.items())
    listings = "".join(_listing(update) for name in LISTED if (update := cost.update(name)))
    template = (resources.files(__package__) / PAGE).read_text()
    return template.format(
        date=cost.date,
        kernel=cost.kernel,
        qemu=cost.qemu,
        cpu=cost.cpu,
        claims=claims,
        updates=updates + absent,
        functions=_functions(cost),
        growth=growth,
        missed=MISSED_SLOTS,
        rates=rates,
        shares=shares,
        entries=entries,
        ticks=ticks + _tick_sentence(cost),
        listings=listings,
    )


def _functions(cost: LabCost) -> str:
    lines = []
    for update in cost.updates:
        counts = ", ".join(f"`{name}` {count}" for name, count in update.functions.items())
        lines.append(f"  - {update.name}: {counts}\n")
    return "".join(lines)


def _tick_sentence(cost: LabCost) -> str:
    by_kind = {tick.stolen_time: tick for tick in cost.ticks}
    if len(by_kind) < 2:
        return ""
    functions = by_kind[True].functions
    more = min(by_kind[True].accounted) - min(by_kind[False].accounted)
    parts = ", ".join(f"`{name}` {count}" for name, count in functions.items())
    return f"\n{more} instructions a tick more with stolen time. With it: {parts}.\n"


def _listing(update: UpdateCost) -> str:
    """Return a function's executed instructions, with how often each was; nothing without a disassembler."""
    if shutil.which(OBJDUMP) is None:
        return ""
    code = b"".join(word.to_bytes(4, "little") for word, _ in update.listing.values())
    with tempfile.TemporaryDirectory(prefix="pvtime-cost-") as name:
        file = Path(name) / "code"
        file.write_bytes(code)
        command = [OBJDUMP, "-b", "binary", "-m", "aarch64", "-D", "--no-show-raw-insn", str(file)]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    words = [line.partition(":\t")[2].strip() for line in text.splitlines() if ":\t" in line]
    if len(words) != len(update.listing):
        return ""
    lines = [
        f"    {offset:4x}  {times}  {' '.join(words[index].partition('//')[0].split())}\n"
        for index, (offset, (_, times)) in enumerate(update.listing.items())
    ]
    executed = sum(times for _, times in update.listing.values())
    below = update.instructions - executed
    return (
        f"\n`{update.function}`, {update.name}: {executed} instructions of its own and {below} of what it "
        f"calls, {update.instructions} together. (The targets of branches are not those of the kernel.)\n\n"
        + "".join(lines)
    )
