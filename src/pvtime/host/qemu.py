# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU VM's stolen time, as far as it can be known from outside.

Its command line has the CPU's properties, the machine's version and the places of two sockets: the monitor
(QMP) knows the CPU's real properties, and the guest's agent what the guest has counted. An answer of either
is its own claim: the agent is a program of the guest.

Sources: QEMU's target/arm/kvm64.c (kvm-steal-time, QEMU 5.2), hw/arm/virt.c (no_kvm_steal_time in virt-5.1),
target/i386/cpu.c (kvm_feature_name, kvm), qga/qapi-schema.json (guest-get-cpustats, QEMU 7.1).
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pvtime.host.process import PROC
from pvtime.host.text import printable
from pvtime.host.vmm_socket import VmmSocket, VmmSocketError

__all__ = ["AgentCpu", "QemuOptions", "Told", "ask_agent", "ask_monitor", "told_by_options"]

AGENT: Final = "org.qemu.guest_agent.0"
"""Name of the agent's port."""
MAX_CPUS: Final = 4096
MAX_MS: Final = 1 << 50
_VIRT: Final = re.compile(r"virt-(\d{1,3})\.(\d{1,3})")
_ON: Final = {"on", "yes", "true", "y"}
_OFF: Final = {"off", "no", "false", "n"}


@dataclass(frozen=True)
class Told:
    """Whether a guest is offered stolen time."""

    told: bool | None
    """None: it is not known."""
    why: str
    """A clause, behind "the guest was never told:" or "not known whether the guest is told:"."""


@dataclass(frozen=True)
class AgentCpu:
    """A vCPU's steal in the guest's own count."""

    index: int
    steal_ns: int


class QemuOptions:
    """The options of a command line, as far as they matter here."""

    def __init__(self, arguments: Sequence[bytes]) -> None:
        words = [argument.decode("utf-8", "surrogateescape") for argument in arguments]
        self._options: dict[str, list[str]] = {}
        at = 1
        while at < len(words):
            if words[at].startswith("-") and at + 1 < len(words) and not words[at + 1].startswith("-"):
                self._options.setdefault(words[at].lstrip("-"), []).append(words[at + 1])
                at += 1
            at += 1

    def values(self, name: str) -> list[str]:
        """Return the values of an option, in their order."""
        return self._options.get(name, [])

    def last(self, *names: str) -> str:
        """Return the last value of an option, which counts; "" without one."""
        return next((found[-1] for name in names if (found := self.values(name))), "")

    @property
    def cpu(self) -> tuple[str, dict[str, bool]]:
        """Return the CPU's model and its properties that are switches: ``+x``, ``-x``, ``x=on``."""
        model, *features = split_commas(self.last("cpu"))
        switches = {}
        for feature in features:
            name, equals, value = feature.partition("=")
            if equals and value.lower() in _ON | _OFF:
                switches[name] = value.lower() in _ON
            elif not equals and feature[:1] in "+-":
                switches[feature[1:]] = feature[0] == "+"
        return model, switches

    @property
    def machine(self) -> str:
        """Return the machine's type: ``virt-7.2``."""
        words = split_commas(self.last("machine", "M"))
        return next(
            (word.removeprefix("type=") for word in words if "=" not in word or word.startswith("type=")), ""
        )

    def monitor_path(self) -> str | None:
        """Return the path of a monitor's socket; None: it has none with a path."""
        for value in self.values("qmp"):
            if value.startswith("unix:"):
                return split_commas(value.removeprefix("unix:"))[0] or None
        for value in self.values("mon"):
            monitor = properties(value)
            if monitor.get("mode") == "control" and (path := self._chardev(monitor.get("chardev", ""))):
                return path
        return None

    def agent_path(self) -> str | None:
        """Return the path of the guest agent's socket; None: it has none with a path."""
        for value in self.values("device"):
            device = properties(value)
            if device.get("name") == AGENT and (path := self._chardev(device.get("chardev", ""))):
                return path
        return None

    def _chardev(self, name: str) -> str | None:
        """Return the path on which a character device listens."""
        for value in self.values("chardev"):
            words = split_commas(value)
            found = properties(value)
            listens = found.get("server", "off") in {*_ON, "server"} or "server" in words
            if words[0] == "socket" and found.get("id") == name and listens:
                return found.get("path") or None
        return None


def split_commas(text: str) -> list[str]:
    """Split at commas; a doubled one is a character of the value (util/keyval.c).

    >>> split_commas("a,path=b,,c")
    ['a', 'path=b,c']
    """
    return [word.replace("\0", ",") for word in text.replace("\0", "").replace(",,", "\0").split(",")]


def properties(text: str) -> dict[str, str]:
    """Return the properties of an option that are texts: ``a,b=c``, or JSON as libvirt writes it."""
    if text.startswith("{"):
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return {}
        return {key: value for key, value in document.items() if isinstance(value, str)}
    pairs = (word.partition("=") for word in split_commas(text))
    return {name: value for name, equals, value in pairs if equals}


def told_by_options(options: QemuOptions, *, kvm: bool, architecture: str | None = None) -> Told:
    """Return what the command line says.

    :param kvm: whether its vCPUs are KVM's.
    :param architecture: of the host, and so of KVM's guests; None: this host's.
    """
    architecture = platform.machine() if architecture is None else architecture
    model, switches = options.cpu
    machine = options.machine
    if not kvm:
        return Told(False, "QEMU emulates its CPUs (TCG), and those have no stolen time")
    if switches.get("kvm-steal-time") is False:
        return Told(False, f"QEMU was started with -cpu {printable(model)},kvm-steal-time=off")
    x86 = architecture == "x86_64"
    if x86 and switches.get("kvm") is False:
        return Told(False, f"QEMU was started with -cpu {printable(model)},kvm=off, which hides KVM")
    if switches.get("kvm-steal-time"):
        return Told(True, "QEMU was started with kvm-steal-time=on")
    if x86:
        return Told(True, "QEMU offers it on x86 unless it is told otherwise")
    if architecture != "aarch64":
        return Told(None, f"it is not known of QEMU on {architecture}")
    if version := _VIRT.fullmatch(machine):
        if (int(version[1]), int(version[2])) < (5, 2):
            return Told(False, f"the machine {machine} has none: it came with virt-5.2")
        return Told(True, f"QEMU offers it on {machine} unless it is told otherwise")
    return Told(None, "QEMU's command line has no version of the machine, such as virt-7.2")


def ask_monitor(pid: int, path: str, timeout_s: float, proc: Path = PROC) -> Told:
    """Return what QEMU's monitor says of its CPUs: it is asked, and changes nothing.

    :raises VmmSocketError: it does not answer, or with something else.
    """
    with VmmSocket(pid, path, timeout_s, proc) as monitor:
        greeting = monitor.receive(lambda document: "QMP" in document)
        identifiers = iter(range(1, 10))

        def execute(command: str, **arguments: str) -> Any:
            """Return the command's result; None: QEMU refuses it."""
            identifier = next(identifiers)
            monitor.send({"execute": command, "arguments": arguments, "id": identifier})
            answer = monitor.receive(lambda document: document.get("id") == identifier)
            return answer.get("return")

        execute("qmp_capabilities")
        kvm, cpus = execute("query-kvm"), execute("query-cpus-fast")
        if not (isinstance(kvm, dict) and isinstance(cpus, list) and cpus and isinstance(cpus[0], dict)):
            raise VmmSocketError("it does not know its CPUs")
        if kvm.get("enabled") is not True:
            return Told(False, "QEMU emulates its CPUs (TCG), and those have no stolen time")
        cpu = str(cpus[0].get("qom-path"))
        steal_time = execute("qom-get", path=cpu, property="kvm-steal-time")
        if steal_time is True and execute("qom-get", path=cpu, property="kvm") is False:
            return Told(False, "its CPU has kvm=off, which hides KVM from the guest")
    if steal_time is True:
        return Told(True, "QEMU says so")
    if steal_time is False:
        return Told(False, "QEMU says that its CPUs have kvm-steal-time=off")
    return Told(False, f"its QEMU{_version(greeting)} has no stolen time for such a CPU")


def _version(greeting: dict[str, Any]) -> str:
    """Return `` 5.1.0`` of a monitor's greeting."""
    try:
        parts = greeting["QMP"]["version"]["qemu"]
        return " " + ".".join(str(int(parts[part])) for part in ("major", "minor", "micro"))
    except (KeyError, TypeError, ValueError):
        return ""


def ask_agent(pid: int, path: str, timeout_s: float, proc: Path = PROC) -> list[AgentCpu]:
    """Return what the guest's agent says of its CPUs.

    :raises VmmSocketError: it does not answer, or with something else.
    """
    with VmmSocket(pid, path, timeout_s, proc) as agent:
        # An agent that was interrupted in the midst of an answer begins anew behind 0xff.
        agent.send({"execute": "guest-sync-delimited", "arguments": {"id": pid}}, b"\xff")
        agent.receive(lambda document: document.get("return") == pid)
        agent.send({"execute": "guest-get-cpustats"})
        answer = agent.receive(lambda document: "return" in document or "error" in document)
    if "error" in answer:
        raise VmmSocketError("its guest agent does not know guest-get-cpustats (QEMU 7.1)")
    found = {cpu.index: cpu for cpu in _agent_cpus(answer["return"])}
    return [found[index] for index in sorted(found)]


def _agent_cpus(answer: Any) -> Iterator[AgentCpu]:
    if not isinstance(answer, list):
        raise VmmSocketError("its guest agent has no statistics of CPUs")
    for row in answer[:MAX_CPUS]:
        index, steal_ms = (row.get(name) if isinstance(row, dict) else None for name in ("cpu", "steal"))
        if type(index) is int and type(steal_ms) is int and 0 <= index < MAX_CPUS and 0 <= steal_ms < MAX_MS:
            yield AgentCpu(index, steal_ms * 1_000_000)
