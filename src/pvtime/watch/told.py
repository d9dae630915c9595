# SPDX-License-Identifier: GPL-2.0-or-later
"""Sentences on a guest of pvtime's own: its knowledge of its stolen time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pvtime.watch.own_machines import OwnVcpu

__all__ = ["told_sentences"]

NOTABLE_NS: Final = 1_000_000_000
"""Stolen time from which on a guest's kernel must have seen some."""


def told_sentences(vcpus: Sequence[OwnVcpu]) -> list[str]:
    """Return what there is to say of a machine's vCPUs; nothing where all is well."""
    untold = [str(vcpu.index) for vcpu in vcpus if not vcpu.told]
    blind = [
        str(vcpu.index)
        for vcpu in vcpus
        if vcpu.told and vcpu.guest_ns is not None and vcpu.truth_ns > NOTABLE_NS > 10 * vcpu.guest_ns
    ]
    apart = [
        str(vcpu.index)
        for vcpu in vcpus
        if vcpu.told and vcpu.structure_ns is not None and vcpu.structure_ns != vcpu.truth_ns
    ]
    found = []
    if untold:
        found.append(f"the guest was never told: {_vcpus(untold)} has no stolen time")
    if blind:
        found.append(f"told, but its kernel does not look: {_vcpus(blind)} shows next to no steal")
    if apart:
        found.append(f"the guest is told something else than the truth: {_vcpus(apart)}")
    return found


def _vcpus(indices: list[str]) -> str:
    return f"vCPU {' and '.join(indices)}"
