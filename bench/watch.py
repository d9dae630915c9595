#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of watching: pvtime top and export by the number of VMs, pvtime who by switches a second.

The VMs are processes with threads of the right names, four a VM, which sleep; while pvtime who is measured a
second time, a VM on each CPU computes with one vCPU, and waits for those that switch. CPU time is this
process's own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

from pvtime.errors import UsageError
from pvtime.host.schedstat import allow_many_files
from pvtime.host.vms import VmFinder
from pvtime.watch.exporter import HostCollector
from pvtime.watch.sampler import HostSampler
from pvtime.watch.who import WhoSession

VCPUS: Final = 4
SAMPLES: Final = 20
FLEETS: Final = (10, 100, 1000)
TRACED_S: Final = 5

FLEET: Final = """
import os, sys, threading, signal
def name(text):
    with open("/proc/thread-self/comm", "w") as file:
        file.write(text)
def vcpu(index):
    name(f"CPU {index}/KVM")
    if spins:
        os.sched_setaffinity(0, {spins.pop()})
        while True:
            pass
    signal.pause() if threading.current_thread() is threading.main_thread() else threading.Event().wait()
count, vcpus, *cpus = map(int, sys.argv[1:])
parent = os.getpid()
for number in range(count):
    if os.fork() == 0:
        spins = cpus[number:number + 1]
        name("qemu-system-x86")
        for index in range(vcpus):
            threading.Thread(target=vcpu, args=(index,), daemon=True).start()
        while os.getppid() == parent:
            threading.Event().wait(1)
        os._exit(0)
print(flush=True)
sys.stdin.read()
"""

SWITCHER: Final = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
a, b = os.pipe(), os.pipe()
if os.fork() == 0:
    while os.read(a[0], 1):
        os.write(b[1], b"x")
    os._exit(0)
while True:
    os.write(a[1], b"x")
    os.read(b[0], 1)
"""


@contextlib.contextmanager
def program(text: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Have a Python program run during a ``with`` block, and end with its input."""
    command = [sys.executable, "-I", "-S", "-c", text, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, 9)


def fleet_cost(vms: int) -> tuple[float, float, float]:
    """Return the CPU time of the first sample, of each after it, and of a scrape, in ms."""
    with program(FLEET, vms, VCPUS) as fleet:
        assert fleet.stdout is not None
        fleet.stdout.readline()
        while sum(len(vm.vcpus) for vm in VmFinder().find()) < vms * VCPUS:
            time.sleep(0.2)
        sampler = HostSampler()
        begin = time.process_time()
        sampler.sample()
        first = time.process_time() - begin
        begin = time.process_time()
        for _ in range(SAMPLES):
            sampler.sample()
        each = (time.process_time() - begin) / SAMPLES
        registry = CollectorRegistry()
        registry.register(HostCollector(sampler, own=list))
        generate_latest(registry)
        begin = time.process_time()
        generate_latest(registry)
        scrape = time.process_time() - begin
        sampler.close()
    return first * 1e3, each * 1e3, scrape * 1e3


def who_cost(*, waiting: bool) -> str:
    """Return what tracing takes while processes switch as fast as they can.

    :param waiting: a vCPU on each CPU always wants to run.
    """
    cpus = sorted(os.sched_getaffinity(0))
    fleet_of = (len(cpus), 1, *cpus) if waiting else (1, VCPUS)
    with program(FLEET, *fleet_of) as fleet, contextlib.ExitStack() as stack:
        assert fleet.stdout is not None
        fleet.stdout.readline()
        while len(vms := [vm for vm in VmFinder().find() if vm.vmm == "qemu"]) < fleet_of[0]:
            time.sleep(0.2)
        for cpu in cpus:
            stack.enter_context(program(SWITCHER, cpu))
        time.sleep(0.5)
        switches = _switches()
        with WhoSession(vms, vms) as session:
            begin, began = time.process_time(), time.monotonic()
            result = session.run(TRACED_S)
            used, elapsed = time.process_time() - begin, time.monotonic() - began
        rate = (_switches() - switches) / elapsed
    share = used / elapsed
    stolen = sum(vm.stolen_ns for vm in result.vms) / result.elapsed_ns
    missing = sum(vcpu.missing_ns for vm in result.vms for vcpu in vm.vcpus)
    counted = sum(vcpu.run_delay_ns for vm in result.vms for vcpu in vm.vcpus)
    return (
        f"who: {rate:,.0f} switches a second take {share:.1%} of a CPU, "
        f"so 20,000 take {share * 20_000 / rate:.1%}; {stolen:.2f} vCPUs waited"
        + (f", {missing / counted:+.3%} of run_delay are missing" if waiting and counted else "")
    )


def _switches() -> int:
    """Return the host's context switches since its boot."""
    with open("/proc/stat") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("ctxt"))


def main() -> None:
    """Print the figures."""
    allow_many_files()
    print(f"top, export: VMs of {VCPUS} vCPUs, CPU time in ms")
    print("  VMs   first sample   each sample   scrape   ms for a vCPU and sample")
    for vms in FLEETS:
        first, each, scrape = fleet_cost(vms)
        print(f"{vms:5d}   {first:12.1f}   {each:11.2f}   {scrape:6.1f}   {each / vms / VCPUS:24.4f}")
    try:
        for waiting in (False, True):
            print(who_cost(waiting=waiting), flush=True)
    except UsageError as error:
        print(f"who: {error}")


if __name__ == "__main__":
    main()
