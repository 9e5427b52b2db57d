"""Training through torch.compile learns what training without it learns."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from random_batches import ATOM, BOND, OUTPUTS, random_batch
from torch._dynamo.utils import counters

from molsam import Run, epochs, fit
from molsam.compiling import CompiledLayers, tells_sizes_apart
from molsam.criteria import TrainingError
from molsam.models import MODELS

PLAIN = {"dropout": 0.0, "model.depth": 2, "sharpness_every": 2, "batch_size": 12}
MODEL: dict[str, dict[str, Any]] = {
    "compt": {"readout": "gru"},
    "graph_transformer": {"attention_dropout": 0.0},
}
each_model = pytest.mark.parametrize("name", MODELS)
needs_a_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler"
)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """No compiled code from before, as in a process of its own."""
    torch.compiler.reset()
    counters.clear()
    with tiny.undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "CHECKPOINT_SECONDS", 0.0)
        yield
    torch.compiler.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured and differentiated by torch.compile, and run without generated code."""
    quick = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", quick)


def train(name: str, out: Path, **fields: Any) -> Run:
    recipe = tiny.recipe(**{"model.name": name}).change({**MODEL[name], **PLAIN, **fields})
    return fit(recipe, tiny.lengths(), out=out)


def assert_learns_alike(name: str, folder: Path) -> None:
    plain = train(name, folder / "plain")
    compiled = train(name, folder / "compiled", compile=True)
    assert counters["stats"]["unique_graphs"] == 1  # for all layers, sizes and epochs
    assert not counters["graph_break"]
    close = {"check_exact": False, "rtol": 1e-4, "atol": 1e-6}
    ours, theirs = (tiny.history(run).drop(columns="sharpness") for run in (compiled, plain))
    pd.testing.assert_frame_equal(ours, theirs, **close)
    assert list(tiny.weights(compiled)[0]) == list(tiny.weights(plain)[0])
    ours, theirs = (run.predict(tiny.PROBES) for run in (compiled, plain))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=False, rtol=1e-3)


class Stop(Exception):
    """What a test ends training with."""


def assert_goes_on(name: str, folder: Path) -> None:
    def stop(progress: epochs.Progress) -> None:
        if progress.epochs_done >= 1.5:
            raise Stop

    recipe = tiny.recipe(**{"model.name": name, "compile": True}).change(MODEL[name] | PLAIN)
    whole = fit(recipe, tiny.lengths(), out=folder / "whole")
    with pytest.raises(Stop):
        fit(recipe, tiny.lengths(), out=folder / "cut", progress=stop)
    torch.compiler.reset()
    tiny.assert_same_run(fit(recipe, tiny.lengths(), out=folder / "cut", resume=True), whole)


@each_model
@pytest.mark.usefixtures("traced")
def test_captured_layers_learn_alike(name, tmp_path):
    assert_learns_alike(name, tmp_path)


@pytest.mark.usefixtures("traced")
def test_captured_layers_go_on_where_they_were_stopped(tmp_path):
    assert_goes_on("compt", tmp_path)


@pytest.mark.slow
@needs_a_compiler
@each_model
def test_compiled_layers_learn_alike(name, tmp_path):
    assert_learns_alike(name, tmp_path)


@pytest.mark.slow
@needs_a_compiler
@each_model
def test_compiled_layers_go_on_where_they_were_stopped(name, tmp_path):
    assert_goes_on(name, tmp_path)


@pytest.mark.slow
@needs_a_compiler
@each_model
def test_compiled_outputs_and_gradients_are_those_of_the_model(name):
    torch.manual_seed(0)
    model = MODELS[name](ATOM, BOND, OUTPUTS, width=16, heads=2, **MODEL[name]).train()
    compiled = CompiledLayers(model.layers)
    for sizes in ((7, 5, 4), (3, 9, 8, 2, 1), (1, 1)):
        batch, found = random_batch(sizes), []
        for compile_it in (False, True):
            model.zero_grad()
            if compile_it:
                with compiled():
                    output = model(batch)
            else:
                output = model(batch)
            output.square().sum().backward()
            found.append([output, *(p.grad.clone() for p in model.parameters())])
        for a, b in zip(*found, strict=True):
            assert (a - b).abs().max() <= 1e-5 * max(1.0, float(a.abs().max()))


@pytest.mark.slow
@each_model
@pytest.mark.usefixtures("traced")
def test_a_whole_model_is_captured_in_one_graph_for_all_sizes(name):
    model = MODELS[name](ATOM, BOND, OUTPUTS, width=8, heads=2).eval()
    whole = torch.compile(model, dynamic=True)
    for sizes in ((7, 5, 4), (3, 9, 8, 2, 1), (4, 4, 4, 4, 4, 4, 4)):
        batch = random_batch(sizes)
        torch.testing.assert_close(whole(batch), model(batch))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.usefixtures("traced")
def test_layers_are_their_own_outside_and_after_an_error():
    model = MODELS["compt"](ATOM, BOND, OUTPUTS, width=8, heads=2)
    names = list(model.state_dict())
    with suppress(Stop), CompiledLayers(model.layers)():
        assert all("forward" in vars(layer) for layer in model.layers)
        assert list(model.state_dict()) == names
        raise Stop
    assert not any("forward" in vars(layer) for layer in model.layers)


def test_where_it_cannot_compile_it_says_what_to_try(tmp_path, monkeypatch):
    def no_compiler(*_: Any) -> None:
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=no_compiler))
    with pytest.raises(TrainingError, match=r"torch.compile failed: .*compile = false"):
        train("compt", tmp_path / "run", compile=True)


def test_sizes_that_could_be_taken_for_one_another():
    assert tells_sizes_apart([32, 16, 479])
    assert not tells_sizes_apart([32, 32, 479])
    assert not tells_sizes_apart([1, 16, 479])
