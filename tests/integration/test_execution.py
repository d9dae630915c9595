# SPDX-License-Identifier: GPL-2.0-or-later
"""A command of the user's in the guest, in a root of his own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pvtime
from framework.wait import DEADLINE
from pvtime.images.store import StockImages
from pvtime.userland.rootfs import maker_missing


def test_a_command_runs_in_the_users_root_and_its_output_and_exit_code_are_ours(
    tmp_path: Path, stock_images: StockImages
) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "busybox").write_bytes(stock_images.busybox.read_bytes())
    (root / "bin" / "busybox").chmod(0o755)
    os.symlink("busybox", root / "bin" / "sh")
    (root / "mine").write_text("it is mine\n")
    command = (
        "cat /mine; ls /; ifconfig lo | grep -o 127.0.0.1; ls -d /dev/pts/ptmx /dev/shm; "
        "head -n 1 /proc/stat | cut -c 1-4; echo changed > /mine; cat nothing; exit 7"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pvtime", "run", "--rootfs", str(root), "--exec", command, "--steal", "20%"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    first, *names, loopback, terminals, shared, stat, error = done.stdout.splitlines()
    assert (loopback, terminals, shared) == ("127.0.0.1", "/dev/pts/ptmx", "/dev/shm")
    assert (first, stat) == ("it is mine", "cpu ")
    assert "mine" in names
    assert "init" not in names, "it is the guest's own root"
    assert "'nothing': No such file" in error
    assert done.returncode == 7
    assert "Linux version" in done.stderr
    assert "stolen time per vCPU" in done.stderr
    assert (root / "mine").read_text() == "it is mine\n"


def test_a_large_root_is_on_a_disk_and_files_go_in_and_come_out_of_a_shared_directory(
    tmp_path: Path, stock_images: StockImages
) -> None:
    if (missing := maker_missing()) is not None:
        pytest.skip(missing)
    root, shared = tmp_path / "root", tmp_path / "shared"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "busybox").write_bytes(stock_images.busybox.read_bytes())
    (root / "bin" / "busybox").chmod(0o755)
    os.symlink("busybox", root / "bin" / "sh")
    with (root / "large").open("wb") as large:
        large.write(b"its beginning\n")
        large.seek(80 << 20)
        large.write(b"its end\n")
    (shared / "d").mkdir(parents=True)
    (shared / "in").write_text("from the host\n")
    (shared / "run").write_text("cat /share/in; tail -c 8 /large; stat -c %s /large\n")
    (shared / "run").chmod(0o755)
    command = (
        "sh /share/run; rm /bin/busybox /share/in 2>&1; echo a > /new && cat /new; "
        "echo from the guest > /share/d/out; ln -s /etc/shadow /share/d/link; "
        "grep -c ' / overlay ' /proc/mounts"
    )
    options = ["--rootfs", str(root), "--share", str(shared), "--exec", command, "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pvtime", "run", *options], capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.stdout.split("\n")[:3] == ["from the host", "its end", str((80 << 20) + 8)], done
    assert done.returncode == 0, done
    assert "1 file of the guest's /share stayed there" in done.stderr
    assert (shared / "d" / "out").read_text() == "from the guest\n"
    assert (shared / "in").read_text() == "from the host\n", "nothing is deleted"
    assert sorted(path.name for path in shared.rglob("*")) == ["d", "in", "out", "run"]
    assert (root / "bin" / "busybox").exists()


@pytest.mark.usefixtures("stock_images")
def test_what_a_command_left_in_the_shared_directory_is_there_after_a_reset(tmp_path: Path) -> None:
    # The disk's tar is longer than the guest was told, and what it was told of ends between two files.
    with pvtime.Guest(busy=0, share=tmp_path, share_size=1 << 20) as guest:
        guest.wait_userland()
        guest.shell("for name in $(seq 200); do : > /share/$name; done")
        assert len(list(tmp_path.iterdir())) == 200
        guest.console.read()
        guest.reset()
        guest.console.expect("Run /init", timeout=DEADLINE)
        guest.wait_userland(timeout=DEADLINE)
        assert guest.shell("ls /share | wc -l") == "200\n"


def test_a_command_does_not_run_without_its_shared_files(tmp_path: Path) -> None:
    # The run said that the guest could not give its files, with exit code 1, and not that there was no disk.
    (tmp_path / "in").write_text("from the host\n")
    options = ["--share", str(tmp_path), "--append", "module_blacklist=virtio_blk", "--exec", "cat /share/in"]
    done = subprocess.run(
        [sys.executable, "-m", "pvtime", "run", *options, "--quiet"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stdout) == (125, "pvtime: the driver virtio_blk cannot be loaded\n"), done
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
