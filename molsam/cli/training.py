"""`molsam train`."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from .. import screen
from ..screen import err, out
from .options import Data, DataDir, Device, Epochs, Name, Processes, Smiles, Target

if TYPE_CHECKING:
    from ..datasets import MoleculeTable
    from ..recipes import Recipe


def train(
    name: Name = None,
    data: Data = None,
    target: Target = None,
    smiles: Smiles = None,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe by name or TOML file; NAME's own by default.")
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder, new or empty; runs/NAME-1 and so on.")
    ] = None,
    epochs: Epochs = None,
    seed: Annotated[int, typer.Option(help="Decides split, weights, order and dropout.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs with seeds SEED, SEED + 1, ...")] = 1,
    split: Annotated[
        str | None,
        typer.Option(
            help="random, paper, scaffold, balanced_scaffold, stratified, k_fold or a JSON file."
        ),
    ] = None,
    device: Device = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any recipe field, such as rho=0.02."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run.")
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Score a random forest on the same rows too.")
    ] = False,
    data_dir: DataDir = None,
    processes: Processes = None,
) -> None:
    """Train a model on a data set or on your own table."""
    from .. import distributed, training

    distributed.join()
    out.quiet = err.quiet = distributed.rank() > 0
    if resume is not None:
        beside = {"NAME": name, "--data": data, "--target": target, "--smiles": smiles}
        beside |= {"--recipe": recipe, "--out": out_folder, "--epochs": epochs, "--split": split}
        beside |= {"--set": set_, "--seed": seed, "--repeats": repeats > 1}
        _refuse_beside_resume([option for option, given in beside.items() if given])
        chosen, table, seed, repeats = _resumed(resume, data_dir)
        folder = resume
    else:
        changes = changes_of(set_, epochs, split, target, smiles)
        chosen = recipe_for(name, data, recipe).change(changes)
        table = load_table(chosen, source_of(name, data), data_dir)
        folder = training.open_folder(out_folder, table.source, resume=False)
    screen.say_table(table, guessed=not chosen.data.targets and data is not None)
    again = _resume_command(folder, device, data_dir, processes, baseline)
    with (
        interruptible(folder, again, "run.json", "repeats.json"),
        screen.progress_bar() as (progress, on_read),
    ):
        choices: dict[str, Any] = {"device": device, "baseline": baseline, "processes": processes}
        choices |= {"progress": progress, "on_read": on_read}
        if repeats == 1:
            done = [training.fit(chosen, table, out=folder, seed=seed, resume=True, **choices)]
        else:
            done = training.fit_repeats(chosen, table, repeats, out=folder, seed=seed, **choices)
    screen.say_bad_rows(done[0])
    screen.say_scores(done)
    out.print(f"run folder: [bold]{escape(str(folder))}[/]", soft_wrap=True)


def source_of(name: str | None, data: Path | None) -> str:
    """What is to be loaded: a data set's name or a file, one of the two."""
    if (name is None) == (data is None):
        raise ValueError("name a data set, or your own table with --data FILE, one of the two")
    return name or str(data)


def recipe_for(name: str | None, data: Path | None, recipe: str | None) -> Recipe:
    """The recipe asked for; else the data set's own; else the default."""
    from ..recipes import Recipe, names

    if recipe is not None:
        return Recipe.load(recipe)
    return Recipe.load(name if name in names() else "default")


def changes_of(
    set_: list[str] | None,
    epochs: int | None,
    split: str | None,
    target: list[str] | None,
    smiles: str | None,
) -> dict[str, Any]:
    """Recipe fields from the options; `--set` has the last word."""
    from ..recipes import parse_value

    changes: dict[str, Any] = {}
    if epochs is not None:
        changes["training.epochs"] = epochs
    if split is not None and split.endswith(".json"):
        changes |= {"data.split": "file", "data.split_file": os.path.abspath(split)}
    elif split is not None:
        changes["data.split"] = split
    if target:
        changes["data.targets"] = tuple(target)
    if smiles is not None:
        changes["data.smiles_column"] = smiles
    for item in set_ or []:
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"--set {item}: write FIELD=VALUE, such as --set rho=0.02")
        changes[key.strip()] = parse_value(value.strip())
    return changes


def load_table(
    recipe: Recipe, source: str, data_dir: Path | None, kind: Any = None
) -> MoleculeTable:
    """The table `source` with the columns that the recipe names; a bar where it is fetched."""
    from .. import preparation

    where: dict[str, Any] = {"kind": kind, "data_dir": data_dir}
    with screen.counting_bar(f"fetching {source}") as progress:
        return preparation.load_table(recipe, source, progress=progress, **where)


def _refuse_beside_resume(options: Sequence[str]) -> None:
    if options:
        raise ValueError(f"--resume takes all choices from the run; leave {', '.join(options)} out")


def _resumed(folder: Path, data_dir: Path | None) -> tuple[Recipe, MoleculeTable, int, int]:
    """Recipe, data, seed and number of runs of a run, or of a folder of repeats."""
    from ..files import RunError, read_model
    from ..recipes import Recipe
    from ..records import RunInfo
    from ..training import Repeats

    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}")
    record = folder / "repeats.json"
    many = read_model(record, Repeats) if record.is_file() else None
    asked = many or read_model(folder / "run.json", RunInfo)
    recipe = Recipe.load(folder / "recipe.toml")
    table = load_table(recipe, asked.source, data_dir, asked.kind)
    if table.digest() != asked.digest:
        raise RunError(
            f"{asked.source} is not the data that {folder} was started with; bring the "
            "original back, or train anew"
        )
    return recipe, table, asked.seed, many.repeats if many else 1


def _resume_command(
    folder: Path, device: str, data_dir: Path | None, processes: int | None, baseline: bool
) -> str:
    """What goes on with a run, with the options that no run remembers."""
    command = ["molsam", "train", "--resume", str(folder)]
    command += ["--device", device] if device != "auto" else []
    command += ["--data-dir", str(data_dir)] if data_dir else []
    command += ["--processes", str(processes)] if processes else []
    return shlex.join(command + ["--baseline"] * baseline)


@contextmanager
def interruptible(folder: Path, again: str, *records: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end with the command `again`, once one of `records` is in `folder`."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        begun = any((folder / name).is_file() for name in records)
        advice = f"go on with: {again}" if begun else "before training began; start again"
        err.print(f"\nstopped; {escape(advice)}", soft_wrap=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
