# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources of the machine that runs: a kernel to boot, a saved machine, or another process."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from pvtime.engine import registry
from pvtime.engine.base import Engine, counter_rate
from pvtime.errors import PvtimeError, UsageError, one_line
from pvtime.machine.image import KernelImage, load_initrd, load_kernel
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.records import dataclass
from pvtime.run.guest_files import GuestFiles, guest_files
from pvtime.run.inbox import Inbox
from pvtime.run.options import GuestOptions, RunOptions
from pvtime.run.save_at import refuse_unsavable

if TYPE_CHECKING:
    from pvtime.images.store import StockImages
    from pvtime.machine.virtio.block import Disk
    from pvtime.run.share import Share
    from pvtime.snapshot.description import Description
    from pvtime.snapshot.endpoint import Endpoint

__all__ = [
    "NO_SCREEN",
    "BuiltMachine",
    "FromKernel",
    "FromMigration",
    "FromSaved",
    "MachineSource",
    "stock_append",
]

NO_SCREEN: Final = os.terminal_size((0, 0))
"""Size of the terminal of a guest that has none."""

RAN_BEFORE: Final = "the machine was running on it before"
"""Reason for the engine of a machine that was saved or migrated."""

_SAFE_TERM: Final = r"[A-Za-z0-9][A-Za-z0-9+._-]{0,40}"
"""Values of TERM that can be one word of a kernel's command line."""


@dataclass(frozen=True)
class BuiltMachine:
    """A machine with an engine that has not started."""

    machine: Machine
    engine: Engine
    agent: bool
    """The stock userland answers on the second serial port."""
    reason: str
    """Reason for this engine, for people."""
    resumed: bool = False
    """The machine was saved or migrated: its userland is up already."""
    release: str | None = None
    """The kernel's release, where it is known before the guest prints it."""
    share: Share | None = None
    """The directory that host and guest share."""
    on_start: Callable[[], object] | None = None
    """Called when the engine has started."""


class MachineSource(Protocol):
    """Builds the machine of a run."""

    def build(self, options: RunOptions, inbox: Inbox, screen: os.terminal_size) -> BuiltMachine:
        """Build the machine and its engine.

        :param inbox: takes the output of the guest's serial ports.
        :param screen: size of an interactive guest's terminal, or :data:`NO_SCREEN`.
        :raises PvtimeError: the machine is not available, or cannot run here.
        """


@dataclass(frozen=True)
class FromKernel:
    """Boot a kernel: the user's own, or the stock one."""

    guest: GuestOptions

    def build(self, options: RunOptions, inbox: Inbox, screen: os.terminal_size) -> BuiltMachine:
        """Read the images that the user named, fetch the others, and build the machine.

        :raises UsageError: an image is invalid, or a stock one is not available.
        """
        kind, reason = registry.choose(self.guest.engine)
        agent = self.guest.initrd is None
        with contextlib.ExitStack() as undo:
            files = guest_files(self.guest)
            undo.callback(files.close)
            config = self.config(kind, options, inbox, screen, files)
            machine, engine = _build(config, kind, options, inbox, files.disks)
            undo.pop_all()
        reason = _reason(machine, engine, reason)
        return BuiltMachine(machine, engine, agent=agent, reason=reason, share=files.share)

    def config(
        self,
        kind: registry.EngineKind,
        options: RunOptions,
        inbox: Inbox,
        screen: os.terminal_size,
        files: GuestFiles,
    ) -> MachineConfig:
        """Return the machine's configuration; before a stock image is fetched, check that it can be.

        :param files: the user's files in the stock guest.
        :raises PvtimeError: it cannot be, or an image is invalid or not available.
        """
        guest = self.guest
        # The user's own files come first: nothing is fetched beside one that is refused.
        kernel = load_kernel(guest.kernel) if guest.kernel else None
        initrd = load_initrd(guest.initrd) if guest.initrd else None
        if kernel is None or initrd is None:
            from pvtime.userland.build import build_initramfs

            if _fetch_needed():
                without_images = self._machine_config(
                    kernel or _NO_KERNEL, initrd or b"", options, screen, files
                )
                _check_arguments(without_images, kind, options, inbox)
            stock = _stock_images(options.progress_output)
            drivers = _disk_drivers(options.progress_output) if files.disks and kernel is None else b""
            kernel = kernel or load_kernel(stock.kernel)
            initrd = initrd or build_initramfs(stock.busybox) + files.archive + drivers
        return self._machine_config(kernel, initrd, options, screen, files)

    def _machine_config(
        self,
        kernel: KernelImage,
        initrd: bytes,
        options: RunOptions,
        screen: os.terminal_size,
        files: GuestFiles,
    ) -> MachineConfig:
        guest = self.guest
        append = guest.append
        if guest.initrd is None:
            term = os.environ.get("TERM", "")
            append = " ".join(
                [*files.words, stock_append(guest, screen if options.interactive else None, term)]
            )
        return MachineConfig(
            vcpus=guest.vcpus,
            memory=guest.memory,
            kernel=kernel,
            initrd=initrd,
            append=append,
            cpu=guest.cpu,
            placement=guest.placement,
            no_pvtime=guest.no_pvtime,
            gic=guest.gic,
            lpt=_native_hz(options) if options.lpt else None,
        )


_NO_KERNEL: Final = KernelImage(b"", text_offset=0, image_size=1 << 20, page_size=None)
"""In the place of one that has to be fetched."""


def _native_hz(options: RunOptions) -> int:
    """Return the frequency of this host's counter, in Hz, which a machine's Live Physical Time begins with.

    :raises UsageError: no counter has the one that was asked for.
    """
    return counter_rate(options.engine_options).hz


def _disk_drivers(output: TextIO | None) -> bytes:
    """Return the stock kernel's drivers for disks, a cpio archive; show a fetch's progress on ``output``.

    :raises ImagesError: they are not available.
    """
    from pvtime.images.cache import cache_directory
    from pvtime.images.disk_drivers import disk_drivers
    from pvtime.report.image_progress import image_progress

    with image_progress(output) as progress:
        return disk_drivers(cache_directory(), progress)


def _fetch_needed() -> bool:
    """Whether a stock image is missing in the cache, or damaged."""
    from pvtime.images.cache import cache_directory
    from pvtime.images.store import ImageState, installed

    return any(image.state is not ImageState.PRESENT for image in installed(cache_directory()))


def _check_arguments(
    config: MachineConfig, kind: registry.EngineKind, options: RunOptions, inbox: Inbox
) -> None:
    """Check that such a machine can be, by building one and dropping it: a fetch takes much longer.

    :raises PvtimeError: it cannot be.
    """
    machine, engine = _build(config, kind, options, inbox)
    engine.stop()
    machine.close()


def _stock_images(output: TextIO | None) -> StockImages:
    """Return the stock images; show on ``output`` how far a fetch has come.

    :raises ImagesError: they are not available.
    """
    from pvtime.images.cache import cache_directory
    from pvtime.images.store import stock_images
    from pvtime.report.image_progress import image_progress

    with image_progress(output) as progress:
        return stock_images(cache_directory(), progress)


def stock_append(guest: GuestOptions, screen: os.terminal_size | None, term: str) -> str:
    """Return the command line of a kernel with the stock userland: words for that, then the user's.

    :param screen: size of an interactive guest's terminal, (0, 0) if unknown; None: it is not interactive.
    :param term: value of TERM.
    """
    busy = guest.busy
    if busy is None:
        busy = guest.vcpus if screen is None else 0
    words = [f"pvtime.busy={busy}"]
    if screen is not None:
        words.append("pvtime.shell")
        if screen.lines and screen.columns:
            words += [f"pvtime.rows={screen.lines}", f"pvtime.cols={screen.columns}"]
        if re.fullmatch(_SAFE_TERM, term):
            words.append(f"pvtime.term={term}")
    if guest.kernel is None:
        from pvtime.userland.build import KERNEL_PARAMETERS

        words.insert(0, KERNEL_PARAMETERS)
    return " ".join(filter(None, [*words, guest.append]))


@dataclass(frozen=True)
class FromSaved:
    """Resume a machine that was saved to a directory."""

    directory: Path

    def build(self, options: RunOptions, inbox: Inbox, screen: os.terminal_size) -> BuiltMachine:
        """Build the machine and restore its state.

        :raises SavedStateError: the directory does not hold a sound machine.
        """
        from pvtime.snapshot.directory import load

        with load(self.directory) as saved:
            machine, engine = _rebuild(saved.description, options, inbox, str(self.directory))
            with contextlib.ExitStack() as undo:
                undo.callback(machine.close)
                undo.callback(engine.stop)
                saved.restore(machine, engine)
                undo.pop_all()
        return _resumed(machine, engine, saved.description)


@dataclass(frozen=True)
class FromMigration:
    """Receive a machine from the process that sends it to ``endpoint``."""

    endpoint: Endpoint

    def build(self, options: RunOptions, inbox: Inbox, screen: os.terminal_size) -> BuiltMachine:
        """Wait for a sender, and build the machine that it sends.

        A peer that sends none is dropped with a line on standard error, and the wait continues.

        :raises MigrationError: too many peers were dropped.
        """
        from pvtime.snapshot.receive import await_machine, confirm

        def tell(text: str) -> None:
            print(f"pvtime: {one_line(text)}", file=sys.stderr, flush=True)

        endpoint, progress = self.endpoint, options.progress_output
        with endpoint.address.listen() as listener:
            if endpoint.prepare_key():
                tell(f"{endpoint.key} is a new key: give a copy to pvtime migrate --key, and to nobody else")
            if progress is not None:
                print(f"pvtime: waiting for a machine at {endpoint.address}", file=progress, flush=True)
            received, stream = await_machine(
                listener,
                endpoint.protect,
                lambda description: _rebuild(description, options, inbox, "the peer's machine"),
                lambda reason: tell(f"a peer was dropped: {reason}"),
            )
        built = _resumed(received.machine, received.engine, received.description)
        return replace(built, on_start=lambda: confirm(stream))


def _rebuild(
    description: Description, options: RunOptions, inbox: Inbox, name: str
) -> tuple[Machine, Engine]:
    """Build a machine that was saved or migrated, and the engine that it was running on.

    :param name: name of the machine, for messages.
    :raises PvtimeError: the engine is unknown, or this host cannot run the machine.
    """
    try:
        kind, _ = registry.choose(description.engine)
        if kind.name != description.engine:
            raise UsageError(f"it was running on the engine {description.engine!r}, which is unknown here")
        config = description.config
        if options.lpt and config.lpt is None:
            config = replace(config, lpt=_native_hz(options))
        return _build(config, kind, options, inbox)
    except PvtimeError as error:
        raise type(error)(f"{name}: {error}") from error


def _reason(machine: Machine, engine: Engine, reason: str) -> str:
    """Return the reason for an engine, and what else a user should know of the machine."""
    lpt = None if machine.lpt is None else f"Live Physical Time (never merged) at {machine.lpt.pv_hz} Hz"
    return "; ".join(filter(None, [f"{engine.name}: {reason}", lpt, engine.notice]))


def _resumed(machine: Machine, engine: Engine, description: Description) -> BuiltMachine:
    return BuiltMachine(
        machine,
        engine,
        agent=description.agent,
        reason=_reason(machine, engine, RAN_BEFORE),
        resumed=True,
        release=description.release,
    )


def _build(
    config: MachineConfig,
    kind: registry.EngineKind,
    options: RunOptions,
    inbox: Inbox,
    disks: Sequence[Disk] = (),
) -> tuple[Machine, Engine]:
    machine = Machine(config, console=inbox.console, agent=inbox.agent, disks=disks)
    try:
        engine = kind.build(machine, options.engine_options, options.steal)
        if options.save_at is not None:
            refuse_unsavable(options.save_at.directory, machine, engine)
        return machine, engine
    except BaseException:
        machine.close()
        raise
