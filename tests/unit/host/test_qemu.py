# SPDX-License-Identifier: GPL-2.0-or-later
"""Stolen time of QEMU's guests, by its command line, its monitor and the guest's agent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.wait import wait_until
from pvtime.host.process import command_line
from pvtime.host.qemu import (
    AgentCpu,
    QemuOptions,
    Told,
    ask_agent,
    ask_monitor,
    told_by_options,
)
from pvtime.host.vmm_socket import VmmSocket, VmmSocketError

LONG_S = 60.0
"""Time for an answer that comes."""
SHORT_S = 0.05
"""Time for one that never does."""


def options(text: str) -> QemuOptions:
    """Return the options of a command line."""
    return QemuOptions([b"/usr/bin/qemu-system-x", *text.encode().split()])


@pytest.mark.parametrize(
    ("text", "architecture", "told"),
    [
        ("-machine virt-7.2,accel=kvm -cpu host", "aarch64", True),
        ("-machine virt-5.2 -cpu host,kvm-steal-time=off", "aarch64", False),
        ("-cpu host,kvm-steal-time=off -cpu host -M type=virt-9.0", "aarch64", True),
        ("-machine gic-version=3,type=virt-5.1", "aarch64", False),
        ("-machine virt -cpu host", "aarch64", None),
        ("-machine virt -cpu host,kvm-steal-time=on", "aarch64", True),
        ("-machine pc -cpu host", "x86_64", True),
        ("-machine q35 -cpu Skylake-Server,kvm=off,+avx", "x86_64", False),
        ("-machine q35 -cpu host,-kvm-steal-time", "x86_64", False),
        ("-cpu", "x86_64", True),
        ("-cpu host", "s390x", None),
    ],
)
def test_the_command_line_says_whether_a_guest_is_told(
    text: str, architecture: str, told: bool | None
) -> None:
    assert told_by_options(options(text), kvm=True, architecture=architecture).told is told
    assert told_by_options(options(text), kvm=False, architecture=architecture).told is False


AGENT_JSON = '-device {"driver":"virtserialport","chardev":"c","name":"org.qemu.guest_agent.0"}'
AGENT = "-device virtserialport,chardev=c,name=org.qemu.guest_agent.0"


@pytest.mark.parametrize(
    ("text", "monitor", "agent"),
    [
        ("-qmp unix:/run/m,server=on,wait=off", "/run/m", None),
        ("-qmp tcp:localhost:4444", None, None),
        ("-chardev socket,id=m,path=/run/m,server=on -mon chardev=m,mode=control", "/run/m", None),
        ("-chardev socket,id=m,path=/run/m,server=on -mon chardev=m", None, None),
        (f"-chardev socket,path=/a,,b,server,nowait,id=c {AGENT}", None, "/a,b"),
        (f"-chardev socket,path=a,server=on,id=c {AGENT_JSON}", None, "a"),
        (f"-chardev socket,path=a,id=c {AGENT}", None, None),
        (f"-chardev socket,fd=30,server=on,id=c {AGENT}", None, None),
        ("-device {[,{ -mon {} -qmp unix: -chardev -chardev socket", None, None),
    ],
    ids=range(9),
)
def test_the_command_line_names_the_sockets(text: str, monitor: str | None, agent: str | None) -> None:
    found = options(text)
    assert (found.monitor_path(), found.agent_path()) == (monitor, agent)


@contextlib.contextmanager
def server(path: Path, talk: Callable[[socket.socket], None]) -> Iterator[list[bytes]]:
    """Have a socket of this process's; yield what it was sent by the one who connected."""
    received: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            talk(connection)
            while part := connection.recv(65536):
                received.append(part)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield received
        thread.join()


def answering(results: dict[str, Any], greeting: bytes = b"") -> Callable[[socket.socket], None]:
    """Return a server that has a result for each command; others fail."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(greeting)
        with connection.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line.lstrip(b"\xff"))
                arguments = request.get("arguments", {})
                key = arguments.get("property", request["execute"])
                answer: dict[str, Any] = {"return": results[key]} if key in results else {"error": {}}
                if key == "guest-sync-delimited":
                    answer = {"return": arguments["id"]}
                if "id" in request:
                    answer["id"] = request["id"]
                connection.sendall(b'{"event": "RESUME"}\n\xff' + json.dumps(answer).encode() + b"\r\n")

    return talk


GREETING = b'{"QMP": {"version": {"qemu": {"major": 5, "minor": 1, "micro": 0}}}}\r\n'
QMP = {"qmp_capabilities": {}, "query-kvm": {"enabled": True}, "query-cpus-fast": [{"qom-path": "/cpu"}]}


@pytest.mark.parametrize(
    ("results", "told"),
    [
        (QMP | {"kvm-steal-time": True}, Told(True, "QEMU says so")),
        (QMP | {"kvm-steal-time": False}, Told(False, "QEMU says that its CPUs have kvm-steal-time=off")),
        (QMP, Told(False, "its QEMU 5.1.0 has no stolen time for such a CPU")),
        (
            QMP | {"kvm-steal-time": True, "kvm": False},
            Told(False, "its CPU has kvm=off, which hides KVM from the guest"),
        ),
    ],
)
def test_the_monitor_knows_the_real_properties(tmp_path: Path, results: dict[str, Any], told: Told) -> None:
    with server(tmp_path / "m", answering(results, GREETING)):
        assert ask_monitor(os.getpid(), f"{tmp_path}/m", LONG_S) == told


def listens(path: Path) -> bool:
    """Whether a socket takes connections (net/unix/af_unix.c, unix_seq_show: __SO_ACCEPTCON)."""
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(row[3] == "00010000" for row in rows if row[-1] == str(path))


def test_a_real_qemu_is_asked_by_its_monitor(tmp_path: Path) -> None:
    program = shutil.which("qemu-system-aarch64")
    if program is None:
        pytest.skip("qemu-system-aarch64 is not there (make test installs it as root)")
    command = [program, "-M", "virt", "-cpu", "cortex-a57", "-nic", "none", "-display", "none", "-S"]
    path = tmp_path / "m"
    with subprocess.Popen([*command, "-qmp", f"unix:{path},server=on,wait=off"]) as process:
        try:
            wait_until(path.exists)
            found = QemuOptions(command_line(process.pid)).monitor_path()
            assert found == str(path)
            wait_until(lambda: listens(path))  # it has a name before
            told = ask_monitor(process.pid, found, LONG_S)
        finally:
            process.kill()
    assert told == Told(False, "QEMU emulates its CPUs (TCG), and those have no stolen time")


def stats(**change: object) -> dict[str, Any]:
    """Return what an agent says of a CPU."""
    return {"type": "linux", "cpu": 0, "user": 5, "steal": 1270} | change


def test_the_agent_tells_the_guests_own_count(tmp_path: Path) -> None:
    rows = [stats(cpu=1, steal=3), stats()]
    with server(tmp_path / "a", answering({"guest-get-cpustats": rows})) as sent:
        cpus = ask_agent(os.getpid(), f"{tmp_path}/a", LONG_S)
    assert cpus == [AgentCpu(0, 1_270_000_000), AgentCpu(1, 3_000_000)]
    assert sent == []


def test_an_agent_that_does_not_know_the_question_says_so(tmp_path: Path) -> None:
    with (
        server(tmp_path / "a", answering({})),
        pytest.raises(VmmSocketError, match="does not know guest-get-cpustats"),
    ):
        ask_agent(os.getpid(), f"{tmp_path}/a", LONG_S)


@pytest.mark.parametrize(
    "rows",
    [
        [stats(steal=-1), stats(steal=1 << 60), stats(steal=True), stats(steal=1.5), stats(steal="1")],
        [stats(cpu=-1), stats(cpu=1 << 20), stats(cpu=None), [], None, 7, {}],
        [stats() | {"cpu": index} for index in range(5000, 10_000)],
    ],
    ids=["steal", "cpu", "many"],
)
def test_rows_that_are_none_are_passed_over(tmp_path: Path, rows: list[Any]) -> None:
    with server(tmp_path / "a", answering({"guest-get-cpustats": rows})):
        assert ask_agent(os.getpid(), f"{tmp_path}/a", LONG_S) == []


HOSTILE = {
    "silence": b"",
    "nesting": b"[" * 100_000 + b"\n",
    "a number of a million digits": b'{"return": ' + b"9" * 1_000_000 + b"}\n",
    "rubbish": bytes(range(256)) * 4,
    "another object": b'{"return": "x"}\n' * 1000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_answer_that_is_none_is_given_up_in_time(tmp_path: Path, data: bytes) -> None:
    with (
        server(tmp_path / "a", lambda connection: connection.sendall(data)),
        pytest.raises(VmmSocketError, match="it has not answered in time"),
    ):
        ask_agent(os.getpid(), f"{tmp_path}/a", SHORT_S)


def test_an_answer_without_end_is_given_up_by_its_size(tmp_path: Path) -> None:
    def flood(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"x" * 65536)

    with (
        server(tmp_path / "a", flood),
        pytest.raises(VmmSocketError, match="sent too much"),
    ):
        ask_agent(os.getpid(), f"{tmp_path}/a", LONG_S)


def test_a_socket_of_another_process_is_sent_nothing(tmp_path: Path) -> None:
    """A command line is its process's own text: it could name the socket of any service of root's."""
    with (
        server(tmp_path / "a", lambda _connection: None) as sent,
        pytest.raises(VmmSocketError, match="another process listens at its socket"),
    ):
        ask_agent(os.getppid(), f"{tmp_path}/a", LONG_S)
    assert sent == []


@pytest.mark.parametrize("path", ["missing", "a\0b", ".", "x" * 5000], ids=["missing", "nul", "dir", "long"])
def test_a_path_that_is_no_socket_is_nobody(path: str) -> None:
    with pytest.raises(VmmSocketError, match="nobody answers"):
        VmmSocket(os.getpid(), path, LONG_S)
