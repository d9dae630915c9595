# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS 1.3 between two processes that have the same key: a file with a private key and its own certificate.

Each side shows the certificate and proves that it has the private key, and accepts no other certificate. So
one file, copied to both hosts, is a shared secret that authenticates both, and the standard library does the
rest: its TLS with a bare pre-shared secret needs Python 3.13. Names and dates in the certificate are ignored.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pvtime.errors import MigrationError, UsageError, oserror_context

__all__ = ["TlsConnection", "TlsKey", "create_key"]

HANDSHAKE_TIMEOUT_S: Final = 10.0
"""Seconds of a whole handshake."""

MAX_KEY_FILE: Final = 64 << 10
"""Bytes."""

OPENSSL: Final = [
    *("openssl", "req", "-x509", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
    *("-nodes", "-days", "36500", "-subj", "/CN=pvtime", "-config", "/dev/stdin", "-keyout", "/dev/stdout"),
]
OPENSSL_CONFIG: Final = b"[req]\ndistinguished_name = name\n[name]\n"
"""The host's configuration would make a certificate authority."""

_NO_CHECK_TIME: Final = 0x20_0000
"""X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h): two hosts' clocks differ, and the file is the secret."""

_OTHER_KEY: Final = "it does not have the same key: give both sides a copy of one file with --key"
_NO_TLS: Final = "it does not use TLS: was it started with --insecure, or is it not pvtime?"
_REASONS: Final = {
    "CERTIFICATE_VERIFY_FAILED": _OTHER_KEY,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": _OTHER_KEY,
    "SSLV3_ALERT_BAD_CERTIFICATE": _OTHER_KEY,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _OTHER_KEY,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _OTHER_KEY,
    "TLSV1_ALERT_DECRYPT_ERROR": _OTHER_KEY,
    "TLSV1_ALERT_UNKNOWN_CA": _OTHER_KEY,
    "HTTP_REQUEST": _NO_TLS,
    "HTTPS_PROXY_REQUEST": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "UNEXPECTED_MESSAGE": _NO_TLS,
    "WRONG_VERSION_NUMBER": _NO_TLS,
}
"""Reasons of OpenSSL, by name."""


class TlsKey:
    """A key that both sides have.

    :param handshake_timeout_s: given to a peer for its part of a handshake.
    :raises UsageError: the file does not exist, or other users can read it.
    """

    def __init__(self, path: Path, handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S) -> None:
        if not path.exists():
            raise UsageError(f"key {path}: it does not exist: give a copy of the one of pvtime receive --key")
        with oserror_context(f"key {path}", UsageError):
            mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise UsageError(f"key {path}: it is not a regular file")
        if mode & 0o077:
            raise UsageError(f"key {path}: other users may read it: chmod 600 {path}, or make a new one")
        self._path = path
        self._handshake_timeout_s = handshake_timeout_s

    def check(self) -> None:
        """Check the file's content, which is read again for each connection.

        :raises UsageError: it is no key.
        """
        self._context(ssl.PROTOCOL_TLS_SERVER)

    def client(self, connection: socket.socket) -> TlsConnection:
        """Return a connection with TLS to a peer that was connected to.

        :raises UsageError: the file is no key.
        :raises MigrationError: the peer has another key, or no TLS.
        """
        return self._wrap(ssl.PROTOCOL_TLS_CLIENT, connection)

    def server(self, connection: socket.socket) -> TlsConnection:
        """Return a connection with TLS to a peer that has connected.

        :raises UsageError: the file is no key.
        :raises MigrationError: the peer has another key, or no TLS.
        """
        return self._wrap(ssl.PROTOCOL_TLS_SERVER, connection)

    def _wrap(self, role: int, connection: socket.socket) -> TlsConnection:
        context = self._context(role)
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            try:
                tls = context.wrap_socket(
                    connection,
                    server_side=role == ssl.PROTOCOL_TLS_SERVER,
                    do_handshake_on_connect=False,
                    suppress_ragged_eofs=False,
                )
                undo.callback(tls.close)
                tls.settimeout(self._handshake_timeout_s)
                tls.do_handshake()
            except TimeoutError as error:
                raise MigrationError("the peer timed out: it did not complete the TLS handshake") from error
            except OSError as error:
                raise MigrationError(f"there is no TLS connection to the peer: {_reason(error)}") from error
            undo.pop_all()
        return TlsConnection(tls)

    def _context(self, role: int) -> ssl.SSLContext:
        context = ssl.SSLContext(role)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
        try:
            # An empty password: an encrypted key must not ask the terminal.
            context.load_cert_chain(self._path, password=b"")
            # The certificate of the private key alone: an authority's may be in the file too.
            context.load_verify_locations(cadata=_first_certificate(self._path))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"key {self._path}: it is not a PEM file with a private key, without a password, and its "
                "certificate: let pvtime receive --key make one"
            ) from error
        return context


class TlsConnection:
    """A connection with TLS, whose errors are a socket's. Its methods are those of a socket."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls

    def send(self, data: memoryview, /) -> int:
        with _plain_errors():
            return self._tls.send(data)

    def recv_into(self, buffer: memoryview, /) -> int:
        try:
            with _plain_errors():
                return self._tls.recv_into(buffer)
        except ssl.SSLZeroReturnError:
            return 0

    def settimeout(self, value: float | None, /) -> None:
        self._tls.settimeout(value)

    def shutdown(self, how: int, /) -> None:
        """Break the connection. From here on nothing can be sent: SSLSocket's own would go on without TLS."""
        socket.socket.shutdown(self._tls, how)

    def close(self) -> None:
        self._tls.close()


def create_key(path: Path) -> None:
    """Make a key in a new file, which only its owner can read.

    :raises UsageError: the host has no openssl, or the file cannot be written.
    """
    try:
        made = subprocess.run(OPENSSL, input=OPENSSL_CONFIG, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"key {path}: it does not exist, and openssl, which makes keys, is missing or has failed: "
            "install it, or give a PEM file with a private key and its certificate"
        ) from error
    with oserror_context(f"key {path}", UsageError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(file, "wb") as stream:
            stream.write(made.stdout)


def _first_certificate(path: Path) -> str:
    """Return the first certificate of a PEM file.

    :raises ValueError: it has none.
    """
    with open(path, encoding="ascii", errors="replace") as file:
        text = file.read(MAX_KEY_FILE)
    start, end = text.index(ssl.PEM_HEADER), text.index(ssl.PEM_FOOTER)
    return text[start : end + len(ssl.PEM_FOOTER)]


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the block's TLS errors as ConnectionError, with a reason for people."""
    try:
        yield
    except ssl.SSLZeroReturnError:
        raise
    except ssl.SSLError as error:
        raise ConnectionError(0, _reason(error)) from error


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError):
        return "it closed the connection"
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    name = error.reason or ""
    return _REASONS.get(name) or f"TLS failed: {name.lower().replace('_', ' ') or 'unknown reason'}"
