# SPDX-License-Identifier: GPL-2.0-or-later
"""A command of the user's in the guest, in a root of his own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from framework.wait import DEADLINE
from pvtime.images.store import StockImages


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
