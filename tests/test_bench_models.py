"""molsam bench model: what races is equal, and operations are counted right."""

from __future__ import annotations

import json

import pytest
import torch
from random_batches import ATOM, BOND, random_batch, to_double
from shell import assert_refused, molsam
from torch.utils.flop_counter import FlopCounterMode

from molsam.bench import models
from molsam.bench.operations import SquareProduct, operations, peak
from molsam.models import MODELS, GraphTransformer

TINY = ("--rounds", 1, "--steps", 2, "--batch-size", 3, "--width", 8, "--depth", 1)
TINY = (*TINY, "--device", "cpu")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("compt", {"readout": "mean"}),
        ("compt", {"readout": "gru"}),
        ("compt", {"heads": 2}),  # 12 columns of scores, and 24 above
        ("compt", {"readout": "sum", "head_layers": 1, "depth": 1}),
        ("compt", {"head_layers": 3, "head_width": 5, "descriptor_size": 2}),
        ("compt", {"descriptor_size": 2, "fingerprint_size": 30}),
        ("graph_transformer", {"feed_forward": 24, "attention_dropout": 0.5}),
    ],
)
def test_operations_are_those_of_the_matrix_products(name, config):
    settings = {"width": 16, "depth": 2, "heads": 4, **config}
    model = MODELS[name](ATOM, BOND, 3, **settings)
    joined = model.descriptor_size + model.fingerprint_size
    batch = random_batch(sizes=(7, 7, 7, 7), descriptors=joined)  # no padding: it never counts
    with FlopCounterMode(display=False) as counter:
        model(batch).sum().backward()
    assert operations(model, batch) == counter.get_total_flops()


def test_padding_is_no_operation():
    model, batch = MODELS["compt"](ATOM, BOND, 1, width=8), random_batch()
    assert operations(model, batch) == operations(model, batch.pad(40))


def test_the_peak_of_a_round_is_that_of_the_best_size():
    products = [SquareProduct(size, torch.device("cpu")) for size in (1000, 2000)]
    products[0].seconds, products[1].seconds = [1.0, 2.0], [16.0, 8.0]
    assert peak(products, 3) == pytest.approx([6.0, 6.0])
    products[0].seconds[1] = 1.0
    products[1].seconds[0] = 4.0
    assert peak(products, 3) == pytest.approx([12.0, 6.0])


def test_forms_that_differ_are_refused():
    batches = models.cut_batches(["CCO", "CCN"], "compt", 2, torch.device("cpu"))
    contest = models.line_up(batches, batches, {"width": 8, "depth": 1})[0]
    assert models.difference(contest) <= models.TOLERANCE
    with torch.no_grad():
        contest.plain.model.head[-1].bias += 0.1  # type: ignore[index, operator]
    with pytest.raises(ArithmeticError, match="CoMPT, mean readout and DenseCoMPT differ by"):
        models.difference(contest)


@pytest.mark.parametrize(
    "config",
    [
        {"readout": "gru", "norm_first": False},
        {"readout": "sum", "activation": "gelu"},
        {"readout": "mean", "descriptor_size": 2, "head_layers": 1},
    ],
)
def test_the_stack_of_graphormer_layers_is_the_graph_transformer_with_gradients(config):
    torch.manual_seed(0)
    model = GraphTransformer(ATOM, BOND, 1, width=16, heads=4, **config).double().eval()
    batch = to_double(random_batch(descriptors=config.get("descriptor_size", 0)))
    plain = models.GraphormerStack(model).double()
    ours, theirs = model(batch), plain(batch)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    (ours.square().sum() + theirs.square().sum()).backward()
    for a, b in (
        (model.atom_embedding, plain.model.atom_embedding),
        (model.bond_bias, plain.model.bond_bias),
        (model.distance_embedding, plain.spatial.embedding_table),
        (model.degree_embedding, plain.degrees.encoder),
    ):
        torch.testing.assert_close(a.weight.grad, b.weight.grad, atol=1e-9, rtol=0)


def test_the_report():
    random = torch.get_rng_state()
    result = molsam("bench", "model", *TINY, "--json")
    assert result.code == 0, result.err
    assert torch.equal(torch.get_rng_state(), random)
    report = json.loads(result.out)
    said = report["settings"]
    assert (said["batch_size"], said["steps"], said["rounds"], said["width"]) == (3, 2, 1, 8)
    assert said["padded_to"] == 55
    assert said["peak_gflops"] > 0
    *contests, attentive = report["rows"]
    assert [row["plain"] for row in contests] == ["DenseCoMPT"] * 2 + ["dgl.nn.GraphormerLayer"] * 3
    *_, alike, shuffled, used = contests
    for key in ("molecules_per_second", "operations_per_molecule"):
        assert used[key] == alike[key]
    assert used["plain_molecules_per_second"] == shuffled["plain_molecules_per_second"]
    for row in contests:
        assert row["difference"] <= 1e-5
        assert 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["share_of_peak"] == pytest.approx(row["gflops"] / said["peak_gflops"])
        done = row["molecules_per_second"] * row["operations_per_molecule"]
        assert row["gflops"] == pytest.approx(1e-9 * done)
    assert attentive["model"] == "AttentiveFP of dgllife"
    assert attentive["beside"] == contests[0]["model"]
    speeds = attentive["molecules_per_second"] / contests[0]["molecules_per_second"]
    assert attentive["ratio"] == pytest.approx(speeds)  # of one round


def test_a_table_of_eighty_columns():
    result = molsam("bench", "model", *TINY)
    assert result.code == 0, result.err
    assert max(map(len, result.out.splitlines())) <= 80
    for name in ("CoMPT, mean readout", "CoMPT, gru readout", "GraphTransformer, as used"):
        assert name in result.out
    assert "rounds done: 1" in result.err


def test_what_cannot_be_measured_is_refused():
    assert_refused(molsam("bench", "model", *TINY, "--width", 30), "width = 32")
