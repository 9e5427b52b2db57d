"""molsam.optim.Diagnostics: it leaves training as it is, and its rows are literal."""

from __future__ import annotations

import math

import pytest
import torch
from optim_problem import (
    POLICIES,
    Net,
    adamw,
    at_rest,
    batch,
    bits,
    closure_of,
    graphsam,
    loss_of,
    plain,
    policies,
    sam,
)
from torch import nn

from molsam.optim import Diagnostics, SAMOne, count_statistics_once, repeat_dropout_masks

STALE = ["GraphSAM", "GraphSAM-on-request", "SAMk", "SAMOne", "S2SAM", "MSAM"]
COLUMNS = ("cosine", "eps_norm", "omega_norm", "eps_cosine", "omega_cosine")


@policies()
@pytest.mark.parametrize("every", [1, 2, 3])
def test_looking_changes_nothing(wrap, every):
    """Of a network with dropout: weights, state and later random numbers, bit for bit."""

    def run(watched):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5), nn.Tanh(), nn.Linear(7, 1))
        optimizer, calls = wrap(adamw_of(net)), []
        watch = Diagnostics(optimizer, every=every) if watched else optimizer

        def closure(t):
            calls.append(t)
            optimizer.zero_grad()
            x, y = batch(t, torch.float32)
            loss = (net(x).squeeze(-1) - y).square().mean()
            loss.backward()
            return loss

        losses = [watch.step(lambda t=t: closure(t)).item() for t in range(10)]
        found = losses, bits(net), plain(optimizer.state_dict()), torch.rand(3).tolist()
        return found, len(calls)

    seen, calls = run(watched=True)
    unseen, fewer = run(watched=False)
    assert seen == unseen
    assert calls - fewer == math.ceil(10 / every)


def adamw_of(net):
    return torch.optim.AdamW(net.parameters(), lr=0.01)


def flat(parameters, tensors):
    """A vector over all parameters, zero where `tensors` has none."""
    found = [(p, tensors.get(p)) for p in parameters]
    return torch.cat([(torch.zeros_like(p) if x is None else x).flatten() for p, x in found])


def cosine(a, b):
    if a is None or b is None:
        return math.nan
    return (torch.dot(a, b) / a.norm() / b.norm()).item()


def offered(optimizer, name, parameters):
    """What stands in for eps in the coming step, read from the state; None where nothing does."""
    if name == "MSAM":
        found = {p: -state["exp_avg"] for p, state in optimizer.base.state.items()}
    else:
        found = {p: state["eps"] for p, state in optimizer.state.items() if state}
    return flat(parameters, found) if name in STALE and found else None


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", POLICIES)
def test_rows_are_literal(name, every):
    net, expected, before = Net(), [], (None, None)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = POLICIES[name](adamw(net))
    optimizer.param_groups[0]["rho"] = 0.2
    watch = Diagnostics(optimizer, every=every)
    for t in range(12):
        gradients = torch.autograd.grad(loss_of(net, t), parameters, allow_unused=True)
        eps = flat(parameters, dict(zip(parameters, gradients, strict=True)))
        kept = offered(optimizer, name, parameters)
        watch.step(closure_of(net, optimizer, t))
        omega = flat(parameters, {p: p.grad for p in parameters})
        if t % every == 0:
            row = {"t": t, "cosine": cosine(kept, eps), "rho": 0.2}
            row |= {"eps_norm": eps.norm().item(), "eps_cosine": cosine(eps, before[0])}
            row |= {"omega_norm": omega.norm().item(), "omega_cosine": cosine(omega, before[1])}
            expected.append(row)
            before = eps, omega
    assert len(watch.rows) == len(expected) == math.ceil(12 / every)
    for row, literal in zip(watch.rows, expected, strict=True):
        assert row == pytest.approx(literal, rel=1e-6, nan_ok=True)
    comparable = [not math.isnan(row["cosine"]) for row in watch.rows]
    assert comparable == [False, *[name in STALE] * (len(expected) - 1)]


def test_means_are_over_the_rows_that_have_a_column():
    net = Net()
    optimizer = graphsam(adamw(net))
    watch = Diagnostics(optimizer)
    for t in range(12):
        watch.step(closure_of(net, optimizer, t))
    table = {column: [row[column] for row in watch.rows] for column in COLUMNS}
    for column in ("cosine", "eps_cosine", "omega_cosine"):
        assert math.isnan(table[column].pop(0))
    expected = {column: sum(values) / len(values) for column, values in table.items()}
    expected["aligned"] = sum(value >= 0 for value in table["cosine"]) / 11
    assert watch.means() == pytest.approx(expected)
    assert 0 < expected["aligned"] < 1


def test_an_old_perturbation_loses_its_direction():
    """On the same batch: at weights that rest the cosine is 1, at weights that move it is not."""

    def cosines(make_base):
        net = Net()
        optimizer = SAMOne(make_base(net), rho=0.1)
        watch = Diagnostics(optimizer)
        for _ in range(30):
            watch.step(closure_of(net, optimizer, 0))
        return [row["cosine"] for row in watch.rows[1:]]

    assert cosines(lambda net: at_rest(net.parameters())) == pytest.approx([1.0] * 29)
    moving = cosines(adamw)
    assert moving[0] > 0.9
    assert min(moving) < 0.5


def test_nothing_is_offered_before_the_start():
    net = Net()
    optimizer = graphsam(adamw(net), start=4)
    watch = Diagnostics(optimizer)
    for t in range(8):
        watch.step(closure_of(net, optimizer, t))
    assert [math.isnan(row["cosine"]) for row in watch.rows] == [True] * 5 + [False] * 3


def test_a_skipped_step_has_no_row():
    net = Net()
    optimizer = sam(adamw(net))
    watch = Diagnostics(optimizer)

    def bad():
        loss = closure_of(net, optimizer, 0)()
        net.last.bias.grad = torch.full_like(net.last.bias, math.nan)
        return loss

    for t in range(3):
        watch.step(closure_of(net, optimizer, t))
        watch.step(bad)
    assert [row["t"] for row in watch.rows] == [0, 1, 2]
    assert optimizer.skipped == 3
    assert all(math.isfinite(row["omega_norm"]) for row in watch.rows)


def test_a_step_skipped_after_a_good_look_has_no_row():
    net = Net()
    optimizer = sam(adamw(net))
    watch, looked = Diagnostics(optimizer), []

    def worse():
        loss = closure_of(net, optimizer, 0)()
        if looked:
            net.last.bias.grad = torch.full_like(net.last.bias, math.nan)
        looked.append(True)
        return loss

    watch.step(worse)
    assert optimizer.skipped == 1
    assert watch.rows == []


def test_a_right_angle_counts_as_aligned():
    watch = Diagnostics(sam(adamw(Net())))
    watch.rows += [dict.fromkeys(COLUMNS, cosine) for cosine in (0.0, -0.5)]
    assert watch.means()["aligned"] == 0.5


def test_looking_beside_repeated_masks_and_counted_statistics():
    def run(watched):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.5), nn.Linear(7, 1))
        optimizer = sam(adamw_of(net))
        repeat_dropout_masks(optimizer)
        count_statistics_once(optimizer, net)
        watch = Diagnostics(optimizer) if watched else optimizer

        def closure():
            optimizer.zero_grad()
            loss = net(batch(0, torch.float32)[0]).square().mean()
            loss.backward()
            return loss

        return [watch.step(closure).item() for _ in range(5)], bits(net)

    assert run(watched=True) == run(watched=False)


def test_without_rows_all_means_are_missing():
    means = Diagnostics(sam(adamw(Net()))).means()
    assert set(means) == {*COLUMNS, "aligned"}
    assert all(math.isnan(mean) for mean in means.values())
