# SPDX-License-Identifier: GPL-2.0-or-later
"""Run apt for arm64 in a directory of its own: no root, and nothing of the system's apt is touched.

From the system come the sources (see :mod:`pvtime.images.sources`), the keys, the passwords of mirrors, and how
to reach the network (``Acquire``: proxies, timeouts). Its hooks, pins and package state do not count. What apt
downloads it verifies as always: the signature of the Release file, from there on hashes.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pvtime.errors import ImagesError
from pvtime.images import sources
from pvtime.images.cache import explained

__all__ = ["Apt", "Remote"]

NO_APT: Final = "apt, which fetches guest images, is not on this machine: give --kernel and --initrd"
GIVE: Final = "give --kernel and --initrd"

CONFIG: Final = """\
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Update::Error-Mode "any";
Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Cache::srcpkgcache "";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{root}/sources.list.d";
"""

LAST: Final = """\
Acquire::GzipIndexes "true";
#clear Acquire::Languages;
Acquire::Languages "none";
Acquire::AllowInsecureRepositories "0";
Acquire::AllowWeakRepositories "0";
Acquire::AllowDowngradeToInsecureRepositories "0";
"""
"""Behind the system's own: package lists as small as can be, and no way round the signatures."""

STATUS: Final = re.compile(r"dlstatus:\d+:([\d.]+):")
REMOTE: Final = re.compile(r"'[^']*' (\S+) (\d+) (\S*)")


@dataclass(frozen=True)
class Remote:
    """A package as the archive has it: the name of its file, and its size in bytes."""

    file: str
    size: int


@dataclass(frozen=True)
class Apt:
    """apt with all its state in ``root``. ``lock`` is a descriptor that its processes inherit."""

    root: Path
    lock: int

    def configure(self) -> None:
        """Write configuration and sources, as the system has them now.

        :raises ImagesError: there is no apt, it has no sources, or they cannot be written.
        """
        acquire = self._system("dump", "Acquire").splitlines()
        network = [line for line in acquire if not line.startswith("Acquire::IndexTargets")]
        etc = self._system("shell", "FILE", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d")
        places = dict(word.split("=", 1) for word in shlex.split(etc))
        with explained(self.root):
            for directory in ("lists/partial", "cache/archives/partial", "sources.list.d", "packages"):
                self.root.joinpath(directory).mkdir(parents=True, exist_ok=True)
            self.root.joinpath("status").touch()
            # As root, apt would download as another user, who cannot write here.
            sandbox = ['APT::Sandbox::User "root";'] if os.geteuid() == 0 else []
            text = CONFIG.format(root=_quoted(self.root)) + "\n".join([*sandbox, *network, LAST])
            self.root.joinpath("apt.conf").write_text(text)
            self._write_sources(Path(places.get("FILE", "")), Path(places.get("PARTS", "")))

    def _write_sources(self, file: Path, parts: Path) -> None:
        found = [
            source
            for path in [file, *sorted(parts.glob("*"))]
            if path.is_file()
            for source in sources.parse(path)
        ]
        chosen = sources.choose(found)
        if not chosen:
            raise ImagesError(f"apt has no sources in {file} or {parts}: add Debian's there, or {GIVE}")
        for suffix in (".list", ".sources"):
            text = "".join(source.text for source in chosen if source.suffix == suffix)
            self.root.joinpath("sources.list.d", "system" + suffix).write_text(text, errors="surrogateescape")

    def update(self, progress: Callable[[float], None]) -> str:
        """Bring the package lists up to date. Return why some are not, or nothing.

        An old list may still do, and so may the others: that is for the caller to find out.
        """
        try:
            self._run("apt-get", "update", "-q", progress=progress)
        except ImagesError as error:
            return str(error)
        return ""

    def show(self, package: str) -> dict[str, str]:
        """Return the fields of the newest version of ``package``; empty if no source has it."""
        try:
            text = self._run("apt-cache", "show", "--no-all-versions", package)
        except ImagesError:
            return {}
        fields = re.findall(r"^([\w-]+): (.*)$", text, re.MULTILINE)
        return dict(fields)

    def locate(self, packages: Sequence[str]) -> list[Remote]:
        """Say where the newest versions of ``packages`` are.

        :raises ImagesError: no source has one of them.
        """
        text = self._run("apt-get", "download", "--print-uris", "-qq", *packages)
        return [Remote(match[1], int(match[2])) for match in REMOTE.finditer(text)]

    def download(self, packages: Sequence[str], directory: Path, progress: Callable[[float], None]) -> None:
        """Download into ``directory``, going on with what is there in part. ``progress`` gets 0 to 100.

        :raises ImagesError: no network, a hash that is not the signed one, no room.
        """
        self._run("apt-get", "download", "-qq", *packages, progress=progress, directory=directory)

    def _system(self, *arguments: str) -> str:
        """Return what the system's own configuration says."""
        environment = {name: value for name, value in os.environ.items() if name != "APT_CONFIG"}
        try:
            done = subprocess.run(
                ["apt-config", *arguments], env=environment, capture_output=True, text=True, check=True
            )
        except FileNotFoundError as error:
            raise ImagesError(NO_APT) from error
        except subprocess.CalledProcessError as error:
            raise ImagesError(f"apt-config failed: {_reason(error.stderr)}: {GIVE}") from error
        return done.stdout

    def _run(
        self,
        program: str,
        *arguments: str,
        progress: Callable[[float], None] | None = None,
        directory: Path | None = None,
    ) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C"}
        with explained(self.root), tempfile.TemporaryFile(dir=self.root) as out, \
             tempfile.TemporaryFile(dir=self.root) as err:  # fmt: skip
            read_end, write_end = os.pipe()
            with os.fdopen(read_end) as status:
                try:
                    process = subprocess.Popen(
                        [program, "-o", f"APT::Status-Fd={write_end}", *arguments],
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                        env=environment,
                        cwd=directory or self.root,
                        pass_fds=(write_end, self.lock),
                    )
                except FileNotFoundError as error:
                    raise ImagesError(NO_APT) from error
                finally:
                    os.close(write_end)
                code = _follow(process, status, progress)
            if code:
                raise ImagesError(f"{program} failed: {_reason(_text(err))}: {GIVE}")
            return _text(out)


def _follow(
    process: subprocess.Popen[bytes], status: IO[str], progress: Callable[[float], None] | None
) -> int:
    """Report the process's progress until it ends; if that is interrupted, end the process."""
    try:
        for line in status:
            if progress and (match := STATUS.match(line)):
                progress(float(match[1]))
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _reason(stderr: str) -> str:
    """Return the first error of what apt printed; the ones behind it are its consequences."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("E:").strip() for line in lines if line.startswith("E:")]
    return (errors or lines or ["it did not say why"])[0]


def _quoted(path: Path) -> str:
    """Return ``path`` for a configuration file of apt, which has no way to write these characters.

    :raises ImagesError: the path holds one.
    """
    if set(str(path)) & set('"\n'):
        raise ImagesError(
            f"{path}: apt cannot work in a directory with such a name: set PVTIME_CACHE to another"
        )
    return str(path)
