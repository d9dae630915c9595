# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime export``."""

from __future__ import annotations

import re
import sys
import threading

import click

from pvtime.cli.params import parsed_by
from pvtime.errors import UsageError, host_reason

__all__ = ["export_command"]


def _address(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*):(\d{1,5})", text)
    if match is None or not 0 < int(match[2]) < 65536:
        raise UsageError(f"{text!r} is not an address: give ADDRESS:PORT, such as [::1]:9752")
    return match[1].strip("[]") or "0.0.0.0", int(match[2])


@click.command("export", short_help="Serve stolen time of every VM to Prometheus")
@click.option(
    "--listen",
    callback=parsed_by(_address),
    default="127.0.0.1:9752",
    show_default=True,
    metavar="ADDRESS:PORT",
    help="Serve at this address.",
)
@click.option("--libvirt-names", is_flag=True, help="Add names of libvirt, for existing dashboards.")
@click.option(
    "--waits", is_flag=True, help="Trace the waits, as root, and serve a histogram of their lengths."
)
@click.option("--once", is_flag=True, help="Print the metrics, and end.")
def export_command(listen: tuple[str, int], libvirt_names: bool, waits: bool, once: bool) -> int:
    """Serve the stolen time of every vCPU on this host as metrics, for Prometheus.

    They are those of pvtime top, as counters that never fall. It needs the Python package prometheus_client,
    and no root; without it, VMs of other users are found by the names of their threads.

    \b
    Examples:
        pvtime export --listen 0.0.0.0:9752
        pvtime export --waits
        pvtime export --once
    """  # noqa: D301 (click wants the character)
    try:
        from prometheus_client import CollectorRegistry, generate_latest, start_http_server
    except ImportError as error:
        raise UsageError(
            "prometheus_client is not installed: pip install 'pvtime[export]', or Debian's package "
            "python3-prometheus-client"
        ) from error
    from pvtime.host.schedstat import allow_many_files, require_schedstat
    from pvtime.watch.exporter import HostCollector
    from pvtime.watch.sampler import HostSampler
    from pvtime.watch.wait_histogram import WaitTracer

    if waits and once:
        raise UsageError("--waits and --once exclude each other: waits are traced while it serves")
    require_schedstat()
    allow_many_files()
    registry = CollectorRegistry()
    tracer = WaitTracer() if waits else None
    registry.register(HostCollector(HostSampler(), libvirt_names=libvirt_names, waits=tracer))
    if once:
        sys.stdout.write(generate_latest(registry).decode())
        return 0
    address, port = listen
    try:
        start_http_server(port, address, registry)
    except OSError as error:
        raise UsageError(f"--listen {address}:{port}: {host_reason(error)}") from error
    print(f"pvtime: serving metrics at http://{address}:{port}/metrics", file=sys.stderr, flush=True)
    threading.Event().wait()
    return 0
