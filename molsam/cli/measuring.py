"""`molsam study` and `molsam bench`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .. import screen
from ..screen import err, out
from .options import AsJson, DataDir, Device

bench_app = typer.Typer(help="Measure what the parts cost on this machine.", no_args_is_help=True)


def study(
    name: Annotated[
        str,
        typer.Argument(
            help="sharpness, anchor, stand-in, levers, defaults, fading, descriptors, optimizers, "
            "optimizers-graph-transformer or ablations."
        ),
    ],
    task: Annotated[
        list[str] | None, typer.Option(help="One of the study's, again for more; all if absent.")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="One of the study's, again for more; all if absent.")
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for runs and tables; runs/study-NAME.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 5,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Change one thing, hold everything else, over several seeds; the same command goes on.

    Tables are of all finished runs in the folder, whichever command trained them.
    """
    from .. import studies

    chosen = studies.find(name)
    folder = out_folder or Path("runs") / f"study-{name}"
    part: dict[str, Any] = {"tasks": task, "variants": variant, "seeds": seeds}
    for row, _ in studies.run_study(chosen, folder, **part, data_dir=data_dir, device=device):
        screen.say(screen.row_text(row), err)
    found = studies.conclude(chosen, folder)
    for title, summary in found.summaries.items():
        screen.say_summary(title, summary)
    for sentence in found.sentences:
        screen.say(escape(sentence))
    out.print(f"tables: [bold]{escape(str(folder))}[/]", soft_wrap=True)


@bench_app.command("optimizers")
def bench_optimizers(
    rounds: Annotated[int, typer.Option(min=1, help="Epochs of 51 steps for each.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Molecules a step.")] = 32,
    width: Annotated[int, typer.Option(min=1, help="Of CoMPT: size of an atom's state.")] = 256,
    depth: Annotated[int, typer.Option(min=1, help="Of CoMPT: layers.")] = 4,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Speed and memory of the sharpness-aware optimizers beside Adam's, in one run."""
    from .. import bench

    report = bench.compare_optimizers(
        rounds=rounds,
        batch_size=batch_size,
        width=width,
        depth=depth,
        device=device,
        progress=screen.say_round,
    )
    _say(report, as_json, screen.say_optimizers)


@bench_app.command("model")
def bench_model(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds for each.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Training steps a round.")] = 6,
    batch_size: Annotated[int, typer.Option(min=1, help="Molecules a step.")] = 32,
    width: Annotated[int, typer.Option(min=1, help="Size of an atom's state.")] = 256,
    depth: Annotated[int, typer.Option(min=1, help="Layers.")] = 3,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Training steps of each model beside its plain form and the machine's peak."""
    from .. import bench

    report = bench.compare_models(
        rounds=rounds,
        steps=steps,
        batch_size=batch_size,
        width=width,
        depth=depth,
        device=device,
        progress=screen.say_round,
    )
    _say(report, as_json, screen.say_models)


@bench_app.command("featurize")
def bench_featurize(
    table: Annotated[
        Path | None, typer.Argument(help="Draw from this file; random molecules without.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds for each.")] = 3,
    count: Annotated[int, typer.Option(min=1, help="Molecules a round.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Features and packing beside dgllife's own loop, on one thread; the gain of processes."""
    from .. import bench

    report = bench.compare_featurizers(table, rounds=rounds, count=count, progress=screen.say_round)
    _say(report, as_json, screen.say_featurizers)


@bench_app.command("predict")
def bench_predict(
    table: Annotated[
        Path | None, typer.Argument(help="Molecules to predict; random ones if absent.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Processes for each.")] = 3,
    count: Annotated[int, typer.Option(min=1, help="Random molecules to predict.")] = 2000,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """SMILES to predictions: speed and peak memory; chemprop beside it where installed."""
    from .. import bench

    report = bench.measure_prediction(
        rounds=rounds, count=count, table=table, device=device, progress=screen.say_round
    )
    _say(report, as_json, screen.say_prediction)


@bench_app.command("scale")
def bench_scale(
    largest: Annotated[int, typer.Option(min=1000, help="Molecules to stop at.")] = 100_000,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Speed and peak memory of predictions, from 1,000 molecules on by tens."""
    from .. import bench

    report = bench.measure_scale(largest=largest, device=device, progress=screen.say_round)
    _say(report, as_json, screen.say_scale)


@bench_app.command("train")
def bench_train(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 3,
    count: Annotated[int, typer.Option(min=20, help="Molecules, a fifth of them held out.")] = 400,
    epochs: Annotated[int, typer.Option(min=2, help="The first is not timed.")] = 3,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Epochs of training with the default recipe, and without its GraphSAM."""
    from .. import bench

    report = bench.measure_training(
        rounds=rounds, count=count, epochs=epochs, device=device, progress=screen.say_round
    )
    _say(report, as_json, screen.say_training)


def _say(report: dict[str, Any], as_json: bool, say: Callable[[dict[str, Any]], None]) -> None:
    if as_json:
        out.print_json(data=report)
    else:
        say(report)
