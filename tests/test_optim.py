"""molsam.optim: literal twins, limits, closed forms."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_problem import Net, adamw, bits, closure_of, plain, sgd, train
from torch import nn

from molsam.optim import SAM, GraphSAM

BASES = pytest.mark.parametrize("make_base", [adamw, sgd])
ANCHORS = pytest.mark.parametrize("normalize", [True, False])


class ReferenceSAM:
    """Loops over numbers; the base optimizer's step is torch's."""

    def __init__(self, base, rhos):
        self.base = base
        self.parameters = [p for group in base.param_groups for p in group["params"]]
        self.rho = {
            p: rho
            for group, rho in zip(base.param_groups, rhos, strict=True)
            for p in group["params"]
        }

    def norm(self, vector):
        total = 0.0
        for x in vector.values():
            for number in x.flatten().tolist():
                total += number * number
        return math.sqrt(total)

    def gradient(self, closure):
        closure()
        return {p: p.grad.clone() for p in self.parameters if p.grad is not None}

    def gradient_along(self, eps, closure):
        norm = self.norm(eps)
        before = {p: p.detach().clone() for p in self.parameters}
        for p in eps:
            p.data = before[p] + self.rho[p] * eps[p] / norm
        omega = self.gradient(closure)
        for p in self.parameters:
            p.data = before[p]
        return omega

    def step(self, closure):
        self.gradient_along(self.gradient(closure), closure)
        self.base.step()


class ReferenceGraphSAM(ReferenceSAM):
    def __init__(self, base, rhos, beta, interval, normalize):
        super().__init__(base, rhos)
        self.beta, self.interval, self.normalize = beta, interval, normalize
        self.t, self.eps = 0, {}

    def step(self, closure):
        if self.t % self.interval == 0:
            self.eps = self.gradient(closure)
            if self.normalize:
                norm = self.norm(self.eps)
                self.eps = {p: x / norm for p, x in self.eps.items()}
        omega = self.gradient_along(self.eps, closure)
        norm = self.norm(omega)
        for p in self.eps:
            self.eps[p] = self.beta * self.eps[p] + (1 - self.beta) * omega[p] / norm
        self.base.step()
        self.t += 1


def assert_same_run(make_base, wrap, reference):
    net, other = Net(), Net()
    optimizer, twin = wrap(make_base(net)), reference(make_base(other))
    for t in range(100):
        optimizer.step(closure_of(net, optimizer, t))
        twin.step(closure_of(other, twin.base, t))
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            expected = {"w": q.detach(), **twin.base.state[q]}
            found = {"w": p.detach(), **optimizer.base.state[p], **optimizer.state[p]}
            if q in getattr(twin, "eps", {}):
                expected["eps"] = twin.eps[q]
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)
    assert optimizer.t == 100


@BASES
def test_sam_is_its_twin(make_base):
    def wrap(base):
        base.param_groups[1]["rho"] = 0.2
        return SAM(base, rho=0.1)

    assert_same_run(make_base, wrap, lambda base: ReferenceSAM(base, [0.1, 0.2]))


@BASES
@ANCHORS
def test_graphsam_is_its_twin(make_base, normalize):
    def wrap(base):
        base.param_groups[1]["rho"] = 0.02
        return GraphSAM(base, rho=0.1, beta=0.9, reuse_interval=13, normalize_anchor=normalize)

    def reference(base):
        return ReferenceGraphSAM(base, [0.1, 0.02], 0.9, 13, normalize)

    assert_same_run(make_base, wrap, reference)


@BASES
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "wrap",
    [lambda base: SAM(base, rho=0.0), lambda base: GraphSAM(base, rho=0.0, reuse_interval=3)],
    ids=["SAM", "GraphSAM"],
)
def test_rho_zero_is_the_base_optimizer(make_base, dtype, wrap):
    net, other = Net(dtype), Net(dtype)
    optimizer, base = wrap(make_base(net)), make_base(other)
    assert train(net, optimizer, range(20)) == train(other, base, range(20))
    assert bits(net) == bits(other)
    assert plain(optimizer.state_dict()["state"]) == plain(base.state_dict()["state"])


@BASES
@ANCHORS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_anchor_every_step_is_sam(make_base, normalize, dtype):
    net, other = Net(dtype), Net(dtype)
    graphsam = GraphSAM(make_base(net), rho=0.1, reuse_interval=1, normalize_anchor=normalize)
    sam = SAM(make_base(other), rho=0.1)
    assert train(net, graphsam, range(30)) == train(other, sam, range(30))
    assert bits(net) == bits(other)


@pytest.mark.parametrize("interval", [1, 7, 20, 100])
def test_gradients_taken(interval):
    net, calls = Net(), []
    train(net, GraphSAM(adamw(net), reuse_interval=interval), range(20), calls)
    assert len(calls) == 20 + math.ceil(20 / interval)
    calls.clear()
    train(net, SAM(adamw(net)), range(20), calls)
    assert len(calls) == 40


def test_anchors_on_request():
    net, calls, gradients = Net(), [], []
    optimizer = GraphSAM(adamw(net))
    for t in range(9):
        if t in (0, 6):
            optimizer.request_anchor()
        due = optimizer.anchor_due
        calls.clear()
        train(net, optimizer, [t], calls)
        gradients.append(len(calls))
        assert due == (len(calls) == 2)
    assert gradients == [2, 1, 1, 1, 1, 1, 2, 1, 1]


def test_the_first_step_is_an_anchor_unasked():
    net, calls = Net(), []
    train(net, GraphSAM(adamw(net)), range(3), calls)
    assert calls == [0, 0, 1, 2]


@ANCHORS
@pytest.mark.parametrize("interval", [None, 1, 4])
def test_on_a_parabola(normalize, interval):
    """On |w|^2 / 2 every gradient points along w, so with r = |w| and the last anchor at s

    r_{t+1} = (1 - lr) r_t - lr rho,    |eps_t| = 1 + (|eps_s| - 1) beta^(t - s).
    """
    lr, rho, beta, r = 0.1, 0.3, 0.8, 5.0
    w = nn.Parameter(torch.tensor([3.0, -4.0], dtype=torch.float64))
    ray = w.detach() / r
    optimizer = GraphSAM(
        torch.optim.SGD([w], lr=lr),
        rho=rho,
        beta=beta,
        reuse_interval=interval,
        normalize_anchor=normalize,
    )

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum() / 2
        loss.backward()
        return loss

    anchor, s = 0.0, 0
    for t in range(12):
        if optimizer.anchor_due:
            anchor, s = (1.0 if normalize else r), t
        optimizer.step(closure)
        r = (1 - lr) * r - lr * rho
        torch.testing.assert_close(w.detach(), r * ray)
        length = 1 + (anchor - 1) * beta ** (t + 1 - s)
        torch.testing.assert_close(optimizer.state[w]["eps"], length * ray)


@ANCHORS
def test_loss_scale_and_the_anchor(normalize):
    """At fixed weights the average is free of the loss scale if its anchor is."""

    def average(scale):
        w = nn.Parameter(torch.tensor([0.3, 0.1]))
        base = torch.optim.SGD([w], lr=0.0)
        optimizer = GraphSAM(base, beta=0.5, normalize_anchor=normalize)

        def closure():
            optimizer.zero_grad()
            loss = scale * (w.square().sum() + w[0] ** 3)
            loss.backward()
            return loss

        for _ in range(5):
            optimizer.step(closure)
        return optimizer.state[w]["eps"]

    assert torch.equal(average(1.0), average(1024.0)) == normalize


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 5), max_size=3),
    scale=st.floats(1e-8, 1e8),
    rho=st.floats(1e-3, 10.0),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_the_perturbation_has_norm_rho(shapes, cuts, scale, rho, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    slopes = [scale * torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    weights = [nn.Parameter(torch.zeros_like(c)) for c in slopes]
    edges = [0, *sorted(cuts), len(weights)]
    split = [weights[a:b] for a, b in itertools.pairwise(edges)]
    optimizer = GraphSAM(torch.optim.SGD([{"params": ws} for ws in split], lr=0.0), rho=rho)
    moved = []

    def closure():
        optimizer.zero_grad()
        moved.append(math.sqrt(sum(w.detach().double().square().sum() for w in weights)))
        loss = torch.stack([(c * w).sum() for c, w in zip(slopes, weights, strict=True)]).sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    expected = rho if any(w.numel() for w in weights) else 0.0
    assert moved == pytest.approx([0.0, expected, expected, expected], rel=1e-6)
    assert all(not w.any() for w in weights)


def test_the_norm_is_exact_over_many_elements():
    w = nn.Parameter(torch.zeros(3, 1_000_000))
    optimizer = SAM(torch.optim.SGD([w], lr=0.0), rho=0.5)
    slope = torch.randn(w.shape, generator=torch.Generator().manual_seed(0))
    moved = []

    def closure():
        optimizer.zero_grad()
        moved.append(w.detach().double().norm().item())
        (slope * w).sum().backward()

    optimizer.step(closure)
    assert moved == pytest.approx([0.0, 0.5], rel=1e-6)


def test_radius_of_each_group():
    a, b = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    base = torch.optim.SGD([{"params": [a], "rho": 2.0}, {"params": [b]}], lr=0.0)
    optimizer = SAM(base, rho=0.5)
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append((a.item(), b.item()))
        (3 * a - 4 * b).backward()

    optimizer.step(closure)
    assert seen[1] == pytest.approx((2.0 * 3 / 5, 0.5 * -4 / 5))


def test_imports_torch_only():
    unwanted = {"rdkit", "dgl", "dgllife", "pandas", "sklearn", "matplotlib", "pydantic"}
    code = f"import sys, molsam.optim; print(*sorted({unwanted} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
