"""The command `molsam`: parse, call, print."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

import typer
from rich.markup import escape

from ..screen import err, say
from .comparing import compare
from .doctoring import doctor
from .explaining import explain
from .exporting import export
from .flattening import landscape
from .listing import cache_app, data_app, recipes_app
from .measuring import bench_app, study
from .predicting import evaluate, predict
from .reporting import report
from .training import train
from .tuning import tune

app = typer.Typer(
    help="Molecular property prediction with graph transformers, trained by GraphSAM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    train, tune, predict, evaluate, explain, report, export, compare, study, landscape, doctor,
):  # fmt: skip
    app.command()(command)
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(bench_app, name="bench")

# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h: up to 32 MiB on the heap, up to 256 MiB kept
MALLOC = {-3: 32 << 20, -1: 256 << 20}


def main() -> None:
    """Entry point: bad input ends in one sentence and exit code 2."""
    # Spinning for long loses most of the time beside another busy process, sleeping at once a
    # quarter of it on a machine of one's own.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    _keep_freed_memory()
    try:
        app(prog_name="molsam")
    except (ValueError, OSError) as error:
        say(f"[bold red]molsam:[/] {escape(_sentence(error))}", err)
        sys.exit(2)


def _keep_freed_memory() -> None:
    """Have glibc hand what a training step frees to the next one, rather than to the system.

    Fresh pages are a tenth of a step. Settings in the environment have the last word.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with suppress(AttributeError, OSError, TypeError):  # another C library
        allocator = ctypes.CDLL(None).mallopt
        for setting, size in MALLOC.items():
            allocator(setting, size)


def _sentence(error: ValueError | OSError) -> str:
    """The message; of an error of the system the file and the reason, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
