"""What the passes of a step share: running statistics, random numbers, casts of the weights."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from optim_problem import Net, adamw, batch, bits, loss_of
from torch import nn

from molsam.optim import (
    RST,
    SAM,
    Diagnostics,
    GraphSAM,
    count_statistics_once,
    repeat_dropout_masks,
)
from molsam.optim.generators import same_generators_after

POLICIES = {
    "SAM": lambda base: SAM(base, rho=0.1),
    "GraphSAM": lambda base: GraphSAM(base, rho=0.1, reuse_interval=3),
    "RST": lambda base: RST(base, rho=0.1),
}
WRAPS = pytest.mark.parametrize("wrap", POLICIES.values(), ids=POLICIES)
LAYERS = {
    "BatchNorm": lambda: [nn.BatchNorm1d(8)],
    "BatchNorm over all batches": lambda: [nn.BatchNorm1d(8, momentum=None)],
    "InstanceNorm": lambda: [
        nn.Unflatten(1, (2, 4)),
        nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
        nn.Flatten(),
    ],
}
KINDS = pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)


def between(layers):
    """A small network around some layers; the same weights every time."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), *layers, nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    return net


def make(wrap, net):
    return wrap(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))


def closure_of(net, optimizer, t, look=lambda: None):
    """`look` is called before every pass."""
    x, y = batch(t, torch.float32)

    def closure():
        look()
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss

    return closure


# --- running statistics --------------------------------------------------------------------


def statistics(net):
    return {name: x.tolist() for name, x in net.named_buffers()}


def first_of_step(act):
    """`act` at the first call alone."""
    calls = []

    def look():
        if not calls:
            act()
        calls.append(None)

    return look


@KINDS
@WRAPS
def test_statistics_are_those_of_the_first_passes(layers, wrap):
    """A twin sees the batch once a step, with the weights of the first pass."""
    net, twin = between(layers()), between(layers())
    optimizer = make(wrap, net)
    count_statistics_once(optimizer, net)

    def pass_through_twin(t):
        twin.load_state_dict(dict(net.named_parameters()), strict=False)
        twin(batch(t, torch.float32)[0])

    for t in range(8):
        look = first_of_step(lambda t=t: pass_through_twin(t))
        optimizer.step(closure_of(net, optimizer, t, look))
        assert statistics(net) == statistics(twin)


@KINDS
@WRAPS
def test_gradients_do_not_depend_on_what_is_counted(layers, wrap):
    """The second pass still normalises by its batch; without the call it counts too."""
    net, other = between(layers()), between(layers())
    optimizer, usual = make(wrap, net), make(wrap, other)
    count_statistics_once(optimizer, net)
    for t in range(8):
        optimizer.step(closure_of(net, optimizer, t))
        usual.step(closure_of(other, usual, t))
    assert bits(net) == bits(other)
    assert statistics(net) != statistics(other)


@KINDS
def test_a_frozen_layer_is_left_alone(layers):
    net, other = between(layers()), between(layers())
    optimizer, usual = make(POLICIES["SAM"], net), make(POLICIES["SAM"], other)
    count_statistics_once(optimizer, net)
    for model in (net, other):
        model(batch(3, torch.float32)[0])
        model[1:-3].eval()
    before = statistics(net)
    for t in range(4):
        optimizer.step(closure_of(net, optimizer, t))
        usual.step(closure_of(other, usual, t))
    assert bits(net) == bits(other)
    assert statistics(net) == statistics(other) == before


@KINDS
def test_an_exception_gives_the_statistics_back(layers):
    net = between(layers())
    optimizer = make(POLICIES["SAM"], net)
    count_statistics_once(optimizer, net)
    norm = next(m for m in net if hasattr(m, "running_mean"))
    buffers = dict(norm.named_buffers())
    tracked = []

    def look():
        tracked.append(norm.track_running_stats)
        if not tracked[-1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure_of(net, optimizer, 0, look))
    assert tracked == [True, False]
    assert norm.track_running_stats
    assert all(getattr(norm, name) is x for name, x in buffers.items())


def test_a_look_is_not_counted():
    net, other = between(LAYERS["BatchNorm"]()), between(LAYERS["BatchNorm"]())
    optimizer, usual = make(POLICIES["GraphSAM"], net), make(POLICIES["GraphSAM"], other)
    for one, model in ((optimizer, net), (usual, other)):
        count_statistics_once(one, model)
    watch = Diagnostics(optimizer)
    for t in range(5):
        watch.step(closure_of(net, optimizer, t))
        usual.step(closure_of(other, usual, t))
    assert len(watch.rows) == 5
    assert bits(net) == bits(other)
    assert statistics(net) == statistics(other)


# --- dropout -------------------------------------------------------------------------------


def masks_of(net, optimizer, steps, watch=None):
    """For each step the dropout masks of its passes, the look of `watch` among them."""
    masks = []
    net[1].register_forward_hook(lambda layer, inputs, out: masks[-1].append((out == 0).tolist()))
    for t in steps:
        masks.append([])
        (watch or optimizer).step(closure_of(net, optimizer, t))
    return masks


def test_the_second_pass_repeats_the_masks():
    net = between([nn.Dropout()])
    optimizer = make(POLICIES["SAM"], net)
    repeat_dropout_masks(optimizer)
    masks = masks_of(net, optimizer, range(4))
    assert all(first == second for first, second in masks)
    assert all(a != b for (a, _), (b, _) in pairwise(masks))


def test_a_look_has_the_masks_of_the_step_it_looks_at():
    net = between([nn.Dropout()])
    optimizer = make(POLICIES["SAM"], net)
    repeat_dropout_masks(optimizer)
    masks = masks_of(net, optimizer, range(4), Diagnostics(optimizer))
    assert all(look == first == second for look, first, second in masks)
    assert all(a != b for (a, *_), (b, *_) in pairwise(masks))


def test_masks_are_drawn_afresh_unless_asked():
    net = between([nn.Dropout()])
    masks = masks_of(net, make(POLICIES["SAM"], net), range(4))
    assert all(first != second for first, second in masks)


@WRAPS
def test_random_numbers_go_on_as_after_one_pass(wrap):
    net, one_pass = between([nn.Dropout()]), between([nn.Dropout()])
    optimizer, base = make(wrap, net), torch.optim.SGD(one_pass.parameters(), lr=0.1)
    repeat_dropout_masks(optimizer)

    def drawn(model, by):
        torch.manual_seed(1)
        masks = masks_of(model, by, range(5))
        return [passes[0] for passes in masks], torch.rand(3).tolist()

    assert drawn(net, optimizer) == drawn(one_pass, base)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_masks_are_repeated_on_a_cuda_device():
    w, seen = nn.Parameter(torch.ones(1000, device="cuda")), []
    optimizer = SAM(torch.optim.SGD([w], lr=0.0))
    repeat_dropout_masks(optimizer)

    def closure():
        optimizer.zero_grad()
        out = nn.functional.dropout(w)
        seen.append((out == 0).tolist())
        out.sum().backward()

    for _ in range(2):
        optimizer.step(closure)
    assert seen[0] == seen[1] != seen[2] == seen[3]


# --- bfloat16 autocast ---------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False])
@WRAPS
def test_bfloat16_autocast(wrap, inside):
    """In the closure or around the step; every pass multiplies by casts of the weights it has."""
    net = Net(torch.float32)
    optimizer = wrap(adamw(net))

    def autocast(here):
        return torch.autocast("cpu", torch.bfloat16) if here else nullcontext()

    def closure(t):
        optimizer.zero_grad()
        with autocast(inside):
            cast = nn.functional.linear(torch.eye(7), net.last.weight)
            loss = loss_of(net, t)
        assert cast.dtype == torch.bfloat16
        assert torch.equal(cast.flatten(), net.last.weight.bfloat16().flatten())
        loss.backward()
        return loss

    losses = []
    for t in range(120):
        with autocast(not inside):
            losses.append(optimizer.step(lambda t=t: closure(t)).item())
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert optimizer.t == 120
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])


# --- generators ------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [torch.device("cuda", 1), torch.device("mps")], ids=str)
def test_generators_of_other_devices_go_on_as_those_of_the_cpu(device, monkeypatch):
    """Stand-ins for the generators, so that machines without such a device notice a slip too."""
    states = {device: torch.tensor([1])}
    module = getattr(torch, device.type)
    monkeypatch.setattr(module, "get_rng_state", lambda at=device: states[at])
    monkeypatch.setattr(module, "set_rng_state", lambda x, at=device: states.update({at: x}))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with same_generators_after([torch.device("cpu"), device, device]):
        states[device] = torch.tensor([2])
        torch.rand(5)
    assert states[device].item() == 1
    assert torch.equal(torch.rand(3), expected)
