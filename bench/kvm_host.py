# SPDX-License-Identifier: GPL-2.0-or-later
"""The half of bench/kvm.py that runs on the arm64 host: boots and exits, one line of JSON for each figure."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pvtime.abi.ns16550 import Reg
from pvtime.abi.psci import Psci
from pvtime.engine.kvm.engine import KvmEngine
from pvtime.images.cache import cache_directory
from pvtime.images.store import stock_images
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import AGENT, RAM_BASE
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.probe.assembler import MPIDR_EL1, Program
from pvtime.userland.build import build_initramfs

MEMORY = 512
"""MiB."""
TIMEOUT_S = 120
"""Time after which a boot has failed, in s."""
WINDOW_S = 1.0
"""Time in which exits are counted, in s."""
READ_COUNTS = RAM_BASE + (1 << 20)
"""Address of the vCPUs' counts of their reads."""

VCPUS = (1, 2)
QEMU = [
    *("qemu-system-aarch64", "-M", "virt,gic-version=3", "-accel", "kvm", "-cpu", "host,kvm-steal-time=on"),
    *("-m", str(MEMORY), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
    "-no-reboot",
]


def commands(kernel: Path, initrd: Path, vcpus: int, quiet: bool) -> dict[str, list[str]]:
    """Return the commands that boot the same guest, by VMM."""
    append = "pvtime.poweroff quiet" if quiet else "pvtime.poweroff"
    ours = ["pvtime", "run", "--engine", "kvm", "--memory", f"{MEMORY}M", "--vcpus", str(vcpus)]
    files = ["--kernel", str(kernel), "--initrd", str(initrd), "--append", append]
    theirs = ["-smp", str(vcpus), "-kernel", str(kernel), "-initrd", str(initrd), "-append", append]
    return {"pvtime": [*ours, *files, *(["--quiet"] if quiet else [])], "QEMU": [*QEMU, *theirs]}


def boot(command: Sequence[str]) -> float:
    """Return the seconds from the start of ``command`` to its end.

    :raises SystemExit: it failed, or its guest did not power off.
    """
    start = time.monotonic()
    with Path("/tmp/console").open("wb") as console:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                check=False,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise SystemExit(f"no power-off within {TIMEOUT_S} s: {' '.join(command)}") from None
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {Path('/tmp/console').read_text(errors='replace')}")
    return time.monotonic() - start


def reader(vcpus: int) -> Program:
    """Return a guest whose vCPUs read the line status of a serial port and count, for ever."""
    program = Program(RAM_BASE)
    for target in range(1, vcpus):
        program.mov(0, Psci.CPU_ON_64).mov(1, target).adr(2, "count").mov(3, 0).hvc()
    program.label("count").mrs(9, MPIDR_EL1).low_bits(9, 9, 8)
    program.mov(10, READ_COUNTS).add_register(10, 10, 9, shift=6).mov(11, AGENT.base + Reg.LSR).mov(12, 0)
    return program.label("again").load(13, 11, size=1).add(12, 12, 1).store(12, 10).b("again")


def exits(vcpus: int) -> float:
    """Return the reads of a device register that all vCPUs make together, per second."""
    kernel = KernelImage(reader(vcpus).assemble(), 0, 2 << 20, None)
    machine = Machine(MachineConfig(vcpus, 64 << 20, kernel), lambda _: None, lambda _: None)
    engine = KvmEngine(machine)

    def counts() -> list[int]:
        return [machine.memory.load_u64(READ_COUNTS + 64 * vcpu) for vcpu in range(vcpus)]

    try:
        engine.start()
        while not all(counts()):
            if engine.wait(0.01) is not None:
                raise SystemExit("the guest that reads ended by itself")
        before, start = sum(counts()), time.monotonic()
        time.sleep(WINDOW_S)
        return (sum(counts()) - before) / (time.monotonic() - start)
    finally:
        engine.stop()
        machine.close()


def main(rounds: int) -> None:
    """Measure everything in turn, so that a host that gets slower slows all alike."""
    images = stock_images(cache_directory())
    initrd = Path("/tmp/initrd")
    initrd.write_bytes(build_initramfs(images.busybox))
    for warm in commands(images.kernel, initrd, 1, True).values():
        boot(warm)
    for _ in range(rounds):
        for vcpus in VCPUS:
            for quiet in (True, False):
                console = "quiet" if quiet else "not quiet"
                for name, command in commands(images.kernel, initrd, vcpus, quiet).items():
                    print(json.dumps([f"{vcpus} vCPU, {console}", name, boot(command)]), flush=True)
            print(json.dumps(["exits", str(vcpus), exits(vcpus)]), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
