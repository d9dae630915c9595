# SPDX-License-Identifier: GPL-2.0-or-later
"""kexec for real: Debian's kernel starts itself again in the same machine, without a reset.

The first kernel enables stolen time and keeps its vCPUs busy, so that they steal from each other; then
kexec-tools loads the same kernel and jumps into it. Nothing tells the hypervisor: it counts on, into a
structure that is not in the guest's RAM, until the second kernel's PV_TIME_ST starts each count from zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pvtime.errors import UsageError
from pvtime.images.cache import FetchProgress, cache_directory, silent
from pvtime.images.kexec import kexec_archive
from pvtime.images.store import stock_images
from pvtime.machine.image import KernelImage, load_kernel
from pvtime.machine.machine import MachineConfig
from pvtime.scenario.events import Event, Finding, Step
from pvtime.scenario.linux_guest import APPEND, Kernel, LinuxGuest, linux_guest
from pvtime.steal.placement import PlacementName
from pvtime.userland import cpio
from pvtime.userland.build import build_initramfs
from pvtime.userland.protocol import Ready

__all__ = ["MIN_STOLEN_NS", "KexecRun", "explain", "real", "run"]

MEMORY: Final = 512 << 20
"""Bytes: the kernel is there five times, as it runs, in the archive, its unpacked file, kexec's buffer and
the place it is copied to. 256 MiB were enough for Linux 6.1."""

MIN_STOLEN_NS: Final = 100_000_000
"""Stolen from each busy vCPU before its kernel ends: ten ticks of /proc/stat."""


@dataclass(frozen=True)
class KexecRun:
    """The two kernels, in the order in which they ran."""

    first: Kernel
    second: Kernel


def run(
    progress: FetchProgress = silent,
    vcpus: int = 2,
    placement: PlacementName = PlacementName.USERSPACE,
    options: Mapping[str, str] | None = None,
) -> KexecRun:
    """Boot, kexec, and power off.

    :param progress: told of each step, and of a fetch where kexec-tools are not in the cache.
    :param options: the embedded engine's.
    :raises UsageError: fewer than two vCPUs, which do not steal from each other; a placement that Linux does
        not know; or the images cannot be had.
    :raises EngineError: the guest did not do its part.
    """
    if vcpus < 2:
        raise UsageError(f"kexec with {vcpus} vCPU: give 2 or more, which steal from each other")
    if placement is PlacementName.GUEST:
        raise UsageError("kexec of a real kernel: Linux for arm64 gives no memory for stolen time")
    cache = cache_directory()
    images = stock_images(cache, progress)
    tools = kexec_archive(cache, progress)
    kernel = load_kernel(images.kernel)
    initrd = _initramfs(build_initramfs(images.busybox), tools, kernel)
    config = MachineConfig(vcpus, MEMORY, kernel, initrd, APPEND, placement=placement)
    with linux_guest(config, options or {}) as guest:
        progress("the first kernel boots", 0, None)
        _use(guest, vcpus, progress)
        progress("kexec", 0, None)
        guest.end_kernel("kexec")
        progress("the second kernel boots", 0, None)
        _use(guest, vcpus, progress)
        guest.end_kernel("stop")
        guest.wait_for_power_off()
        first, second = guest.kernels
    return KexecRun(first, second)


def _initramfs(stock: bytes, tools: bytes, kernel: KernelImage) -> bytes:
    """Return the first kernel's initramfs: the second's, kexec-tools, and what to kexec into."""
    entries = [
        cpio.directory("kexec"),
        cpio.regular("kexec/kernel", kernel.data),
        cpio.regular("kexec/initrd", stock),
    ]
    return stock + tools + cpio.archive(entries)


def _use(guest: LinuxGuest, vcpus: int, progress: FetchProgress) -> None:
    """Wait for a kernel's userland, and keep the vCPUs busy until each has been stolen from."""
    guest.wait_for(Ready, "userland")
    progress("its vCPUs are busy, and steal from each other", 0, None)
    guest.command("busy", vcpus)
    enough = [sample.truth_ns + MIN_STOLEN_NS for sample in guest.engine.sample()]
    guest.until(
        lambda now: all(sample.truth_ns >= ns for sample, ns in zip(now, enough, strict=True)),
        "stolen time of busy vCPUs",
    )
    guest.command("idle")


def explain(run: KexecRun) -> Iterator[str]:
    """Yield what happened, as lines for a person."""
    yield f"Linux {run.first.release} {_found(run.first)}."
    for index, end in enumerate(run.first.end):
        yield f"  vCPU {index}: {_figures(end.truth_ns, end.count_ns, run.first.steal_ns[index])}"
    yield f"It started Linux {run.second.release} by kexec, which {_found(run.second)}."
    for call in run.second.calls:
        yield (
            f"  vCPU {call.vcpu}: its PV_TIME_ST found {_ms(call.before.count_ns)} in the structure, "
            f"and left {_ms(call.after.count_ns)}"
        )
    yield "At its end:"
    for index, end in enumerate(run.second.end):
        yield f"  vCPU {index}: {_figures(end.truth_ns, end.count_ns, run.second.steal_ns[index])}"
    yield (
        "The structures are outside of the guest's RAM: nothing that the hypervisor wrote between the two "
        "kernels is in the second one's data, and nothing had to be disabled."
    )


def _found(kernel: Kernel) -> str:
    return "uses stolen time" if kernel.found else "does not use stolen time"


def _figures(truth_ns: int, structure_ns: int, steal_ns: int | None) -> str:
    stat = "has no such CPU" if steal_ns is None else f"says {_ms(steal_ns)}"
    return f"{_ms(truth_ns)} stolen, {_ms(structure_ns)} in the structure, /proc/stat {stat}"


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.3f} ms"


def real(progress: FetchProgress, placement: PlacementName) -> Iterator[Event]:
    """Run it as a scenario; see :attr:`Scenario.real`."""
    kernels = run(progress, placement=placement)
    for line in explain(kernels):
        yield Step(line.strip())
    observed = "uses stolen time" if kernels.second.found else "does not find it"
    yield Finding("the second kernel", observed, "uses stolen time")
    calls = kernels.second.calls
    zero = calls and all(call.after.count_ns == 0 < call.before.count_ns for call in calls)
    yield Finding(
        "the second kernel's count", "starts from zero" if zero else "continues", "starts from zero"
    )
    exact = all(end.truth_ns == end.structure_ns for end in kernels.second.end)
    yield Finding("truth and structure at its end", "equal" if exact else "different", "equal")
