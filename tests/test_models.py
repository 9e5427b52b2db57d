"""Models: reference twins, the published numbers, DGL's layers, and what must not matter."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from random_batches import (
    ATOM,
    BOND,
    OUTPUTS,
    SIZES,
    map_floats,
    random_batch,
    shuffle_atoms,
    take,
    to_double,
)
from safetensors import safe_open
from torch import nn

from molsam.batches import Batch
from molsam.models import MODELS, CoMPT, DenseCoMPT, GraphTransformer
from molsam.models.graph_transformer import attention
from molsam.models.gru import packed_gru
from molsam.models.mish import mish

SMALL = {"width": 16, "depth": 2, "heads": 4}
EACH = [
    ("compt", {"readout": "gru", "positions": 5}),
    ("compt", {"readout": "mean", "kernel": "softmax", "norm": "scale"}),
    ("compt", {"readout": "sum"}),
    ("graph_transformer", {"readout": "gru", "norm_first": False}),
    ("graph_transformer", {"readout": "mean"}),
]
each_model = pytest.mark.parametrize(("name", "config"), EACH)


def build(name, **config):
    torch.manual_seed(1)
    return MODELS[name](ATOM, BOND, OUTPUTS, **SMALL | config)


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def all_grads(model, output):
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weight).sum(), list(model.parameters()))


# CoMPT against its plain form


@pytest.mark.parametrize("readout", ["gru", "mean", "sum"])
@pytest.mark.parametrize(
    ("kernel", "norm"), [*itertools.product(["exp", "softmax"], ["layer", "scale"])]
)
@pytest.mark.parametrize("kinds", [4, 6])  # 16 and 24 columns of scores, at a width of 16
def test_compt_is_its_plain_form_with_gradients(kernel, norm, readout, kinds):
    joined = {"descriptor_size": 2, "fingerprint_size": 3}
    model = build("compt", kernel=kernel, norm=norm, readout=readout, positions=4, **joined)
    model = model.double().eval()
    plain = DenseCoMPT.of(model)
    batch = to_double(random_batch(descriptors=5, kinds=kinds))
    close(model.encode(batch), plain.encode(batch), atol=1e-10)
    predictions = plain(batch.pad(15))
    close(model(batch), predictions, atol=1e-10)
    for ours, theirs in zip(
        all_grads(model, model(batch)), all_grads(plain, predictions), strict=True
    ):
        close(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("kinds", [4, 6])
def test_compt_is_its_plain_form_in_single_precision(kinds):
    model, batch = build("compt").eval(), random_batch(kinds=kinds)
    plain = DenseCoMPT.of(model)
    close(model.encode(batch), plain.encode(batch))
    close(model(batch), plain(batch))


def test_the_plain_form_is_a_copy_as_it_stands():
    model, state = build("compt", positions=3), torch.get_rng_state()
    for mode in (True, False):
        plain = DenseCoMPT.of(model.train(mode))
        assert plain.training == plain.readout.training == mode
        assert plain.config == model.config
    assert torch.equal(torch.get_rng_state(), state)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.data_ptr() != q.data_ptr()


# CoMPT against the published numbers


def published(folder, name):
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["meta"])["config"]
    prefix = "weights."
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return tensors, weights, config


def published_batch(tensors, part):
    get = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(part)}
    mask, bonds = get["mask"], get["bond_features"]
    rows, codes = torch.unique(
        torch.cat([bonds.new_zeros(1, bonds.shape[-1]), bonds.flatten(0, 2)]),
        dim=0,
        return_inverse=True,
    )
    assert codes[0] == 0
    pairs = mask[:, :, None] & mask[:, None]
    n = len(mask)
    return Batch(
        atoms=get["atom_features"][mask],
        sizes=mask.sum(1),
        bonds=rows,
        pair_codes=codes[1:].view(pairs.shape),
        distance=get["distance"].long().masked_fill(~pairs, -1),
        mask=mask,
        descriptors=torch.zeros(n, 0),
        y=torch.zeros(n, 0),
        label_mask=torch.zeros(n, 0, dtype=torch.bool),
    )


published_models = pytest.mark.parametrize(
    "name", ["compt_exp_layernorm", "compt_softmax_scalenorm"]
)


@published_models
def test_published_encoder_on_padded_and_predictions_on_unpadded_molecules(parity, name):
    tensors, weights, config = published(parity, name)
    model = CoMPT.from_published(weights, config).eval()
    for part in ("padded", "unpadded"):
        batch = published_batch(tensors, part)
        close(model.encode(batch), tensors[f"{part}.encoder_output"][batch.mask])
    close(model(published_batch(tensors, "unpadded")), tensors["unpadded.prediction"])


def test_from_published_says_what_is_wrong(parity):
    _, weights, config = published(parity, "compt_exp_layernorm")
    lacking = {k: v for k, v in weights.items() if k != "generator.gru.weight_hh_l0"}
    with pytest.raises(ValueError, match=r"weights lacks generator\.gru\.weight_hh_l0$"):
        CoMPT.from_published(lacking, config)
    with pytest.raises(ValueError, match=r"weights has the unexpected surplus$"):
        CoMPT.from_published(weights | {"surplus": torch.zeros(1)}, config)
    with pytest.raises(ValueError, match=r"node_embed\.lut\.weight do not have the shapes"):
        CoMPT.from_published(weights | {"node_embed.lut.weight": torch.zeros(2, 2)}, config)
    renamed = {"n" if k == "N" else k: v for k, v in config.items()}
    with pytest.raises(ValueError, match=r"configuration lacks N and has the unexpected n$"):
        CoMPT.from_published(weights, renamed)
    with pytest.raises(ValueError, match="N_dense = 2, and only 1 can be read"):
        CoMPT.from_published(weights, config | {"N_dense": 2})


# GraphTransformer against DGL


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_graph_transformer_is_dgls_degree_and_spatial_encoders_and_graphormer_layers(
    norm_first, activation
):
    dgl_nn = pytest.importorskip("molsam.molecules").dgl().nn
    model = build("graph_transformer", norm_first=norm_first, activation=activation).eval()
    config, batch = model.config, random_batch(sizes=(*SIZES, 30))
    degrees = dgl_nn.DegreeEncoder(config.max_degree, config.width, direction="in")
    degrees.encoder.load_state_dict(model.degree_embedding.state_dict())
    spatial = dgl_nn.SpatialEncoder(config.max_distance, config.heads)
    spatial.embedding_table.load_state_dict(model.distance_embedding.state_dict())

    mask = batch.mask
    x = torch.zeros(*mask.shape, config.width)
    x[mask] = model.atom_embedding(batch.atoms)
    x = x + degrees((batch.distance == 1).sum(-1))
    bias = spatial(batch.distance) + model.bond_bias(batch.bonds)[batch.pair_codes]
    for ours in model.layers:
        layer = dgl_nn.GraphormerLayer(
            config.width,
            config.feed_forward,
            config.heads,
            norm_first=norm_first,
            activation={"relu": nn.ReLU, "gelu": nn.GELU}[activation](),
        ).eval()
        ours.load_state_dict(layer.state_dict())
        x = layer(x, bias, ~mask[:, None].expand(-1, mask.shape[1], -1))
    close(model.encode(batch), model.norm(x)[mask])


def test_distance_and_degree_beyond_their_tables_count_as_the_last():
    model = build("graph_transformer", max_distance=2, max_degree=2).eval()
    batch = random_batch(sizes=(12,), seed=3)
    far = map_floats(batch, lambda t: t)
    far.distance[far.distance > 2] += 5
    assert (far.distance > 2).any()
    close(model(far), model(batch), atol=0)


def test_attention_is_torchs_with_gradients():
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 4, 5, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    bias[1, :, :, 3:] = float("-inf")
    bias.requires_grad_()
    ours, theirs = attention(q, k, v, bias, 0.0), F.scaled_dot_product_attention(q, k, v, bias)
    close(ours, theirs, atol=1e-12)
    for a, b in zip(
        *(torch.autograd.grad(m.square().sum(), (q, k, v, bias)) for m in (ours, theirs)),
        strict=True,
    ):
        close(a, b, atol=1e-12)


def test_attention_drops_weights_and_keeps_their_mean():
    torch.manual_seed(0)
    q = torch.zeros(1, 1, 400, 2)
    v, bias = torch.ones(1, 1, 400, 2), torch.zeros(1, 1, 400, 400)
    m = attention(q, q, v, bias, 0.25)
    assert m.std() > 0.01
    assert m.mean() == pytest.approx(1, abs=0.01)


# What must not matter


@each_model
def test_padding_and_company_do_not_matter(name, config):
    model = build(name, descriptor_size=3, fingerprint_size=4, **config).eval()
    batch = random_batch(descriptors=7)
    together = model(batch)
    close(model(batch.pad(21)), together)
    close(torch.cat([model(take(batch, [i])) for i in range(len(SIZES))]), together)
    order = [4, 0, 6, 2, 5, 3, 1]
    close(model(take(batch, order)), together[order])


@pytest.mark.parametrize("readout", ["mean", "sum"])
@pytest.mark.parametrize("name", [*MODELS])
def test_order_of_atoms_does_not_matter_to_mean_and_sum(name, readout):
    model, batch = build(name, readout=readout).eval(), random_batch()
    close(model(shuffle_atoms(batch)), model(batch))


def test_order_of_atoms_matters_to_gru_and_to_positions():
    batch = random_batch()
    for config in ({"readout": "gru"}, {"readout": "mean", "positions": 20}):
        model = build("compt", **config).eval()
        assert (model(shuffle_atoms(batch)) - model(batch)).abs().max() > 1e-3


@each_model
def test_parts_of_a_salt_are_seen_but_not_attended_by_compt(name, config):
    model = build(name, **config).eval().double()
    batch = to_double(random_batch(sizes=(8,)))
    assert (batch.distance[0, :4, 4:] == -1).all()
    changed = map_floats(batch, torch.clone)
    changed.atoms[4:] += 1
    moved = (model.encode(changed) - model.encode(batch)).abs().amax(1)
    assert (moved[4:] > 1e-6).all()
    assert (moved[:4] < 1e-12).all() == (name == "compt")
    assert (model(changed) - model(batch)).abs().max() > 1e-6


@each_model
def test_single_atoms_and_molecules_without_bonds(name, config):
    model = build(name, **config)
    single = random_batch(sizes=(1, 1, 1))
    bare = map_floats(single, torch.clone)
    bare = Batch(**{**vars(bare), "bonds": bare.bonds[:1]})
    for batch in (single, bare):
        output = model(batch)
        assert output.shape == (3, OUTPUTS)
        assert all(g.isfinite().all() for g in all_grads(model.eval(), model(batch)))


@each_model
def test_gradients_are_the_same_bits_in_two_runs(name, config):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = MODELS[name](ATOM, BOND, OUTPUTS, width=128, depth=2, heads=4, dropout=0, **config)
        batch = random_batch(sizes=tuple(range(5, 37)))
        first, second = (all_grads(model.train(False), model(batch)) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# What they read and give


@each_model
def test_shapes_and_descriptors(name, config):
    model = build(name, descriptor_size=3, **config).eval()
    batch = random_batch(descriptors=3)
    assert model(batch).shape == (len(SIZES), OUTPUTS)
    assert model.encode(batch).shape == (sum(SIZES), SMALL["width"])
    vectors = model.embed(batch)
    assert vectors.shape == (len(SIZES), model.embed_size)
    close(vectors[:, -3:], batch.descriptors, atol=0)
    close(model.head(vectors), model(batch), atol=0)


@each_model
def test_fingerprints_join_through_a_layer_of_their_own(name, config):
    sizes = {"descriptor_size": 3, "fingerprint_size": 40}
    model = build(name, **sizes, **config, fingerprint_dropout=0.7).eval()
    batch = random_batch(descriptors=43)
    vectors = model.embed(batch)
    width = SMALL["width"]
    assert vectors.shape == (len(SIZES), model.embed_size) == (len(SIZES), 2 * width + 3)
    close(vectors[:, width : width + 3], batch.descriptors[:, :3], atol=0)
    linear, counts = model.fingerprint[1], batch.descriptors[:, 3:]
    close(vectors[:, -width:], F.mish(counts @ linear.weight.T + linear.bias))
    torch.manual_seed(2)
    found = model.fingerprint.train()(counts)
    torch.manual_seed(2)
    expected = F.mish(F.dropout(counts, 0.7) @ linear.weight.T + linear.bias)
    close(found, expected)


@each_model
def test_dropout_of_what_is_joined_is_of_training_alone(name, config):
    still = {"descriptor_size": 3, "dropout": 0.0, **config}
    if name == "graph_transformer":
        still["attention_dropout"] = 0.0
    plain, dropped = build(name, **still), build(name, **still, join_dropout=0.5)
    batch = random_batch(descriptors=3)
    close(dropped.eval()(batch), plain.eval()(batch), atol=0)
    torch.manual_seed(2)
    found = dropped.train()(batch)
    torch.manual_seed(2)
    close(found, plain.head(F.dropout(plain.embed(batch), 0.5)), atol=0)


def test_the_head_has_a_width_of_its_own():
    model = build("compt", head_width=5, head_layers=3)
    assert [tuple(p.weight.shape) for p in model.head if isinstance(p, torch.nn.Linear)] == [
        (5, SMALL["width"]),
        (5, 5),
        (OUTPUTS, 5),
    ]
    assert build("compt").head[0].out_features == SMALL["width"]


@each_model
def test_a_dgl_graph_reads_as_the_batch_it_holds(name, config):
    model, batch = build(name, **config).eval(), random_batch()
    close(model(batch.to_dgl()), model(batch))


def test_other_features_than_the_model_was_built_for():
    model = build("compt", descriptor_size=2)
    with pytest.raises(ValueError, match=r"0 descriptors, the model was built for .* 2 desc"):
        model(random_batch())
    with pytest.raises(ValueError, match="take the featurizer"):
        CoMPT(ATOM + 1, BOND, 1, **SMALL)(random_batch())


@each_model
def test_dropout_acts_in_training_only(name, config):
    model, batch = build(name, dropout=0.5, **config), random_batch()
    model.train()
    assert (model(batch) - model(batch)).abs().max() > 1e-3
    model.eval()
    close(model(batch), model(batch), atol=0)


@each_model
def test_bfloat16_autocast_is_close(name, config):
    model, batch = build(name, **config).eval(), random_batch()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
        grads = all_grads(model, output.float())
    plain = model(batch)
    assert 0 < (output - plain).abs().max() < 0.05 * plain.abs().max()
    assert all(g.isfinite().all() for g in grads)


@each_model
def test_weights_come_from_torchs_random_state_alone(name, config):
    a, b = (build(name, **config).state_dict() for _ in range(2))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


# Settings


def test_settings_are_frozen_and_advise():
    with pytest.raises(ValueError, match="250 is not divisible by heads 4; try width = 252"):
        CoMPT(ATOM, BOND, 1, width=250)
    with pytest.raises(ValidationError, match="widht"):
        CoMPT(ATOM, BOND, 1, widht=64)
    with pytest.raises(ValidationError, match="less than 1"):
        GraphTransformer(ATOM, BOND, 1, dropout=1.0)
    with pytest.raises(ValidationError, match="'gru', 'mean' or 'sum'"):
        CoMPT(ATOM, BOND, 1, readout="max")
    with pytest.raises(ValidationError, match="frozen"):
        build("compt").config.width = 8
    assert all(build(name).config.name == name for name in MODELS)


# The GRU against torch's


def packed_inputs(width):
    g = torch.Generator().manual_seed(0)
    sizes = torch.tensor([3, 1, 5, 5, 2])
    x = torch.randn(int(sizes.sum()), width, generator=g, dtype=torch.double, requires_grad=True)
    start = torch.randn(len(sizes), width, generator=g, dtype=torch.double, requires_grad=True)
    return x, start, sizes


def test_packed_gru_is_torchs_gru_molecule_by_molecule():
    gru, (x, start, sizes) = nn.GRU(6, 6, bidirectional=True).double(), packed_inputs(6)
    parts = zip(x.split(sizes.tolist()), start, strict=True)
    theirs = torch.cat([gru(part, h.expand(2, -1).contiguous())[0] for part, h in parts])
    ours = packed_gru(gru, x, start, sizes)
    close(ours, theirs, atol=1e-12)
    weight = torch.randn_like(ours)
    inputs = [x, start, *gru.parameters()]
    grads = [torch.autograd.grad((y * weight).sum(), inputs) for y in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        close(a, b, atol=1e-12)


def test_packed_gru_has_second_derivatives_and_allows_frozen_weights():
    gru, (x, start, sizes) = nn.GRU(2, 2, bidirectional=True).double(), packed_inputs(2)
    gru.bias_hh_l0.requires_grad_(False)
    live = [p for p in gru.parameters() if p.requires_grad]
    assert torch.autograd.gradgradcheck(
        lambda x, start, *_: packed_gru(gru, x, start, sizes), (x, start, *live)
    )


# Mish against torch's

EXTREMES = [-1e4, -90.0, -20.0, -1.0, 0.0, 1.0, 20.0, 90.0, 1e4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mish_is_torchs_with_its_slope(dtype):
    x = torch.cat([torch.linspace(-12, 12, 5000), torch.tensor(EXTREMES)]).to(dtype)
    x.requires_grad_()
    ours, theirs = mish(x), F.mish(x)
    for a, b in [(ours, theirs), [torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)]]:
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        assert torch.equal(mish(x), ours)


def test_mish_has_second_derivatives():
    x = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mish, x)
    assert torch.autograd.gradgradcheck(mish, x)
    curved = [
        torch.autograd.functional.hvp(lambda x, f=f: f(x).sum(), x, torch.ones_like(x))[1]
        for f in (mish, F.mish)
    ]
    close(*curved, atol=1e-12)


def test_a_model_works_under_the_transforms_of_torch_func():
    model, batch = build("compt").eval(), random_batch(kinds=4)
    weights = dict(model.named_parameters())

    def total(weights):
        return torch.func.functional_call(model, weights, (batch,)).square().sum()

    found = torch.func.grad(total)(weights)
    grads = torch.autograd.grad(total(weights), [*weights.values()])
    for ours, plain in zip(found.values(), grads, strict=True):
        close(ours, plain)
