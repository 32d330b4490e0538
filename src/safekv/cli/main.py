"""`safekv`: the group of all commands, each loaded only when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import click

import safekv
from safekv.cli.errors import exit_status


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command lives (`module:attribute`) and what it does, known without importing it."""

    target: str
    summary: str

    def load(self) -> click.Command:
        """Import the command. Costs whatever its module imports."""
        module, _, attribute = self.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), f"{self.target} is no command"
        return command


COMMANDS: Final = {
    "serve": LazyCommand("safekv.cli.serve:serve", "Serve a model to several tenants over HTTP."),
    "demo": LazyCommand("safekv.cli.demo:demo", "Show what sharing leaks and what it saves."),
    "tenant": LazyCommand(
        "safekv.cli.tenant:tenant", "Add, list, revoke and forget tenants' keys."
    ),
    "vault": LazyCommand("safekv.cli.vault:vault", "Manage the keys that blocks are sealed with."),
    "declare": LazyCommand("safekv.cli.declare:declare", "Say which texts all tenants share."),
    "mode": LazyCommand("safekv.cli.mode:mode", "Make a running server share less, at once."),
    "cloak": LazyCommand(
        "safekv.cli.cloak:cloak", "Obfuscate KV with KV-Cloak (experimental; broken, see --help)."
    ),
    "models": LazyCommand("safekv.cli.models:models", "List, fetch and verify known models."),
    "detect": LazyCommand(
        "safekv.cli.detect:detect", "Check texts for private data and measure the detector."
    ),
    "config": LazyCommand("safekv.cli.config:config", "Show and check the configuration."),
    "verify": LazyCommand("safekv.cli.verify:verify", "Check every security claim."),
    "audit": LazyCommand(
        "safekv.cli.audit:audit", "Find out whether an endpoint leaks prompts between keys."
    ),
    "attack": LazyCommand("safekv.cli.attack:attack", "Read prompts out of stolen KV caches."),
    "bench": LazyCommand("safekv.cli.bench:bench", "Measure what the prefix cache costs."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = COMMANDS.get(cmd_name)
        return found.load() if found else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(f"no such command {args[0]!r}; the commands are {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(safekv.__version__, prog_name="safekv")
def cli() -> None:
    """Share one LLM server's KV cache between tenants without sharing their secrets.

    Exit status: 0 ok, 1 failed, 2 wrong usage or configuration, 3 inconclusive, 130 interrupted.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit status."""
    given = None if arguments is None else list(arguments)
    return exit_status(lambda: cli.main(given, prog_name="safekv", standalone_mode=False))


def main() -> NoReturn:
    """The `safekv` program: run the process's command line and exit with its status."""
    sys.exit(run())


if __name__ == "__main__":
    main()
