# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a machine is sent to: ``unix:PATH`` or ``tcp:HOST:PORT``."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Final, Self

from pvtime.errors import UsageError

__all__ = ["PATIENCE", "Address", "OwnSocket"]

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
        except OSError as error:
            raise UsageError(f"{self}: cannot connect: {error.strerror or error}") from error

    def accept(self) -> socket.socket:
        """Wait for one peer and return the connection; a path is removed when one has come.

        :raises UsageError: the address cannot be listened at.
        """
        try:
            with self._listen() as listener:
                connection, _ = listener.accept()
        except OSError as error:
            raise UsageError(f"{self}: cannot listen: {error.strerror or error}") from error
        connection.settimeout(PATIENCE)
        return connection

    def _listen(self) -> socket.socket:
        if not self.path:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family)
        return OwnSocket(self.path)


class OwnSocket(socket.socket):
    """A listening Unix socket that only its owner can connect to, and whose path goes with it."""

    def __init__(self, path: str) -> None:
        super().__init__(socket.AF_UNIX)
        self._path = path
        mask = os.umask(0o177)
        try:
            self.bind(path)
        finally:
            os.umask(mask)
        self.listen(1)

    def close(self) -> None:
        """Close it and remove the path."""
        if self.fileno() >= 0:
            os.unlink(self._path)
        super().close()
