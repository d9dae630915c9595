# SPDX-License-Identifier: GPL-2.0-or-later
"""The other side of a migration: its address, and the protection of the connection to it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pvtime.errors import UsageError
from pvtime.snapshot.address import PEER_TIMEOUT_S, Address
from pvtime.snapshot.stream import Connection

__all__ = ["Endpoint"]


@dataclass(frozen=True)
class Endpoint:
    """An address, and the key of both sides where it is in a network.

    :param insecure: a network's connection is neither encrypted nor authenticated.
    :raises UsageError: an address in a network needs one of both, a Unix socket none.
    """

    address: Address
    key: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        given = (self.key is not None) + self.insecure
        if self.address.path and given:
            raise UsageError(
                f"{self.address}: only its owner can connect to a Unix socket: leave out --key and --insecure"
            )
        if not self.address.path and given != 1:
            raise UsageError(
                f"{self.address}: give either --key FILE, with a key that both sides have, or --insecure "
                "if anybody on the network may read and send machines"
            )

    @classmethod
    def parse(cls, address: str, key: Path | None, insecure: bool) -> Self:
        """Parse an address.

        :raises UsageError: it is none, or it needs, or must not have, a key.
        """
        return cls(Address.parse(address), key, insecure)

    def absolute(self) -> Self:
        """Return the same endpoint with absolute paths."""
        key = None if self.key is None else Path(os.path.abspath(self.key))
        return replace(self, address=self.address.absolute(), key=key)

    def connect(self, timeout_s: float = PEER_TIMEOUT_S) -> Connection:
        """Connect to the peer that listens here.

        :raises UsageError: nobody listens, or the key cannot be used.
        :raises MigrationError: the peer has another key, or none.
        """
        if self.key is None:
            return self.address.connect(timeout_s)
        from pvtime.snapshot.tls import TlsKey

        key = TlsKey(self.key)
        return key.client(self.address.connect(timeout_s))

    def protect(self, accepted: socket.socket) -> Connection:
        """Return the connection to a peer that has connected to this endpoint.

        :raises MigrationError: the peer has another key, or none.
        """
        if self.key is None:
            return accepted
        from pvtime.snapshot.tls import TlsKey

        return TlsKey(self.key).server(accepted)

    def prepare_key(self) -> bool:
        """Check the key before anybody connects, and make it if it does not exist; return whether it is new.

        :raises UsageError: it cannot be used or made.
        """
        if self.key is None:
            return False
        from pvtime.snapshot.tls import TlsKey, create_key

        made = not os.path.lexists(self.key)
        if made:
            create_key(self.key)
        TlsKey(self.key).check()
        return made
