# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots kernels many times on a busy host and looks for what went wrong: an Oops, a stall, no power-off.

What depends on the moment at which a vCPU is taken off the CPU shows up in some boots only: stale translated
code showed as an Oops of PID 1 in up to 6 of 10 boots of 7.0-rt.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pvtime.errors import PvtimeError
from pvtime.images.cache import cache_directory
from pvtime.images.store import stock_images
from pvtime.userland.build import build_initramfs

PVTIME = [sys.executable, "-m", "pvtime", "run"]
LIMIT = 300
"""Seconds after which a boot has failed: a busy host takes some 20."""
WRONG = re.compile(r"Oops|BUG:|WARNING:|Kernel panic|Unable to handle|rcu.*stall|soft lockup|segfault")
BUSY = [sys.executable, "-c", "while True: pass"]


@dataclass(frozen=True)
class Setting:
    """A kernel's boot."""

    kernel: Path
    initrd: Path
    vcpus: int
    options: tuple[str, ...]

    def boot(self) -> str | None:
        """Boot once; return what went wrong, with the console's last lines."""
        files = ["--kernel", str(self.kernel), "--initrd", str(self.initrd)]
        guest = ["--vcpus", str(self.vcpus), "--append", "pvtime.poweroff"]
        options = [word for option in self.options for word in ("--engine-option", option)]
        try:
            done = subprocess.run(
                [*PVTIME, "--engine", "unicorn", *files, *guest, *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired as error:
            return f"no power-off within {LIMIT} s\n{_tail(error.stdout or b'')}"
        text = done.stdout.decode(errors="replace")
        if found := WRONG.search(text):
            return text[max(0, found.start() - 100) : found.start() + 3000]
        if done.returncode or "power-off" not in text:
            return f"exit code {done.returncode}\n{_tail(done.stdout)}"
        return None


def _tail(output: bytes) -> str:
    return output[-2000:].decode(errors="replace")


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Have that many processes compute meanwhile."""
    processes = [subprocess.Popen(BUSY) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(setting: Setting, boots: int) -> int:
    """Boot a kernel so many times; print and return how many boots went wrong."""
    failures = [failure for failure in (setting.boot() for _ in range(boots)) if failure is not None]
    print(f"{setting.kernel.name}, {setting.vcpus} vCPUs: {len(failures)} of {boots} boots wrong", flush=True)
    for failure in failures[:1]:
        print(failure, flush=True)
    return len(failures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Boot all kernels.

    :raises SystemExit: a boot went wrong, or the images are missing.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", nargs="*", type=Path, help="arm64 Images (default: the stock kernel)")
    parser.add_argument(
        "--boots", type=int, default=30, help="of each kernel and number of vCPUs (default: 30)"
    )
    parser.add_argument("--vcpus", type=int, nargs="+", default=[1, 2, 4], help="default: 1 2 4")
    parser.add_argument("--busy", type=int, default=3, help="processes that compute meanwhile (default: 3)")
    parser.add_argument("--engine-option", action="append", default=[], help="as for pvtime run")
    given = parser.parse_args(arguments)
    try:
        images = stock_images(cache_directory())
    except PvtimeError as error:
        raise SystemExit(f"pvtime: {error}") from error
    with tempfile.TemporaryDirectory() as folder, busy(given.busy):
        initrd = Path(folder, "initrd")
        initrd.write_bytes(build_initramfs(images.busybox))
        wrong = sum(
            measure(Setting(kernel, initrd, vcpus, tuple(given.engine_option)), given.boots)
            for kernel in given.kernels or [images.kernel]
            for vcpus in given.vcpus
        )
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
