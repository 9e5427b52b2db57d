"""`molsam landscape`: how flat the loss is around the weights of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shell
import tiny
import torch

from molsam import Run, fit, load, read_table
from molsam.files import RunError
from molsam.flatness import names_of, survey

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two runs of a file, which looked at their sharpness after the last epoch."""
    folder = tmp_path_factory.mktemp("runs")
    mine = shell.write_table(folder / "mine.csv")
    recipe = tiny.recipe(epochs=2, sharpness_every=2, **{"data.targets": ("pIC50",)})
    table = read_table(mine, targets=["pIC50"])
    with tiny.undrawn():
        return [
            fit(recipe.change({"rho": rho}), table, out=folder / name / "seed-0")
            for name, rho in (("near", 0.002), ("far", 0.05))
        ]


def test_the_middle_is_the_run_itself(runs):
    run = runs[0]
    table = read_table(run.info.source, targets=["pIC50"])
    found = survey(run, table, points=3)
    last = tiny.history(run).iloc[-1]
    assert found.loss == pytest.approx(last["train_loss"], rel=1e-5)
    assert found.top_eigenvalue == pytest.approx(last["sharpness"], rel=1e-2)
    middle = found.plane[(found.plane["a"] == 0) & (found.plane["b"] == 0)]
    assert middle["loss"].item() == found.loss
    assert len(found.plane) == 9
    assert found.plane["loss"].max() > found.loss
    assert tiny.same_weights(run, load(run.folder))
    again = survey(load(run.folder), run.info.source, points=3)
    pd.testing.assert_frame_equal(again.plane, found.plane)
    other = survey(load(run.folder), table, points=3, seed=1)
    assert not np.allclose(other.plane["loss"], found.plane["loss"])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_what_the_cpu_does_at_the_weights(runs):
    table = read_table(runs[0].info.source, targets=["pIC50"])
    there, here = (
        survey(load(runs[0].folder, device=device), table, points=3) for device in ("cuda", "cpu")
    )
    assert there.loss == pytest.approx(here.loss, rel=1e-3)
    assert there.top_eigenvalue == pytest.approx(here.top_eigenvalue, rel=1e-2)


def test_the_command_leaves_tables_and_a_picture(runs, tmp_path):
    folders = [run.folder for run in runs]
    result = shell.molsam("landscape", *folders, "--points", 3, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    names = ["near/seed-0", "far/seed-0"]
    assert all(name in result.out for name in names)
    planes = pd.read_csv(tmp_path / "out" / "landscape.csv")
    assert planes.columns.tolist() == ["run", "a", "b", "loss"]
    assert planes["run"].value_counts().to_dict() == dict.fromkeys(names, 9)
    numbers = pd.read_csv(tmp_path / "out" / "sharpness.csv")
    assert numbers["run"].tolist() == names
    columns = ["run", "loss", "top_eigenvalue", "trace", "trace_error"]
    assert numbers.columns.tolist() == columns
    assert (tmp_path / "out" / "landscape.png").read_bytes().startswith(b"\x89PNG")


def test_names_tell_folders_apart():
    assert names_of([Path("/a/b/x"), Path("/a/c/y")]) == ["x", "y"]
    assert names_of([Path("/a/b/x"), Path("/a/c/x"), Path("/a/q")]) == ["b/x", "c/x", "a/q"]
    with pytest.raises(RunError, match="named twice"):
        names_of([Path("/a/b"), Path("/a/b")])


def test_what_cannot_be_looked_at_is_refused(runs, tmp_path):
    folder = runs[0].folder
    shell.assert_refused(shell.molsam("landscape", folder, "--points", 4), "take an odd number")
    shell.assert_refused(shell.molsam("landscape", tmp_path / "no"), "there is no run folder")
    table = read_table(runs[0].info.source, targets=["pIC50"]).take(slice(50))
    with pytest.raises(RunError, match="is not the data that"):
        survey(runs[0], table, points=3)
