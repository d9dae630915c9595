# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's agent: runs commands in the emulated host and sends back their output.

Started by the lab's ``/init`` with the serial line's path. It runs one command at a time and waits for
everything in one ``select``, so that it takes no time from what is being measured.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import termios
import tty

from pvtime.abi.kvm import KvmIoctl
from pvtime.lab.protocol import CHUNK, AgentFrame, CommandRequest, FrameReader, pack

__all__ = ["main"]


class _Line:
    """The serial line to the host."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.fd)
        modes = termios.tcgetattr(self.fd)
        modes[2] |= termios.CLOCAL  # No modem lines: the other end is always there.
        modes[4] = modes[5] = termios.B115200
        termios.tcsetattr(self.fd, termios.TCSANOW, modes)
        self._reader = FrameReader()

    def send(self, kind: AgentFrame, payload: bytes = b"") -> None:
        """Send frames, waiting for the line without limit."""
        data = memoryview(pack(kind, payload))
        while data:
            data = data[os.write(self.fd, data) :]

    def receive(self) -> list[tuple[AgentFrame, bytes]]:
        """Wait for bytes; return the frames that they complete."""
        return list(self._reader.feed(os.read(self.fd, 4096)))


class _Command:
    """A running command and the descriptors that its output comes from."""

    def __init__(self, request: CommandRequest) -> None:
        self.outputs: dict[int, AgentFrame] = {}
        env = {**os.environ, **request.env}
        if request.terminal:
            self._start_on_terminal(request.argv, env, request.terminal)
        else:
            self._start_on_pipes(request.argv, env)
        self.end = os.pidfd_open(self.process.pid)

    def _start_on_terminal(self, argv: list[str], env: dict[str, str], size: tuple[int, int]) -> None:
        master, slave = os.openpty()
        columns, lines = size
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
        self.outputs[master] = AgentFrame.STDOUT
        try:
            # setsid -c makes the terminal the session's own, which Popen cannot.
            self.process = subprocess.Popen(
                ["setsid", "-c", *argv], stdin=slave, stdout=slave, stderr=slave, env=env
            )
        finally:
            os.close(slave)

    def _start_on_pipes(self, argv: list[str], env: dict[str, str]) -> None:
        out, child_out = os.pipe()
        err, child_err = os.pipe()
        self.outputs[out] = AgentFrame.STDOUT
        self.outputs[err] = AgentFrame.STDERR
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=child_out,
                stderr=child_err,
                env=env,
                start_new_session=True,
            )
        finally:
            os.close(child_out)
            os.close(child_err)

    def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def read(self, descriptor: int) -> bytes:
        """Return output of the command; nothing at its end."""
        try:
            return os.read(descriptor, CHUNK)
        except OSError:  # EIO: no process has the terminal open any more.
            return b""

    def close(self) -> None:
        """Kill the rest of the command's process group and close the descriptors."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        for descriptor in (self.end, *self.outputs):
            os.close(descriptor)


def _serve(line: _Line, command: _Command) -> None:
    """Pass output to the host and signals to the command until it has exited and its pipes are empty."""
    with selectors.DefaultSelector() as selector:
        for descriptor in (line.fd, command.end, *command.outputs):
            selector.register(descriptor, selectors.EVENT_READ)
        exited = False
        while True:
            ready = {key.fd for key, _ in selector.select(0 if exited else None)}
            if exited and ready.isdisjoint(command.outputs):
                return
            for descriptor in ready:
                if descriptor == line.fd:
                    for kind, payload in line.receive():
                        if kind is AgentFrame.SIGNAL:
                            command.signal(json.loads(payload))
                elif descriptor == command.end:
                    selector.unregister(descriptor)
                    exited = True
                elif data := command.read(descriptor):
                    line.send(command.outputs[descriptor], data)
                else:
                    selector.unregister(descriptor)


def _send_file(line: _Line, name: str) -> None:
    try:
        with open(name, "rb") as file:
            line.send(AgentFrame.OPEN, name.encode())
            while data := file.read(CHUNK):
                line.send(AgentFrame.DATA, data)
    except OSError:
        line.send(AgentFrame.MISSING, name.encode())


def _execute(line: _Line, request: CommandRequest) -> None:
    """Run a command; the last frame is EXIT in any case."""
    try:
        command = _Command(request)
    except OSError as error:
        line.send(AgentFrame.STDERR, f"{request.argv[0]}: {error.strerror}\n".encode())
        code = 127  # as a shell has it
    else:
        try:
            _serve(line, command)
        finally:
            command.close()
        code = command.process.returncode
    for name in request.out:
        _send_file(line, name)
    line.send(AgentFrame.EXIT, json.dumps(code).encode())


def _keep_a_vm() -> None:
    """Hold a VM open for as long as the lab lives.

    With its first VM Linux patches the scheduler to tell KVM when a vCPU's thread loses its CPU
    (preempt_notifier_inc), and with its last one back. QEMU, with a thread for each CPU, was seen to go on
    with the code from before: a thread then left KVM_RUN with the guest's TPIDR_EL0, and Python died of
    SIGSEGV or hung. Measured on a busy host with two vCPUs and six resets a machine: without a VM of ours, it
    died after 16 and after 24 s; with one, never in 240 s (117 machines, 1,404 resets).
    """
    fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC), KvmIoctl.CREATE_VM)


def main(path: str) -> None:
    """Serve the host, which ends the lab by ending the emulator."""
    # A shell starts background jobs with these ignored, and commands would inherit that.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    _keep_a_vm()
    line = _Line(path)
    line.send(AgentFrame.READY)
    while True:
        for kind, payload in line.receive():
            if kind is AgentFrame.RUN:  # A signal for a command that has just exited comes too late.
                _execute(line, CommandRequest.decode(payload))


if __name__ == "__main__":
    main(sys.argv[1])
