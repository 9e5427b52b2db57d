"""What things cost."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from .console import err, numbers, out


def say_round(done: int) -> None:
    """How far a bench is."""
    err.print(f"rounds done: {done}")


def say_optimizers(report: dict[str, Any]) -> None:
    """What `bench.compare_optimizers` found."""
    table = Table("optimizer", "grad L(w)", box=None)
    for column in ("molecules/s", "of Adam", "low", "high", "gradients", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report["rows"]:
        table.add_row(
            row["optimizer"],
            row["when"],
            f"{row['molecules_per_second']:,.0f}",
            *(f"{row[name]:.3f}" for name in ("ratio_to_adam", "ratio_low", "ratio_high")),
            f"{row['gradients_per_step']:.3f}",
            f"{row['extra_bytes'] / 1e6:.1f} MB",
        )
    out.print(table)
    settings, model = report["settings"], report["settings"]["model"]
    out.print(
        f"CoMPT of width {model['width']} and depth {model['depth']}, {settings['parameters']:,} "
        f"parameters, batches of {settings['batch_size']} BBBP-sized molecules, on "
        f"{report['device']} (threads: {report['threads']}). grad L(w): when a true perturbation "
        f"gradient is taken. Medians over {settings['rounds']} rounds of {settings['steps']} "
        "steps, with the lowest and highest ratio; gradients a step; memory beyond Adam's."
    )


def say_models(report: dict[str, Any]) -> None:
    """What `bench.compare_models` found."""
    table = numbers("model", "mol/s", "of plain", "low", "high", "of peak", "per GF/s")
    for row in report["rows"]:
        cells = [row["model"], f"{row['molecules_per_second']:,.0f}"]
        cells += [f"{row[name]:.2f}" for name in ("ratio", "ratio_low", "ratio_high")]
        if "plain" in row:
            cells += [f"{row['share_of_peak']:.2f}"]
            cells += [f"{row['molecules_per_second_per_gflops']:.2f}"]
        table.add_row(*cells)
    out.print(table)
    settings = report["settings"]
    out.print(
        f"Width {settings['width']}, depth {settings['depth']}, batches of "
        f"{settings['batch_size']} molecules of {settings['mean_atoms']:.1f} atoms, forward, "
        f"backward and AdamW, on {report['device']} (threads: {report['threads']}). Plain: "
        f"DenseCoMPT padded to {settings['padded_to']} atoms, and dgl.nn.GraphormerLayer on the "
        "same batches; as used: on shuffled ones, beside the like-sized ones of molsam's "
        "training. AttentiveFP: of CoMPT with the mean readout. Peak: "
        f"{settings['peak_gflops']:,.0f} GFLOP/s, the best of matrix products in the same "
        f"minutes; per GF/s: molecules a second for each of them. Medians over "
        f"{settings['rounds']} rounds of {settings['steps']} steps."
    )


def say_featurizers(report: dict[str, Any]) -> None:
    """What `bench.compare_featurizers` found."""
    table = numbers("featurizer", "form", "mol/s", "dgllife mol/s", "of dgllife", "low", "high")
    for row in report["rows"]:
        table.add_row(
            row["featurizer"],
            row["form"],
            f"{row['molecules_per_second']:,.0f}",
            f"{row['dgllife_molecules_per_second']:,.0f}",
            *(f"{row[name]:.1f}" for name in ("ratio", "ratio_low", "ratio_high")),
        )
    out.print(table)
    settings = report["settings"]
    out.print(
        f"Molecules of {escape(settings['table'] or 'the bench')}, {settings['mean_atoms']:.1f} "
        "atoms on average, read beforehand; one thread. "
        f"Medians over {settings['rounds']} rounds of {settings['count']}, with the lowest and "
        "highest ratio. featurize: molecules.featurize; pack: PackedMolecules.from_mols, which "
        "adds shortest paths."
    )
    table = numbers("SMILES to compt", "processes", "mol/s", "of one", "low", "high", "worth")
    for row in report["reading"]:
        table.add_row(
            "with descriptors" if row["descriptors"] else "alone",
            str(row["processes"]),
            f"{row['molecules_per_second']:,.0f}",
            *(f"{row[name]:.2f}" for name in ("ratio", "ratio_low", "ratio_high")),
            "never" if row["worth"] is None else f"{row['worth']:,.0f}",
        )
    out.print(table)
    start = report["reading"][0]["start_seconds"]
    out.print(f"worth: molecules that repay the start of the processes, {start:.1f} s.")


def say_prediction(report: dict[str, Any]) -> None:
    """What `bench.measure_prediction` found."""
    table = numbers("command", "mol/s", "started", "memory", "of chemprop", "started")
    for row in report["rows"]:
        found = [row[name] for name in ("ratio", "ratio_after_start") if name in row]
        table.add_row(*_prediction(row), *(f"{ratio:.2f}" for ratio in found))
    out.print(table)
    settings = report["settings"]
    what = escape(settings["table"]) if settings["table"] else "random, BBBP-sized"
    out.print(
        f"{settings['count']:,} molecules ({what}) from a file of SMILES to one of predictions, "
        f"default models, on {report['device']} (threads: {report['threads']}). Started: without "
        "the time of one molecule. Each in a new process; medians over "
        f"{settings['rounds']} rounds, and the most memory that one process of a command held."
    )


def say_scale(report: dict[str, Any]) -> None:
    """What `bench.measure_scale` found."""
    table = numbers("molecules", "mol/s", "started", "memory")
    for row in report["rows"]:
        table.add_row(f"{row['count']:,}", *_prediction(row)[1:])
    out.print(table)
    out.print(
        "Random BBBP-sized molecules from a file of SMILES to one of predictions, by the default "
        f"model without descriptors, on {report['device']} (threads: {report['threads']}). "
        "Started: without the time of one molecule. Memory: the most that one process held."
    )


def _prediction(row: dict[str, Any]) -> list[str]:
    rates = (row["molecules_per_second"], row["molecules_per_second_after_start"])
    return [row["form"], *(f"{each:,.0f}" for each in rates), f"{row['peak_bytes'] / 1e6:,.0f} MB"]


def say_training(report: dict[str, Any]) -> None:
    """What `bench.measure_training` found."""
    table = numbers("optimizer", "molecules/s", "of AdamW", "low", "high")
    for row in report["rows"]:
        ratios = (f"{row[name]:.3f}" for name in ("ratio", "ratio_low", "ratio_high"))
        table.add_row(row["optimizer"], f"{row['molecules_per_second']:,.0f}", *ratios)
    out.print(table)
    settings, model = report["settings"], report["settings"]["model"]
    out.print(
        f"fit with the default recipe: CoMPT of width {model['width']} and depth "
        f"{model['depth']}, batches of {settings['batch_size']} BBBP-sized molecules, on "
        f"{report['device']} (threads: {report['threads']}). Epochs 2 to {settings['epochs']} of "
        f"{settings['count']} molecules, without validation. Medians over {settings['rounds']} "
        "runs of each."
    )
