"""`molsam compare`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .. import screen
from ..screen import err, out
from .options import AsJson, Data, DataDir, Name, Processes, Smiles, Target
from .training import changes_of, load_table, recipe_for, source_of

FORESTS_AND_KERNELS = "rf,gb,svm-tanimoto,svm-rbf,gp"


def compare(
    name: Name = None,
    data: Data = None,
    target: Target = None,
    smiles: Smiles = None,
    recipe: Annotated[
        str | None, typer.Option(help="Whose data choices and metric; NAME's own by default.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="As in 'molsam train'.")] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0-4 or 0,3: one split each.")] = "0-4",
    baselines: Annotated[
        str, typer.Option(help="Of rf, gb, svm-tanimoto, svm-rbf, gp, chemprop, chemprop-rdkit.")
    ] = FORESTS_AND_KERNELS,
    runs: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a run or of repeats, again for more; what fits under runs/."),
    ] = None,
    out_file: Annotated[
        Path, typer.Option("--out", help="CSV of scores; baselines are read from it too.")
    ] = Path("runs/scores.csv"),
    data_dir: DataDir = None,
    processes: Processes = None,
    as_json: AsJson = False,
) -> None:
    """Score baselines on the splits of 'molsam train', beside the runs that were trained on them.

    The same command goes on where it was stopped: fits that stand in the CSV are not made again.
    """
    from .. import comparison

    chosen = recipe_for(name, data, recipe).change(changes_of(None, None, split, target, smiles))
    wanted, names = seeds_of(seeds), comparison.named_baselines(baselines)
    table = load_table(chosen, source_of(name, data), data_dir)
    screen.say_table(table, guessed=not chosen.data.targets and data is not None)
    with screen.counting_bar("reading molecules") as progress:
        compared = comparison.Comparison.of(
            chosen, table, wanted, processes=processes, progress=progress
        )
    beside = (
        comparison.named_runs(compared, runs)
        if runs
        else comparison.fitting_runs(compared, Path("runs"))
    )
    left_out = comparison.declined(compared, names)
    for baseline, reason in left_out.items():
        screen.say(f"{baseline} is left out: {escape(reason)}", err)
    served = [baseline for baseline in names if baseline not in left_out]
    try:
        made = comparison.baseline_rows(compared, served, out_file, told=screen.say_fit)
    except KeyboardInterrupt:
        err.print(f"\nstopped; {escape(str(out_file))} is whole, the same command goes on")
        raise typer.Exit(130) from None
    rows = [*comparison.run_rows(compared, beside), *made]
    if not rows:
        raise comparison.CompareError("nothing is left to compare; choose other --baselines")
    comparison.record(compared, beside, out_file)
    summaries = comparison.summarize(rows)
    if as_json:
        out.print_json(data=_report(rows, summaries))
    else:
        screen.say_comparison(rows, summaries)
        out.print(f"scores by seed: [bold]{escape(str(out_file))}[/]", soft_wrap=True)


def seeds_of(text: str) -> list[int]:
    """`0-4` -> 0 to 4; `0,3` -> 0 and 3."""
    seeds: list[int] = []
    for word in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", word)
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise ValueError(f"--seeds {text}: write numbers from 0, such as 0-4 or 0,3")
        seeds += range(int(found[1]), int(found[2] or found[1]) + 1)
    return list(dict.fromkeys(seeds))


def _report(rows: list[Any], summaries: list[Any]) -> dict[str, Any]:
    """Rows and summaries as plain values; what is not a number is null."""
    return {
        "rows": [_plain(row._asdict()) for row in rows],
        "models": [_plain(vars(summary)) for summary in summaries],
    }


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in fields.items()}
