# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets at paths: whose they are, and what was left there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pvtime.errors import UsageError
from pvtime.snapshot.address import MAX_PATH, Address, OwnSocket


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a socket is to be."""
    return tmp_path / "socket"


def listens(path: Path) -> bool:
    """Whether somebody does at ``path``."""
    with socket.socket(socket.AF_UNIX) as visitor:
        return visitor.connect_ex(str(path)) == 0


def test_a_socket_that_a_killed_process_has_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert not listens(path)
    with OwnSocket(str(path)):
        assert listens(path)
    assert not path.exists()


def test_a_socket_where_somebody_listens_is_not(path: Path) -> None:
    with OwnSocket(str(path)):
        with pytest.raises(OSError, match="in use"):
            OwnSocket(str(path))
        assert listens(path)


def test_a_path_is_there_when_a_connection_succeeds_and_not_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who waited for the path was refused now and then: it was there from bind to listen.
    seen: list[bool] = []
    listen = socket.socket.listen

    def noted(self: socket.socket, *backlog: int) -> None:
        seen.append(path.exists())
        listen(self, *backlog)

    monkeypatch.setattr(OwnSocket, "listen", noted)
    with OwnSocket(str(path)):
        assert listens(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert [each.name for each in path.parent.iterdir()] == ["socket"]
    assert seen == [False]


def test_a_path_of_the_greatest_length_will_do(tmp_path: Path) -> None:
    path = tmp_path / ("x" * (MAX_PATH - len(f"{tmp_path}/")))
    with OwnSocket(str(path)):
        assert listens(path)
    with pytest.raises(OSError, match="at most 107 bytes"):
        OwnSocket(f"{path}x")


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_stays_as_it_is(kind: str, path: Path) -> None:
    match kind:
        case "file":
            path.write_text("mine")
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to("nothing")
    before = path.lstat()
    with pytest.raises(OSError, match="File exists"):
        OwnSocket(str(path))
    assert path.lstat() == before


def test_a_path_that_was_given_to_another_is_left_to_it(path: Path) -> None:
    with OwnSocket(str(path)):
        path.unlink()
        other = OwnSocket(str(path))
    with other:
        assert listens(path)
    assert not path.exists()


def test_a_path_that_somebody_removed_is_no_error_at_the_end(path: Path) -> None:
    with OwnSocket(str(path)):
        path.unlink()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unix:/nonexistent/socket", "its directory does not exist"),
        (f"unix:/{'x' * 200}", "too long"),
        ("tcp:192.0.2.1:7000", "this host does not have that address"),
    ],
)
def test_an_address_that_cannot_be_listened_at_says_why(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"cannot listen: .*{reason}"):
        Address.parse(text).listen()


@pytest.mark.parametrize("text", ["unix:/nonexistent/socket", f"unix:/{'x' * 200}", f"unix:{__file__}"])
def test_an_address_that_cannot_be_connected_to_says_why(text: str) -> None:
    with pytest.raises(UsageError, match=r"cannot connect: ."):
        Address.parse(text).connect()


def test_a_relative_path_is_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Address.parse("unix:peer").absolute() == Address(path=f"{tmp_path}/peer")
    assert Address.parse("tcp:peer:7").absolute() == Address.parse("tcp:peer:7")
