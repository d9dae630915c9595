# SPDX-License-Identifier: GPL-2.0-or-later
"""Sentences on a guest's knowledge of its stolen time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pvtime.host.vms import HostVm
from pvtime.watch.guests import GuestFigures, told_from_outside
from pvtime.watch.own_machines import OwnVcpu

__all__ = ["guest_sentences", "told_sentences", "untold_sentences"]

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
        found.append(_never_told(f"{_vcpus(untold)} has no stolen time"))
    if blind:
        found.append(f"told, but its kernel does not look: {_vcpus(blind)} shows next to no steal")
    if apart:
        found.append(f"the guest is told something else than the truth: {_vcpus(apart)}")
    return found


def untold_sentences(vms: Iterable[HostVm]) -> dict[int, str]:
    """Return a sentence for each VM whose command line says that its guest is not told, by process."""
    told = {vm.pid: told_from_outside(vm) for vm in vms}
    return {pid: _never_told(found.why) for pid, found in told.items() if found.told is False}


def _never_told(why: str) -> str:
    return f"the guest was never told: {why}"


def guest_sentences(before: GuestFigures, after: GuestFigures) -> list[str]:
    """Return what there is to say of a guest of another VMM's; nothing where all is well.

    :param before: its figures at the beginning of a time.
    :param after: at its end.
    """
    if after.told.told is False:
        return [_never_told(after.told.why)]
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
