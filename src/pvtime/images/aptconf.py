# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration of our apt.

From the system come the sources (see :mod:`pvtime.images.sources`), the keys, the passwords of mirrors, and
how to reach the network (``Acquire``: proxies, timeouts). Its hooks, pins and package state do not count.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Final

from pvtime.errors import ImagesError
from pvtime.images import sources
from pvtime.images.cache import explained

__all__ = ["GIVE", "NO_APT", "configure", "reason"]

GIVE: Final = "give --kernel and --initrd"
NO_APT: Final = f"apt, which fetches guest images, is not on this machine: {GIVE}"

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


def configure(root: Path) -> None:
    """Write configuration and sources into ``root``, as the system has them now.

    :raises ImagesError: there is no apt, it has no sources, or they cannot be written.
    """
    acquire = _system("dump", "Acquire").splitlines()
    # Index targets are what desktop programs have apt fetch besides: icons, contents.
    network = [line for line in acquire if not line.startswith("Acquire::IndexTargets")]
    with explained(root):
        for directory in ("lists/partial", "cache/archives/partial", "sources.list.d", "packages"):
            root.joinpath(directory).mkdir(parents=True, exist_ok=True)
        root.joinpath("status").touch()
        # As root, apt would download as another user, who cannot write here.
        sandbox = ['APT::Sandbox::User "root";'] if os.geteuid() == 0 else []
        text = CONFIG.format(root=_quoted(root)) + "\n".join([*sandbox, *network, LAST])
        root.joinpath("apt.conf").write_text(text)
        _write_sources(root / "sources.list.d")


def _write_sources(directory: Path) -> None:
    etc = _system("shell", "FILE", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d")
    places = dict(word.split("=", 1) for word in shlex.split(etc))
    file, parts = Path(places.get("FILE", "")), Path(places.get("PARTS", ""))
    files = [path for path in [file, *sorted(parts.glob("*"))] if path.is_file()]
    chosen = sources.choose(source for path in files for source in sources.parse(path))
    if not chosen:
        raise ImagesError(f"apt has no sources in {file} or {parts}: add Debian's there, or {GIVE}")
    for suffix in (".list", ".sources"):
        text = "".join(source.text for source in chosen if source.suffix == suffix)
        directory.joinpath("system" + suffix).write_text(text, errors="surrogateescape")


def _system(*arguments: str) -> str:
    """Return what the system's own configuration says."""
    environment = {name: value for name, value in os.environ.items() if name != "APT_CONFIG"}
    command = ["apt-config", *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise ImagesError(NO_APT) from error
    except subprocess.CalledProcessError as error:
        raise ImagesError(f"apt-config failed: {reason(error.stderr)}: {GIVE}") from error
    return done.stdout


def reason(stderr: str) -> str:
    """Return the first error of what apt printed; the ones behind it are its consequences."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("E:").strip() for line in lines if line.startswith("E:")]
    return (errors or lines or ["it did not say why"])[0]


def _quoted(path: Path) -> str:
    """Return ``path`` for a configuration file of apt, which has no way to write these characters.

    :raises ImagesError: the path holds one.
    """
    if set(str(path)) & set('"\n'):
        raise ImagesError(f"{path!r}: apt cannot work in a directory so named: set PVTIME_CACHE to another")
    return str(path)
