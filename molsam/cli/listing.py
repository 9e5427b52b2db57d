"""`molsam recipes`, `molsam data` and `molsam cache`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .. import screen
from ..screen import out
from .options import DataDir, Smiles

recipes_app = typer.Typer(help="Show the shipped recipes.", no_args_is_help=True)
data_app = typer.Typer(help="List, fetch and check data sets.", no_args_is_help=True)
cache_app = typer.Typer(help="What training has worked out of molecules and keeps on disk.")


@recipes_app.command("list")
def recipes_list() -> None:
    """The shipped recipes: model, optimizer, epochs and split of each."""
    from ..recipes import Recipe, names

    table = Table("recipe", "model", "optimizer", "rho", "epochs", "split", box=None)
    for name in names():
        recipe = Recipe.load(name)
        optimizer, training = recipe.optimizer, recipe.training
        table.add_row(
            name,
            recipe.model.name,
            optimizer.name,
            f"{optimizer.rho:g}",
            str(training.epochs),
            recipe.data.split,
        )
    out.print(table)


@recipes_app.command("show")
def recipes_show(
    name: Annotated[str, typer.Argument(help="A shipped recipe or a TOML file.")],
    full: Annotated[bool, typer.Option("--full", help="Every field, defaults too.")] = False,
) -> None:
    """The recipe as it is written, with its reasons; --full spells out the defaults."""
    from ..recipes import Recipe, find

    recipe = Recipe.load(name)
    text = recipe.to_toml() if full else find(name).read_text(encoding="utf-8")
    out.print(text.rstrip(), markup=False, soft_wrap=True)


@data_app.command("list")
def data_list() -> None:
    """The data sets that molsam knows."""
    from ..datasets import TASKS

    table = Table(box=None)
    for column in ("name", "rows", "targets", "metric", "split"):
        table.add_column(column, no_wrap=True)
    table.add_column("about")
    for name, task in TASKS.items():
        table.add_row(
            name, f"{task.size:,}", str(task.columns), task.metric, task.split, task.title
        )
    out.print(table)


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str], typer.Argument(help="Data sets, or all.")],
    data_dir: DataDir = None,
) -> None:
    """Download data sets to the cache, unless a checked copy is there."""
    from .. import datasets

    for name in list(datasets.TASKS) if names == ["all"] else names:
        with screen.counting_bar(f"fetching {name}") as progress:
            table = datasets.load(name, data_dir=data_dir, progress=progress)
        out.print(f"{name}: {len(table):,} rows, content checked")


@data_app.command("check")
def data_check(
    file: Annotated[str, typer.Argument(help="A table of molecules, or a data set's name.")],
    target: Annotated[list[str] | None, typer.Option(help="Column to check.")] = None,
    smiles: Smiles = None,
    data_dir: DataDir = None,
) -> None:
    """Count what would trouble training: bad rows, duplicates, conflicts, salts, labels."""
    from .. import datasets

    if file in datasets.TASKS:
        table = datasets.load(file, data_dir=data_dir, smiles=smiles, targets=target)
    else:
        table = datasets.read_table(file, smiles=smiles, targets=target)
    screen.say_check(datasets.check(table))


@cache_app.callback(invoke_without_command=True)
def cache_show(context: typer.Context) -> None:
    """What training has worked out of molecules and keeps on disk: where, and how much."""
    from .. import cache

    if context.invoked_subcommand is None:
        count, size = cache.size()
        text = f"{escape(str(cache.folder()))}: {count:,} entries, {size / 1e6:,.1f} MB"
        out.print(text, soft_wrap=True)


@cache_app.command("clear")
def cache_clear() -> None:
    """Remove all entries; training works them out anew."""
    from .. import cache

    count, size = cache.size()
    cache.clear()
    out.print(f"{count:,} entries removed, {size / 1e6:,.1f} MB")
