# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a machine is sent to: ``unix:PATH`` or ``tcp:HOST:PORT``."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from dataclasses import dataclass, replace
from typing import Final, Self

from pvtime.errors import UsageError

__all__ = ["PATIENCE", "Address", "OwnSocket", "first_peer"]

PATIENCE: Final = 30.0
"""Seconds after which a peer that neither sends nor takes anything is given up."""


@dataclass(frozen=True)
class Address:
    """A peer's address; ``host`` and ``port`` are unset for a path."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        >>> Address.parse("tcp:127.0.0.1:7000")
        Address(path='', host='127.0.0.1', port=7000)

        :raises UsageError: it is none.
        """
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls(path=rest)
        host, colon, port = rest.rpartition(":")
        if kind == "tcp" and colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16:
            return cls(host=host.strip("[]"), port=int(port))
        raise UsageError(f"{text!r} is no address: give unix:PATH or tcp:HOST:PORT")

    def absolute(self) -> Self:
        """Return it with a path that is the same from every directory."""
        return replace(self, path=os.path.abspath(self.path)) if self.path else self

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"tcp:{self.host}:{self.port}"

    def connect(self) -> socket.socket:
        """Return a connection.

        :raises UsageError: nobody listens there.
        """
        try:
            if self.path:
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(PATIENCE)
                connection.connect(self.path)
                return connection
            return socket.create_connection((self.host, self.port), PATIENCE)
        except (OSError, ValueError) as error:
            raise UsageError(f"{self}: cannot connect: {_reason(error)}") from error

    def listen(self) -> socket.socket:
        """Return a socket that peers can connect to from now on; a path goes when it is closed.

        :raises UsageError: the address cannot be listened at.
        """
        try:
            if self.path:
                return OwnSocket(self.path)
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family)
        except (OSError, ValueError) as error:
            raise UsageError(f"{self}: cannot listen: {_reason(error)}") from error


def first_peer(listener: socket.socket) -> socket.socket:
    """Wait for one peer, and listen no more."""
    with listener:
        connection, _ = listener.accept()
    connection.settimeout(PATIENCE)
    return connection


def _reason(error: OSError | ValueError) -> str:
    """Return the host's words. A name that cannot be a host's, or a path, is a ValueError."""
    return getattr(error, "strerror", None) or str(error)


class OwnSocket(socket.socket):
    """A listening Unix socket that only its owner can connect to, and whose path goes with it.

    :raises OSError: the path is taken, or cannot be.
    """

    def __init__(self, path: str) -> None:
        super().__init__(socket.AF_UNIX)
        self._path = path
        try:
            _remove_stale(path)
            mask = os.umask(0o177)
            try:
                self.bind(path)
            finally:
                os.umask(mask)
            self._bound = os.lstat(path)
            self.listen()
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        """Close it and remove the path, where that is still ours."""
        if self.fileno() >= 0:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(self._path), self._bound):
                    os.unlink(self._path)
        super().close()


def _remove_stale(path: str) -> None:
    """Remove a socket at which nobody listens: its process was killed."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.setblocking(False)
        try:
            visitor.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return  # somebody is there, or it is another's
