"""One HTML page of a run: what it predicts well, what badly, and what it stands on.

The page is one file without scripts, which opens from a disk. All text in it is escaped; pictures
are SVG within it. `held_out` reads the test rows, `sections` says what is shown, `parts` how.
"""

from __future__ import annotations

from pathlib import Path

from ..files import RunError, fitting, write_atomic
from ..runs import Run
from . import sections
from .held_out import HeldOut
from .parts import code

__all__ = ["page", "write"]


def write(run: Run, path: Path) -> None:
    """The page of a finished run, as a file."""
    write_atomic(path, page(run).encode())


def page(run: Run) -> str:
    """The page of a finished run.

    Raises:
        RunError: it is not finished.
    """
    from jinja2 import Environment, PackageLoader

    if not run.finished or run.certainty is None:
        raise RunError(
            f"{run.folder} is not finished; go on with molsam train --resume {run.folder}"
        )
    test = HeldOut.of(run)
    with fitting(run.folder / "scores.json"):
        shown = {"Scores": sections.scores(run, test), "Training": sections.training(run)}
    if test is not None:
        shown |= {
            "Predictions of test rows": sections.predictions(run, test),
            "Is it sure?": sections.calibration(run, test),
            "Where it errs": sections.errors(run, test),
            "The worst predictions": sections.worst(run, test),
        }
    shown |= {"Recipe": [code(run.recipe.to_toml())], "Data and versions": sections.origins(run)}
    pages = Environment(loader=PackageLoader(__name__, ""), autoescape=True)
    return pages.get_template("page.html").render(
        title=run.folder.resolve().name, what=_what(run), sections=shown
    )


def _what(run: Run) -> str:
    counts, info = run.info.molecules, run.info
    name = Path(info.source).name
    models = f"{len(run.members)} models" if len(run.members) > 1 else "one model"
    process = " and a Gaussian process" if run.process is not None else ""
    return (
        f"{info.kind} of {len(info.tasks)} task{'s' * (len(info.tasks) > 1)} of {name}: trained on "
        f"{counts['train']:,} molecules, validated on {counts['valid']:,}, tested on "
        f"{counts['test']:,}. {run.recipe.model.name}, {models}{process}."
    )
