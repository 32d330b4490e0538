"""`safekv audit`: the group; an address instead of a command's name means the audit itself."""

from __future__ import annotations

import click

from safekv.cli.audit_calibrate import calibrate


@click.group()
def audit() -> None:
    """Find out whether an endpoint tells one tenant what another one sent."""


audit.add_command(calibrate)
