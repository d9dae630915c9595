# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime restore`` and ``pvtime receive``: machines that ran before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pvtime.cli.showing import Showing, showing

__all__ = ["receive_command", "restore_command"]


@click.command("restore")
@click.argument("directory", type=click.Path(path_type=Path))
@showing
def restore_command(directory: Path, **shown: Any) -> int:
    """Go on with the machine that was saved to DIRECTORY, which stays as it is.

    Its guest notices by its clocks only. The time that it was saved is not stolen. Times that are counted
    from userland on in pvtime run count from the start here.
    """
    from pvtime.run.execute import execute
    from pvtime.run.source import Restoring

    how = Showing(**shown)
    return execute(how.run(), Restoring(directory, how.options, how.schedule()))


@click.command("receive")
@click.argument("address")
@showing
def receive_command(address: str, **shown: Any) -> int:
    """Wait at ADDRESS (unix:PATH, tcp:HOST:PORT) for a machine that pvtime migrate sends; go on with it.

    What is sent is neither encrypted nor authenticated: over a network, send it through a tunnel. Times that
    are counted from userland on in pvtime run count from the start here.
    """
    from pvtime.run.execute import execute
    from pvtime.run.source import Arriving

    how = Showing(**shown)
    return execute(how.run(), Arriving(address, how.options, how.schedule()))
