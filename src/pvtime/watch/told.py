# SPDX-License-Identifier: GPL-2.0-or-later
"""Sentences on a guest's knowledge of its stolen time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pvtime.watch.guests import GuestFigures
from pvtime.watch.own_machines import OwnVcpu

__all__ = ["guest_sentences", "told_sentences"]

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


def guest_sentences(before: GuestFigures, after: GuestFigures) -> list[str]:
    """Return what there is to say of a guest of another VMM's; nothing where all is well.

    :param before: its figures at the beginning of a time.
    :param after: at its end.
    """
    if after.told.told is False:
        return [f"the guest was never told: {after.told.why}"]
    known = {vcpu.index: vcpu.counts for vcpu in before.vcpus}
    blind, looked = [], False
    for vcpu in after.vcpus:
        first, last = known.get(vcpu.index), vcpu.counts
        if first is None or last is None:
            continue
        stolen, counted = last[0] - first[0], last[1] - first[1]
        looked = looked or counted > 0
        if stolen > NOTABLE_NS > 10 * counted:
            blind.append(str(vcpu.index))
    if blind and after.told.told:
        return [f"told, but its kernel does not look: {_vcpus(blind)} shows next to no steal"]
    if after.told.told is None and not looked:
        return [f"not known whether the guest is told: {after.told.why}"]
    return []


def _vcpus(indices: list[str]) -> str:
    return f"vCPU {' and '.join(indices)}"
