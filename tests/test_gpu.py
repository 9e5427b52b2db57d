"""What holds on a GPU, and the script that shows it: `make gpu`."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import gpu
import pytest
import tiny
import torch
from random_batches import random_batch
from torch import nn

from molsam import Run, fit
from molsam.batches import Batch
from molsam.compiling import CompiledLayers
from molsam.environment import autocast
from molsam.landscape import top_eigenvalue
from molsam.models.gru import packed_gru
from molsam.optim.directions import widest
from molsam.optim.generators import same_generators_after

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
each_form = pytest.mark.parametrize("name", gpu.FORMS)
CPU = torch.device("cpu")


# The script, on a CPU


def test_the_script_compares_prints_and_writes(tmp_path, monkeypatch, capsys):
    measure, show, _ = gpu.TABLES["model"]
    small = {"rounds": 1, "steps": 2, "batch_size": 3, "width": 8, "depth": 1}
    monkeypatch.setattr(gpu, "TABLES", {"model": (measure, show, small)})
    monkeypatch.setattr(gpu, "STEPS", {"width": 8, "batch_sizes": (2,), "warm": 1, "steps": 1})
    monkeypatch.setattr(gpu, "CompiledLayers", lambda layers: lambda: same_generators_after([]))
    left_out = ("bench optimizers", "bench train", "bench predict")
    kept = {name: part for name, part in gpu.SECTIONS.items() if name not in left_out}
    monkeypatch.setattr(gpu, "SECTIONS", kept)
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert all(report[name]["ok"] for name in kept)
    differences = {(r["what"], r["model"]): r for r in report["parity of models"]["rows"]}
    assert differences["gradients", "CoMPT, gru"]["difference"] == 0
    assert 0 < differences["bfloat16 outputs", "GraphTransformer"]["difference"] < 0.05
    assert report["bench model"]["rows"]
    assert len(report["steps"]["rows"]) == 12
    text = (tmp_path / "gpu.txt").read_text()
    assert text == capsys.readouterr().out
    assert "CoMPT, mean readout" in text
    assert text.endswith("all held\n")


def test_the_script_goes_on_after_a_failure_and_tells_it(tmp_path, monkeypatch):
    def broken(device):
        raise RuntimeError("out of luck")

    monkeypatch.setitem(gpu.BOUNDS, "predictions of a run", -1.0)
    sections = {"broken": broken, "parity of runs": gpu.SECTIONS["parity of runs"]}
    monkeypatch.setattr(gpu, "SECTIONS", sections)
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    text = (tmp_path / "gpu.txt").read_text()
    assert "RuntimeError: out of luck" in text
    assert text.endswith("failed: broken, parity of runs\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_script_says_so(tmp_path):
    words = [sys.executable, gpu.__file__, "--out", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == (
        "this machine has no CUDA device that torch can use: nothing was checked\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_bounds_are_those_of_the_documents():
    text = (Path(__file__).parents[1] / "docs" / "trust.md").read_text(encoding="utf-8")
    section = text.partition("## The same numbers")[2].partition("##")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if " | 0." in line]
    assert {what: float(bound) for what, bound in rows} == gpu.BOUNDS


# On a GPU


@pytest.fixture
def exact():
    """cuDNN's GRU in float32 proper."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield torch.device("cuda", torch.cuda.current_device())


@pytest.mark.cuda
@on_cuda
@pytest.mark.parametrize("compare", [gpu.compare_models, gpu.compare_runs])
def test_a_gpu_computes_what_the_cpu_does(compare, exact):
    for what, model, difference in compare(exact):
        assert difference <= gpu.BOUNDS[what], f"{what} of {model}"


@pytest.mark.cuda
@on_cuda
@pytest.mark.skipif(not any(map(shutil.which, ("gcc", "cc", "clang"))), reason="no C compiler")
def test_compiled_layers_compute_what_the_cpu_does(exact):
    for what, model, difference in gpu.compare_compiled(exact):
        assert difference <= gpu.BOUNDS[what], f"{what} of {model}"


@pytest.mark.cuda
@on_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_bias_of_fused_attention_is_learnt(precision, exact):
    """cuDNN's kernel, torch's own choice on some GPUs, has no gradient for it."""
    model, batch = gpu.build("GraphTransformer"), random_batch((64, 33, 7))
    expected = gpu.outputs_and_gradients(copy.deepcopy(model), batch)[1]
    model, batch = model.to(exact), batch.to(exact)
    with autocast(exact, precision):
        found = gpu.outputs_and_gradients(model, batch)[1]
    bound = 1e-4 if precision == "float32" else 0.1
    for (name, _), a, b in zip(model.named_parameters(), found, expected, strict=True):
        if name in ("distance_embedding.weight", "bond_bias.weight"):
            assert gpu.share([a], [b]) <= bound, name


@pytest.mark.cuda
@on_cuda
@each_form
def test_a_gradient_waits_for_the_device_once_at_most(name, exact):
    model, batch = gpu.build(name).to(exact), random_batch((64, 33, 7)).to(exact)
    gpu.outputs_and_gradients(model, batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        if name == "CoMPT, gru":  # cuDNN reads the sizes on the host
            with pytest.raises(RuntimeError, match="synchroniz"):
                gpu.outputs_and_gradients(model, batch)
        else:
            gpu.outputs_and_gradients(model, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@on_cuda
def test_a_batch_is_cut_without_waiting(exact):
    from molsam.batches import PackedMolecules
    from molsam.molecules import parse_many

    mols = parse_many(["CCO", "C", "c1ccccc1O"]).mols
    packed = PackedMolecules.from_mols(mols, "weave").to(exact)
    packed.batch([0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = packed.batch([2, 0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected: Batch = PackedMolecules.from_mols(mols, "weave").batch([2, 0])
    for f in fields(batch):
        assert torch.equal(getattr(batch, f.name).cpu(), getattr(expected, f.name))


@pytest.mark.cuda
@on_cuda
def test_cudnns_gru_is_the_packed_one(exact):
    sizes, gru = torch.tensor([3, 1, 5, 5, 2]), nn.GRU(6, 6, bidirectional=True)
    x, start = torch.randn(16, 6), torch.randn(5, 6)
    found = []
    for device in (CPU, exact):
        gru = gru.to(device)
        inputs = [t.to(device).requires_grad_() for t in (x, start)]
        y = packed_gru(gru, *inputs, sizes.to(device))
        found.append([y, *torch.autograd.grad(y.square().sum(), [*inputs, *gru.parameters()])])
    assert gpu.share(found[1], found[0]) <= 1e-5


@pytest.mark.cuda
@on_cuda
@each_form
def test_sharpness_is_that_of_the_cpu(name, exact):
    model, batch = gpu.build(name).eval(), random_batch()
    tops = []
    for device in (CPU, exact):
        moved, here = copy.deepcopy(model).to(device), batch.to(device)
        term = lambda moved=moved, here=here: moved(here).square().mean()  # noqa: E731
        generator = torch.Generator(device).manual_seed(0)
        parameters = list(moved.parameters())
        tops.append(top_eigenvalue([term], parameters, generator=generator, tolerance=1e-5))
    assert tops[1] == pytest.approx(tops[0], rel=1e-2)


@pytest.mark.cuda
@on_cuda
def test_generators_go_on_as_if_nothing_had_been_drawn(exact):
    torch.manual_seed(0)
    expected = torch.rand(3, device=exact)
    torch.manual_seed(0)
    with same_generators_after([exact]):
        torch.rand(5, device=exact)
    assert torch.equal(torch.rand(3, device=exact), expected)


@pytest.mark.cuda
@on_cuda
@pytest.mark.parametrize("choices", [{}, {"precision": "bfloat16"}, {"masks": "same"}])
def test_a_run_stopped_on_a_gpu_goes_on_there_and_predicts_on_the_cpu(choices, tmp_path):
    def stop(progress):
        if progress.epochs_done >= 1.5:
            raise KeyboardInterrupt

    recipe = tiny.recipe(dropout=0.0, diagnose_every=3, **choices)
    with tiny.undrawn():
        whole = fit(recipe, tiny.lengths(), out=tmp_path / "whole", device="cuda")
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, tiny.lengths(), out=tmp_path / "cut", device="cuda", progress=stop)
        run = fit(recipe, tiny.lengths(), out=tmp_path / "cut", device="cuda", resume=True)
    predictions = [
        Run.load(folder, device=device).predict(tiny.PROBES)["task"]
        for folder, device in ((whole.folder, "cuda"), (run.folder, "cuda"), (run.folder, "cpu"))
    ]
    bound = 0.05 if choices else 1e-2  # sums on a GPU may be rounded otherwise each time
    for found in predictions[1:]:
        assert abs(found - predictions[0]).max() <= bound * abs(predictions[0]).max()


@pytest.mark.cuda
@on_cuda
def test_steps_of_compiled_layers_with_dropout_are_finite(exact):
    model = gpu.build("GraphTransformer", attention_dropout=0.1, dropout=0.1).to(exact)
    batches = [random_batch(seed=seed).to(exact) for seed in range(3)]
    with CompiledLayers(model.layers)():
        assert gpu.train(model, batches, 12, "bfloat16")[0].isfinite().all()


def test_sums_are_as_wide_as_the_device_has_numbers():
    kinds = {"cpu": torch.float64, "cuda": torch.float64, "mps": torch.float32}
    assert {kind: widest(torch.device(kind)) for kind in kinds} == kinds


def test_a_run_of_the_script_lies_where_it_was_asked_to(tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setattr(gpu, "SECTIONS", {})
    assert gpu.main(["--device", "cpu"]) == 0
    assert sorted(path.name for path in Path(tmp_path / "out").iterdir()) == ["gpu.json", "gpu.txt"]
