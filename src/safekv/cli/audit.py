"""`safekv audit`: the group; an address instead of a command's name means the audit itself."""

from __future__ import annotations

import click

from safekv.cli.audit_calibrate import calibrate
from safekv.cli.audit_endpoint import endpoint
from safekv.cli.audit_steal import steal


class AuditGroup(click.Group):
    """`safekv audit URL …` is `safekv audit endpoint URL …`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            return endpoint.name, endpoint, args
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["endpoint", *args]
        return super().parse_args(ctx, args)


@click.group(cls=AuditGroup)
def audit() -> None:
    """Find out whether an endpoint tells one tenant what another one sent.

    `safekv audit URL --key … --other-key …` audits; see `safekv audit endpoint --help`.
    `safekv audit steal` reads a planted prompt word by word.
    """


audit.add_command(endpoint)
audit.add_command(calibrate)
audit.add_command(steal)
