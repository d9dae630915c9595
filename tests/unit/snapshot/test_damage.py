# SPDX-License-Identifier: GPL-2.0-or-later
"""What was not written by a save, byte for byte, is refused by the name of the file, in one line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.saves import RAM, SmallMachine, load_number, write_number
from pvtime.errors import SavedStateError
from pvtime.machine.memory import GuestMemory
from pvtime.snapshot import directory
from pvtime.snapshot.directory import SavedDirectory, load
from pvtime.snapshot.manifest import MAX_MANIFEST, VERSION
from pvtime.snapshot.memory_file import copy_memory

RAM_FILE = "memory-40000000"
FILES = ("machine.json", "kernel", RAM_FILE, "memory-90a0000")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a saved machine that every test leaves as it was."""
    path = tmp_path_factory.mktemp("whole") / "machine"
    write_number(path, 7)
    yield path
    assert load_number(path) == 7, "a test did not clean up"


@pytest.fixture
def saved(whole: Path, tmp_path: Path) -> Path:
    """Return a saved machine to be spoilt."""
    return shutil.copytree(whole, tmp_path / "machine")


def refusal(path: Path) -> str:
    """Return the message that a machine is refused with; nothing of it is left in the memory."""
    with SmallMachine() as empty, SmallMachine() as zero:
        with pytest.raises(SavedStateError) as refused, load(path) as saved:
            saved.fill(empty.memories)
        assert empty.contents() == zero.contents()
    message = str(refused.value)
    assert "\n" not in message
    return message


@given(file=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_any_changed_byte(whole: Path, file: str, where: float, change: int) -> None:
    with open(whole / file, "r+b", buffering=0) as stream:
        offset = int(where * os.fstat(stream.fileno()).st_size)
        [byte] = os.pread(stream.fileno(), 1, offset)
        os.pwrite(stream.fileno(), bytes([byte ^ change]), offset)
        try:
            assert refusal(whole).startswith(f"{whole / file} is damaged")
        finally:
            os.pwrite(stream.fileno(), bytes([byte]), offset)


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_changed_bit_of_the_metadata(whole: Path, where: float, bit: int) -> None:
    file = whole / "machine.json"
    data = file.read_bytes()
    offset = int(where * len(data))
    try:
        file.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :])
        assert refusal(whole).startswith(f"{file} is damaged")
    finally:
        file.write_bytes(data)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("left", [0.0, 0.5, 0.999])
def test_truncated(saved: Path, file: str, left: float) -> None:
    os.truncate(saved / file, int(left * (saved / file).stat().st_size))
    assert refusal(saved).startswith(f"{saved / file} is ")


@pytest.mark.parametrize("file", [*FILES, "initrd"])
def test_longer(saved: Path, file: str) -> None:
    with open(saved / file, "ab") as stream:
        stream.write(b"\0")
    assert refusal(saved).startswith(f"{saved / file} is damaged")


@pytest.mark.parametrize("file", [*FILES, "initrd"])
def test_a_missing_file(saved: Path, file: str) -> None:
    (saved / file).unlink()
    missing = (
        f"{saved} is not a saved machine: it has no"
        if file == "machine.json"
        else f"{saved / file} cannot be"
    )
    assert refusal(saved).startswith(missing)


@pytest.mark.parametrize("file", [*FILES, "initrd"])
def test_a_symbolic_link_in_a_files_place(saved: Path, file: str) -> None:
    (saved / file).rename(saved.parent / file)
    (saved / file).symlink_to(saved.parent / file)
    assert refusal(saved) == f"{saved / file} cannot be read: it is a symbolic link"


@pytest.mark.parametrize("file", FILES)
def test_a_fifo_or_a_directory_in_a_files_place(saved: Path, file: str) -> None:
    (saved / file).unlink()
    os.mkfifo(saved / file)
    assert refusal(saved) == f"{saved / file} is not a regular file"
    (saved / file).unlink()
    (saved / file).mkdir()
    assert refusal(saved) == f"{saved / file} is not a regular file"


def test_what_is_no_saved_machine(tmp_path: Path, whole: Path) -> None:
    assert refusal(tmp_path / "absent").startswith(
        f"{tmp_path / 'absent'} is not a saved machine: No such file"
    )
    assert refusal(tmp_path).endswith("is not a saved machine: it has no machine.json")
    assert refusal(whole / "kernel").endswith("is not a saved machine: Not a directory")
    (tmp_path / "link").symlink_to(whole)
    assert "is a symbolic link" in refusal(tmp_path / "link")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": "another"}\n', b"\xff" * 100, bytes(1000)])
def test_a_foreign_machine_json(saved: Path, content: bytes) -> None:
    (saved / "machine.json").write_bytes(content)
    assert refusal(saved).startswith(f"{saved / 'machine.json'} is damaged, or not pvtime's")


def test_an_endless_machine_json_is_not_read_to_its_end(saved: Path) -> None:
    os.truncate(saved / "machine.json", 1 << 40)
    assert refusal(saved).startswith(f"{saved / 'machine.json'} is damaged")
    assert MAX_MANIFEST < 1 << 30


def test_a_copy_without_holes_is_the_same(saved: Path) -> None:
    data = (saved / RAM_FILE).read_bytes()
    (saved / RAM_FILE).write_bytes(data)
    assert (saved / RAM_FILE).stat().st_blocks * 512 >= RAM
    assert load_number(saved) == 7


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the metadata and give it a right checksum, as another program would write it."""
    document = json.loads((path / "machine.json").read_bytes())
    del document["sha256"]
    change(document)
    rest = json.dumps(document, indent=1).removeprefix("{\n").encode() + b"\n"
    first = b'{"sha256": "%s",\n' % hashlib.sha256(rest).hexdigest().encode()
    (path / "machine.json").write_bytes(first + rest)


def test_the_checksum_is_what_the_documentation_says(saved: Path) -> None:
    rewrite(saved, lambda _: None)
    assert load_number(saved) == 7


def put(*keys: str) -> Callable[[object], Callable[[dict[str, Any]], None]]:
    """Return what sets a member of the metadata."""

    def to(value: object) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            for key in keys[:-1]:
                document = document[key]
            document[keys[-1]] = value

        return change

    return to


ENTRY = {"size": 0, "sha256": "0" * 64}

WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer": (
        put("version")(VERSION + 1),
        f"has format version '{VERSION + 1}' and this pvtime reads version {VERSION}: restore it with",
    ),
    "older": (
        lambda document: document.update(version=1, pvtime="0.0.9"),
        f"version '1' and this pvtime reads version {VERSION}: restore it with pvtime '0.0.9', which",
    ),
    "no version": (lambda document: document.pop("version"), "has format version 'None'"),
    "foreign": (put("format")("a picture"), "does not belong to a saved machine of pvtime"),
    "architecture": (put("architecture")("x86_64"), "is for the architecture 'x86_64', not arm64"),
    "unknown": (put("more")(1), ": has the unknown field 'more'"),
    "missing": (lambda document: document["description"].pop("engine"), ".description: has no engine"),
    "type": (put("files", "kernel", "size")(True), ".files['kernel'].size: is a bool, not a number"),
    "outside": (put("files", "../kernel")(ENTRY), ".files: no saved machine has a file '../kernel'"),
    "absolute": (put("files", "/etc/passwd")(ENTRY), ".files: no saved machine has a file '/etc/passwd'"),
    "itself": (put("files", "machine.json")(ENTRY), ".files: no saved machine has a file 'machine.json'"),
    "memory": (put("files", "memory-../x")(ENTRY), ".files: no saved machine has a file 'memory-../x'"),
    "newline": (put("files", "memory-1\n")(ENTRY), ".files: no saved machine has a file 'memory-1\\n'"),
    "no kernel": (lambda document: document["files"].pop("kernel"), ".files: has no kernel"),
    "no initrd": (lambda document: document["files"].pop("initrd"), ".files: has no initrd"),
    "negative": (
        put("files", RAM_FILE, "size")(-1),
        f".files['{RAM_FILE}'].size: is not a number from 0 to 0x",
    ),
    "huge": (
        put("files", "kernel", "size")((1 << 30) + 1),
        ".files['kernel'].size: 1073741825 bytes are too many",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_metadata(saved: Path, what: str) -> None:
    change, message = WRONG[what]
    rewrite(saved, change)
    assert refusal(saved).startswith(f"{saved / 'machine.json'}")
    assert message in refusal(saved)


def test_a_machine_with_other_memory(whole: Path) -> None:
    ram = GuestMemory(0x4000_0000, 2 * RAM, "RAM")
    with (
        load(whole) as saved,
        pytest.raises(SavedStateError, match=f"memory: {RAM_FILE} of {RAM} bytes, memory-90"),
    ):
        saved.fill([ram])
    ram.close()


def forbid_checksums(patch: pytest.MonkeyPatch) -> None:
    """Fail where a file's checksum is computed."""
    patch.setattr(directory, "read_memory", lambda *_: pytest.fail("the memory was verified"))
    patch.setattr(SavedDirectory, "_verify", lambda *_: pytest.fail("an image was verified"))


def test_what_nobody_has_written_since_needs_no_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_number(tmp_path / "machine", 5)
    forbid_checksums(monkeypatch)
    assert load_number(tmp_path / "machine") == 5


@pytest.mark.parametrize("seals", [None, b"", b"[]", b"{}", b"[" * 10_000, b"\xff", b'{"kernel": null}'])
def test_without_sound_seals_the_checksums_are_compared(saved: Path, seals: bytes | None) -> None:
    (saved / "seals.json").unlink()
    if seals is not None:
        (saved / "seals.json").write_bytes(seals)
    assert load_number(saved) == 7
    with (saved / RAM_FILE).open("r+b") as stream:
        stream.write(b"\xff")
    assert refusal(saved).startswith(f"{saved / RAM_FILE} is damaged")


@pytest.mark.parametrize("came", [["machine.json"], [RAM_FILE, "seals.json"]])
def test_files_of_two_saves_are_refused(tmp_path: Path, came: list[str]) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for number, path in enumerate((one, other), start=5):
        write_number(path, number)
    for name in came:
        (other / name).replace(one / name)
    assert refusal(one).endswith("is damaged: its checksum is wrong")


def test_seals_of_another_user_are_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_number(tmp_path / "machine", 5)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(directory, "copy_memory", lambda *_: pytest.fail("it was not verified"))
    assert load_number(tmp_path / "machine") == 5


def test_memory_that_is_written_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "machine"
    write_number(path, 5)

    def copy_and_write(file: int, memory: GuestMemory) -> None:
        copy_memory(file, memory)
        with (path / RAM_FILE).open("r+b") as stream:
            stream.write(b"\xff")

    monkeypatch.setattr(directory, "copy_memory", copy_and_write)
    assert refusal(path) == f"{path / RAM_FILE} has been changed while it was read: try again"
