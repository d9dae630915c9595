# SPDX-License-Identifier: GPL-2.0-or-later
"""Address of a migration's target: ``unix:PATH`` or ``tcp:HOST:PORT``; and sockets for one user alone."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Self

from pvtime.errors import UsageError
from pvtime.records import dataclass

__all__ = ["MAX_PATH", "PEER_TIMEOUT_S", "Address", "OwnSocket", "remove_stale"]

PEER_TIMEOUT_S: Final = 30.0
"""Seconds in which a peer must accept a connection."""


MAX_PATH: Final = 107
"""Bytes of a Unix socket's path (unix(7): sun_path, with its NUL)."""

_PORT: Final = re.compile("[0-9]{1,5}")

_TIMEVAL: Final = struct.Struct("@ll")
"""struct timeval: seconds and microseconds."""

_CONNECT_REASONS: Final = {
    errno.ECONNREFUSED: "nothing listens there: start the other side first",
    errno.ENOENT: "there is no such socket: check the name, and that the other side runs",
    errno.ENOTSOCK: "it is not a socket: check the name",
}
_LISTEN_REASONS: Final = {
    errno.EADDRINUSE: "the address is in use: choose another, or end the process that has it",
    errno.EADDRNOTAVAIL: "this host does not have that address: give one of its own, or 0.0.0.0 for all",
    errno.EEXIST: "a file is there that is no socket: choose another name",
    errno.ENOENT: "its directory does not exist: create it first",
}


@dataclass(frozen=True)
class Address:
    """A peer's address: ``path``, or ``host`` and ``port``."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address.

        >>> Address.parse("tcp:127.0.0.1:7000")
        Address(path='', host='127.0.0.1', port=7000)

        :raises UsageError: the text is not an address.
        """
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls(path=rest)
        host, _, port = rest.rpartition(":")
        if kind == "tcp" and _PORT.fullmatch(port) and 0 < int(port) < 1 << 16 and _is_host(host.strip("[]")):
            return cls(host=host.strip("[]"), port=int(port))
        raise UsageError(f"{text!r} is not an address: give unix:PATH or tcp:HOST:PORT")

    def absolute(self) -> Self:
        """Return the same address with an absolute path."""
        return replace(self, path=os.path.abspath(self.path)) if self.path else self

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"tcp:{self.host}:{self.port}"

    def connect(self, timeout_s: float = PEER_TIMEOUT_S) -> socket.socket:
        """Return a connection, whose operations time out after ``timeout_s``.

        :raises UsageError: nothing listens at this address.
        """
        try:
            if self.path:
                if os.path.exists(self.path) and not stat.S_ISSOCK(os.stat(self.path).st_mode):
                    raise OSError(errno.ENOTSOCK, "")
                return _connect_unix(self.path, timeout_s)
            return socket.create_connection((self.host, self.port), timeout_s)
        except (OSError, ValueError) as error:
            raise UsageError(f"{self}: cannot connect: {_reason(error, _CONNECT_REASONS)}") from error

    def listen(self) -> socket.socket:
        """Return a listening socket; a path is removed when it is closed.

        :raises UsageError: the host refuses this address.
        """
        try:
            if self.path:
                return OwnSocket(self.path)
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family)
        except (OSError, ValueError) as error:
            raise UsageError(f"{self}: cannot listen: {_reason(error, _LISTEN_REASONS)}") from error


def _connect_unix(path: str, timeout_s: float) -> socket.socket:
    """Return a connection; wait for a listener with many clients, which a socket with a timeout would not.

    :raises OSError: nothing listens there, or nobody has answered in time.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        limit = _TIMEVAL.pack(int(timeout_s), int(timeout_s % 1 * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            connection.connect(path)
        except BlockingIOError:
            raise TimeoutError from None
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(0, 0))
        connection.settimeout(timeout_s)
        return connection
    except BaseException:
        connection.close()
        raise


def _is_host(host: str) -> bool:
    """Whether a host can have this name, or address."""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _reason(error: OSError | ValueError, known: Mapping[int, str]) -> str:
    """Return the reason for people and, where there is one, the remedy."""
    if isinstance(error, ValueError):
        return "no path has a NUL"
    if isinstance(error, socket.gaierror):
        return "this host does not know the name: check it"
    if isinstance(error, TimeoutError):
        return "nobody has answered in time: check the address, and that the other side runs"
    if error.errno is None:
        return f"the path is too long for a socket: give one of at most {MAX_PATH} bytes"
    if error.errno in known:
        return known[error.errno]
    # asyncio and socket.create_server add the call that failed.
    return (error.strerror or str(error)).partition(" (while attempting")[0]


class OwnSocket(socket.socket):
    """A listening Unix socket that only its owner can connect to, and that removes its path when closed.

    :raises OSError: the path exists, or the host refuses it.
    """

    def __init__(self, path: str) -> None:
        super().__init__(socket.AF_UNIX)
        self._path = path
        try:
            remove_stale(path)
            self._bound = self._listen_at(path)
        except BaseException:
            super().close()
            raise

    def _listen_at(self, path: str) -> os.stat_result:
        """Listen at ``path``, which is there when connections succeed; return what is there then.

        From bind to listen a socket refuses those who see its name. So it is bound to another one, and by its
        directory's descriptor: that name is no longer than a socket's may be.
        """
        if len(os.fsencode(path)) > MAX_PATH:
            # As bind says it: without an errno.
            raise OSError(f"a socket's path has at most {MAX_PATH} bytes")
        directory, name = os.path.split(path)
        folder = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            hidden = f".{name[:32]}.{os.urandom(4).hex()}"
            mask = os.umask(0o177)
            try:
                self.bind(f"/proc/self/fd/{folder}/{hidden}")
            finally:
                os.umask(mask)
            try:
                self.listen()
                os.link(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
            finally:
                os.unlink(hidden, dir_fd=folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Close the socket and remove its path, unless that is another socket's by now."""
        if self.fileno() >= 0:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(self._path), self._bound):
                    os.unlink(self._path)
        super().close()


def remove_stale(path: str) -> None:
    """Remove a socket on which nothing listens: its process was killed.

    :raises OSError: EEXIST: something else than a socket is there.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.setblocking(False)
        try:
            visitor.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return  # a process listens, or the socket is another user's
