# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's directory of control sockets: who may have it, which names there are, and what is swept."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pvtime.errors import UsageError
from pvtime.run.runtime_dir import check_name, listen_as, named_sockets, runtime_directory, socket_of, sweep
from pvtime.snapshot.address import OwnSocket


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a runtime directory, and return pvtime's in it, which is not there yet."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "pvtime"


def test_it_is_made_for_its_owner_alone(runtime: Path) -> None:
    assert runtime_directory() is None
    assert runtime_directory(create=True) == runtime_directory() == runtime
    assert runtime.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("value", [None, "", "relative"])
def test_without_a_runtime_directory_it_is_among_the_temporary_files(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if value is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert runtime_directory(create=True) == tmp_path / f"pvtime-{os.getuid()}"


def test_one_that_others_can_enter_or_have_made_is_refused(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.mkdir(mode=0o700)
    with monkeypatch.context() as other:
        other.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(UsageError, match="must be a directory of yours with mode 0700"):
            listen_as("web")
    for mode in (0o701, 0o710, 0o770):
        runtime.chmod(mode)
        for use in (lambda: listen_as("web"), named_sockets, lambda: socket_of("web")):
            with pytest.raises(UsageError, match="must be a directory of yours with mode 0700"):
                use()
    runtime.rmdir()
    target = tmp_path / "elsewhere"
    target.mkdir(mode=0o700)
    runtime.symlink_to(target)
    with pytest.raises(UsageError, match="must be a directory of yours"):
        listen_as("web")
    assert os.listdir(target) == []


def test_a_machine_is_found_by_its_name_until_it_ends(runtime: Path) -> None:
    with listen_as("web") as listener:
        path = runtime / "web.sock"
        assert named_sockets() == [("web", path)]
        assert socket_of("web") == path
        assert path.stat().st_mode & 0o777 == 0o600
        assert listener.fileno() >= 0
        with pytest.raises(UsageError, match="a machine named web runs already"):
            listen_as("web")
        sweep(path)
        assert path.exists(), "somebody listens there"
    assert named_sockets() == []


def test_a_dead_socket_is_swept_or_taken_over(runtime: Path) -> None:
    path = runtime / "web.sock"
    claims: list[Callable[[], object]] = [lambda: sweep(path), lambda: listen_as("web").close()]
    for claim in claims:
        runtime_directory(create=True)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        assert named_sockets() == [("web", path)]
        claim()
        assert named_sockets() == []


def test_many_that_start_at_once_with_one_name_are_one() -> None:
    # Between bind(2) and listen(2) a socket refuses connections, as a dead one does, and would be swept.
    listeners: list[OwnSocket] = []
    refused: list[str] = []
    together = threading.Barrier(8)

    def start() -> None:
        together.wait()
        try:
            listeners.append(listen_as("web", patience_s=60))
        except UsageError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(listeners), len(refused)) == (1, 7)
    listeners[0].close()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../x", "-x", "a b", "x\n", "x\0", "\x1b[2J", "ä", "x" * 33]
)
def test_what_is_no_name_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is not a name"):
        check_name(name)
    with pytest.raises(UsageError, match="is not a name"):
        listen_as(name)


def test_other_files_in_the_directory_are_no_machines(runtime: Path) -> None:
    runtime_directory(create=True)
    (runtime / "file.sock").write_text("")
    (runtime / "link.sock").symlink_to("/dev/null")
    with OwnSocket(str(runtime / "-odd.sock")), OwnSocket(str(runtime / "no-suffix")):
        assert named_sockets() == []


def test_a_path_or_a_socket_here_is_meant_where_there_is_no_such_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no machine named 'web': pvtime ps"):
        socket_of("web")
    with OwnSocket("web"):
        assert socket_of("web") == Path("web")
        with listen_as("web"):
            assert socket_of("web").is_absolute(), "the name goes first"
            assert socket_of("./web") == Path("web")
    assert socket_of("/there/it") == Path("/there/it")


def test_a_name_that_makes_the_path_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(UsageError, match="too long for a socket, which may have 107 bytes"):
        listen_as("web")
