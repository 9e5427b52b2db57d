"""The reference of the command line in docs/commands.md, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.cli
import typer.main

from molsam.cli import app

from .text import DOCS

PAGE = DOCS / "commands.md"
HEAD = """# Commands

Every command ends with exit code 0 where it did what was asked, with 2 and one sentence where it
could not, and with 130 where it was interrupted. Data and results go to stdout, all else to
stderr. `molsam COMMAND --help` says the same as this page.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """What each command takes."""
    return "\n".join([HEAD, *sections(typer.main.get_command(app), "molsam")])


def sections(command: Any, name: str) -> Iterator[str]:
    """Of a command; of a group of commands, those of each."""
    if commands := getattr(command, "commands", {}):
        if command.invoke_without_command:
            yield f"## `{name}`\n\n{command.help}\n"
        for word, inner in commands.items():
            yield from sections(inner, f"{name} {word}")
        return
    prefix, _, word = name.rpartition(" ")
    context = command.make_context(name, [], resilient_parsing=True)
    text = typer.cli.get_docs_for_click(
        obj=command, ctx=context, indent=1, name=word, call_prefix=prefix
    )
    yield text.rstrip().replace(f"[OPTIONS] {name}", "[OPTIONS]") + "\n"
