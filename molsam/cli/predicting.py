"""`molsam predict` and `molsam evaluate`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .. import screen
from ..screen import err, out
from .options import Device, Processes, Smiles

if TYPE_CHECKING:
    import pandas as pd

    from ..runs import Run

SPARE = (" calibrated", " p(", " std", " low", "similarity", "in domain")


def predict(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    table: Annotated[Path, typer.Argument(help="CSV, TSV, Parquet, SDF or .smi, gzip too.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="CSV or TSV to write, .gz too.")
    ] = None,
    smiles: Smiles = None,
    coverage: Annotated[
        float, typer.Option(help="Share of intervals that are to hold the truth.")
    ] = 0.9,
    dropout_passes: Annotated[
        int, typer.Option(min=0, help="Spread over so many passes with dropout, 20 for example.")
    ] = 0,
    for_spreadsheets: Annotated[
        bool,
        typer.Option(
            "--for-spreadsheets", help="Write ' before texts that would be read as formulas."
        ),
    ] = False,
    device: Device = "auto",
    processes: Processes = None,
) -> None:
    """Predict every row of a table, in order; a row that cannot be read says why."""
    from ..files import without_formulas
    from ..runs import Run

    model = Run.load(run, device=device)
    with screen.counting_bar("reading molecules") as progress:
        frames = model.predict_chunks(
            table,
            smiles=smiles,
            chunk=None if output else screen.ROWS + 1,
            coverage=coverage,
            dropout_passes=dropout_passes,
            processes=processes,
            progress=progress,
        )
        ours = model.predict([]).shape[1] - 1
        frames = (_rounded(frame, ours) for frame in frames)
        frames = map(without_formulas, frames) if for_spreadsheets else frames
        if output is None:
            first = next(frames)
        else:
            rows, bad = _write_frames(frames, output)
    if output is None:
        screen.show_frame(first, spare=_spare(map(str, first.columns[-ours:]), model))
    else:
        out.print(
            f"{screen.count_of(rows, 'row')} written to {escape(str(output))}", soft_wrap=True
        )
        if bad:
            rows = screen.count_of(bad, "row")
            screen.say(f"{rows} got no prediction; the column 'error' says why", err)


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    table: Annotated[
        Path | None, typer.Argument(help="Measured molecules; the run's own test rows if absent.")
    ] = None,
    smiles: Smiles = None,
    device: Device = "auto",
    processes: Processes = None,
) -> None:
    """Score a run on its test rows, or on a table of measured molecules."""
    from .. import datasets
    from ..runs import Run

    model = Run.load(run, device=device)
    if table is None:
        screen.say_scores([model])
        return
    measured = datasets.read_table(
        table, smiles=smiles, targets=model.info.tasks, kind=model.info.kind
    )
    found = model.evaluate(measured, processes=processes)
    if found["unreadable"]:
        rows = screen.count_of(found["unreadable"], "row")
        screen.say(f"{rows} could not be read and took no part", err)
    out.print(screen.score_table({str(table): [found["scores"]]}))


def _spare(ours: Iterable[str], run: Run) -> list[tuple[str, ...]]:
    """Of our columns those that a narrow screen can do without, the first of them first.

    An interval goes as a whole.
    """
    beside = [name for name in ours if name.removeprefix("predicted ") not in run.columns()]
    spare = dict.fromkeys(name for word in SPARE for name in beside if word in name)
    return [(name, f"{name[:-4]} high") if name.endswith(" low") else (name,) for name in spare]


def _rounded(frame: pd.DataFrame, ours: int) -> pd.DataFrame:
    """The frame with the numbers of its last columns, `ours`, to six figures."""
    from ..files import rounded

    last = frame.iloc[:, -ours:].map(lambda v: rounded(v) if isinstance(v, float) else v)
    return frame.iloc[:, :-ours].join(last)


def _quoting(frame: pd.DataFrame) -> int:
    """Quotes around every text where one holds a carriage return, which `csv` forgets to quote."""
    texts = frame.select_dtypes(["object", "string"])
    held = any(isinstance(text, str) and "\r" in text for text in texts.to_numpy().flat)
    return csv.QUOTE_NONNUMERIC if held else csv.QUOTE_MINIMAL


def _write_frames(frames: Iterator[pd.DataFrame], path: Path) -> tuple[int, int]:
    """Write chunk by chunk to a partial file, renamed when whole; (rows, rows without one)."""
    import gzip

    from ..files import replacing

    if path.name.removesuffix(".gz").rpartition(".")[2] not in ("csv", "tsv"):
        raise ValueError(f"{path}: write to a .csv or .tsv file, .gz too")
    separator = "\t" if ".tsv" in path.suffixes else ","
    opener = gzip.open if path.suffix == ".gz" else open
    rows = bad = 0
    with replacing(path) as partial, opener(partial, "wt", encoding="utf-8", newline="") as file:
        for frame in frames:
            how = {"sep": separator, "quoting": _quoting(frame)}
            frame.to_csv(file, index=False, header=rows == 0, **how)
            rows += len(frame)
            bad += int((frame.iloc[:, -1] != "").sum())
    return rows, bad
