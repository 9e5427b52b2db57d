"""molsam.landscape: against exact Hessians and exact parabolas."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from molsam import fit
from molsam.landscape import (
    filter_normalized,
    hessian_product,
    losses_along,
    top_eigenvalue,
    trace,
)


def quadratic(eigenvalues):
    """w and the loss w^T H w / 2 with H = Q diag(eigenvalues) Q^T."""
    generator = torch.Generator().manual_seed(0)
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    h = q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T
    w = nn.Parameter(torch.randn(n, generator=generator, dtype=torch.float64))
    return w, lambda: w @ h @ w / 2


def top(terms, parameters, **options):
    return top_eigenvalue(terms, parameters, generator=torch.Generator().manual_seed(1), **options)


@pytest.mark.parametrize(
    ("eigenvalues", "expected"),
    [
        ([3.0, 1.0, 0.5, -2.0], 3.0),
        ([3.0, 1.0, 0.5, -7.0], 3.0),
        ([-1.0, -2.0, -7.0], -1.0),
        ([0.0, 0.0], 0.0),
    ],
)
def test_the_largest_not_the_largest_in_magnitude(eigenvalues, expected):
    w, loss = quadratic(eigenvalues)
    assert top([loss], [w], tolerance=1e-9) == pytest.approx(expected, abs=1e-4)


def network():
    """A small net, and its loss in three terms."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x, y = torch.randn(12, 4, dtype=torch.float64), torch.randn(12, 1, dtype=torch.float64)
    terms = [lambda r=r: (net(x[r]) - y[r]).square().sum() / 12 for r in torch.arange(12).split(5)]
    return net, terms


def exact_hessian(net, terms):
    """Row by row, by differentiating each entry of the gradient."""
    parameters = list(net.parameters())
    gradient = torch.autograd.grad(sum(term() for term in terms), parameters, create_graph=True)
    rows = [
        torch.autograd.grad(entry, parameters, retain_graph=True)
        for entry in torch.cat([g.flatten() for g in gradient])
    ]
    return torch.stack([torch.cat([x.flatten() for x in row]) for row in rows])


def test_a_network_against_its_exact_hessian():
    net, terms = network()
    hessian = exact_hessian(net, terms)
    parameters = list(net.parameters())
    v = [torch.randn_like(p) for p in parameters]
    product = torch.cat([x.flatten() for x in hessian_product(terms, parameters, v)])
    torch.testing.assert_close(product, hessian @ torch.cat([x.flatten() for x in v]))
    expected = torch.linalg.eigvalsh(hessian)[-1].item()
    assert top(terms, parameters, tolerance=1e-7) == pytest.approx(expected, rel=1e-4)


def test_it_leaves_gradients_and_weights_alone():
    net, terms = network()
    before = [p.detach().clone() for p in net.parameters()]
    top(terms, list(net.parameters()))
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_parameters_that_the_loss_does_not_curve_in():
    w, loss = quadratic([2.0, 1.0])
    line, unused = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    assert top([loss, line.sum], [line, w, unused], tolerance=1e-9) == pytest.approx(2.0, rel=1e-4)
    assert top([line.sum], [line]) == 0.0


@pytest.mark.parametrize("model", ["compt", "graph_transformer"])
def test_a_run_writes_its_sharpness_and_trains_as_without(model, tmp_path):
    fields = {"model.name": model, "epochs": 4, "optimizer.name": "graphsam"}
    plain = fit(tiny.recipe(**fields), tiny.regression(), out=tmp_path / "plain")
    looked = fit(
        tiny.recipe(**fields, sharpness_every=2), tiny.regression(), out=tmp_path / "looked"
    )
    history = tiny.history(looked)
    assert history.sharpness.notna().tolist() == [False, True, False, True]
    assert (history.sharpness.dropna() > 0).all()
    assert (history.train_loss.dropna() > 0).all()
    assert tiny.same_weights(plain, looked)


# Trace


def test_the_trace_is_that_of_the_exact_hessian():
    net, terms = network()
    exact = float(exact_hessian(net, terms).trace())
    found, error = trace(
        terms, list(net.parameters()), generator=torch.Generator().manual_seed(2), samples=400
    )
    assert found == pytest.approx(exact, abs=4 * error)
    assert 0 < error < 0.1 * abs(exact)


def test_a_diagonal_hessian_has_its_trace_from_any_one_draw():
    w = nn.Parameter(torch.randn(5, dtype=torch.float64))
    curvature = torch.tensor([1.0, 2.0, -3.0, 0.0, 5.0], dtype=torch.float64)
    found, error = trace(
        [lambda: (curvature * w * w).sum() / 2], [w], generator=torch.Generator(), samples=2
    )
    assert (found, error) == pytest.approx((5.0, 0.0), abs=1e-12)


# Around the weights


def test_filters_of_a_direction_are_as_long_as_those_of_the_weights():
    parameters = list(nn.Sequential(nn.Linear(7, 3), nn.LayerNorm(3), nn.Linear(3, 2)).parameters())
    parameters[0].data[1] *= 100
    direction = filter_normalized(parameters, generator=torch.Generator().manual_seed(0))
    for w, d in zip(parameters, direction, strict=True):
        if w.dim() == 1:
            assert not d.any()
        else:
            torch.testing.assert_close(d.norm(dim=1), w.detach().norm(dim=1))
    again = filter_normalized(parameters, generator=torch.Generator().manual_seed(0))
    other = filter_normalized(parameters, generator=torch.Generator().manual_seed(1))
    assert torch.equal(direction[0], again[0])
    assert not torch.equal(direction[0], other[0])


def test_losses_along_a_parabola_are_those_of_its_formula():
    w, loss = quadratic([3.0, 1.0, 0.5])
    before = w.detach().clone()
    d, e = torch.randn(2, 3, dtype=torch.float64)
    places = [(0.0, 0.0), (0.5, 0.0), (-1.0, 2.0)]
    found = losses_along([lambda: loss() / 2, lambda: loss() / 2], [w], [[d], [e]], places)
    assert torch.equal(w, before)
    for value, (a, b) in zip(found, places, strict=True):
        with torch.no_grad():
            w.copy_(before + a * d + b * e)
        assert value == pytest.approx(float(loss().detach()))


def test_the_weights_come_back_when_a_loss_fails():
    w, loss = quadratic([3.0, 1.0])
    before = w.detach().clone()

    def failing():
        if not torch.equal(w, before):
            raise MemoryError
        return loss()

    with pytest.raises(MemoryError):
        losses_along([failing], [w], [[torch.ones(2, dtype=torch.float64)]], [(0,), (1,), (2,)])
    assert torch.equal(w, before)
