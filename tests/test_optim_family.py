"""molsam.optim: policies as limits of one another, a late start, gradients taken, memory."""

from __future__ import annotations

import math
import random

import pytest
import torch
from optim_problem import (
    BASES,
    POLICIES,
    Net,
    adamw,
    at_rest,
    bits,
    plain,
    policies,
    sam,
    train,
)
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from molsam.optim import AESAM, ASAM, MSAM, RST, S2SAM, SAM, GraphSAM, LookSAM, SAMk, SAMOne

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])


def assert_same(make_base, wrap, other_wrap, dtype=torch.float64, steps=20):
    """The same losses, weights and base states, bit for bit."""
    net, other = Net(dtype), Net(dtype)
    optimizer, twin = wrap(make_base(net)), other_wrap(make_base(other))
    calls, other_calls = [], []
    assert train(net, optimizer, range(steps), calls) == train(
        other, twin, range(steps), other_calls
    )
    assert bits(net) == bits(other)
    assert plain(optimizer.state_dict()["state"]) == plain(twin.state_dict()["state"])
    return len(calls), len(other_calls)


def the_base(base):
    return base


# --- limits --------------------------------------------------------------------------------


@DTYPES
@BASES
@policies()
def test_rho_zero_is_the_base(make_base, wrap, dtype):
    assert_same(make_base, lambda base: wrap(base, rho=0.0), the_base, dtype)


@DTYPES
@BASES
@pytest.mark.parametrize(
    "wrap",
    [
        lambda base: GraphSAM(base, rho=0.1, reuse_interval=1),
        lambda base: GraphSAM(base, rho=0.1, reuse_interval=1, normalize_anchor=True),
        lambda base: SAMk(base, rho=0.1, reuse_interval=1),
        lambda base: LookSAM(base, rho=0.1, reuse_interval=1),
        lambda base: RST(base, rho=0.1, probability=1.0),
        lambda base: AESAM(base, rho=0.1, steps=30, lambda_1=-1e9, lambda_2=-1e9),
    ],
    ids=["GraphSAM", "GraphSAM-normalised", "SAMk", "LookSAM", "RST", "AESAM"],
)
def test_at_one_end_is_sam(make_base, wrap, dtype):
    assert assert_same(make_base, wrap, sam, dtype) == (40, 40)


@DTYPES
@BASES
@pytest.mark.parametrize(
    "wrap",
    [
        lambda base: RST(base, rho=0.1, probability=0.0),
        lambda base: AESAM(base, rho=0.1, steps=30, lambda_1=1e9, lambda_2=1e9),
    ],
    ids=["RST", "AESAM"],
)
def test_at_the_other_end_is_the_base(make_base, wrap, dtype):
    assert assert_same(make_base, wrap, the_base, dtype) == (20, 20)


@DTYPES
@BASES
@pytest.mark.parametrize(
    ("wrap", "other"),
    [
        (
            lambda base: S2SAM(base, rho=0.1),
            lambda base: GraphSAM(base, rho=0.1, beta=0.0, reuse_interval=None),
        ),
        (
            lambda base: SAMOne(base, rho=0.1),
            lambda base: SAMk(base, rho=0.1, reuse_interval=1000),
        ),
    ],
    ids=["S2SAM is GraphSAM", "SAMOne is SAMk"],
)
def test_one_anchor_for_good(make_base, wrap, other, dtype):
    assert assert_same(make_base, wrap, other, dtype) == (21, 21)


@BASES
def test_asam_is_adaptive_sam(make_base):
    def adaptive(base):
        for group in base.param_groups:
            group["adaptive"] = True
        return SAM(base, rho=0.3)

    def half(base):
        base.param_groups[1]["adaptive"] = False
        return ASAM(base, rho=0.3)

    assert_same(make_base, lambda base: ASAM(base, rho=0.3), adaptive)
    with pytest.raises(AssertionError):
        assert_same(make_base, half, adaptive)


def test_asam_does_not_see_the_scale_of_the_layers():
    """(c W, V / c) is the same ReLU network; far above eta, it is perturbed to the same one."""

    def perturbed_loss(policy, c):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(16, 5, generator=generator, dtype=torch.float64)
        W, V = (
            nn.Parameter((5 + 5 * torch.rand(shape, generator=generator)).double())
            for shape in [(5, 7), (7, 1)]
        )
        with torch.no_grad():
            W.mul_(c)
            V.div_(c)
        losses = []
        optimizer = policy(at_rest([W, V]), rho=0.5)

        def closure():
            optimizer.zero_grad()
            loss = (torch.relu(x @ W) @ V / 100).square().mean()
            loss.backward()
            losses.append(loss.item())

        optimizer.step(closure)
        return losses[1] / losses[0]

    ratios = {policy: [perturbed_loss(policy, c) for c in (1, 4)] for policy in (ASAM, SAM)}
    assert ratios[ASAM][0] > 1.05
    assert ratios[ASAM][1] == pytest.approx(ratios[ASAM][0], rel=5e-3)
    assert ratios[SAM][1] != pytest.approx(ratios[SAM][0], rel=5e-2)


# --- a late start --------------------------------------------------------------------------


def late(name, base, start, **options):
    """The policy perturbing from `start` on; AESAM's steps count before it too."""
    if name == "AESAM":
        options["steps"] = 30 + start
    return POLICIES[name](base, start=start, **options)


@BASES
@pytest.mark.parametrize("name", POLICIES)
def test_a_start_beyond_the_end_is_the_base(make_base, name):
    gradients = assert_same(make_base, lambda base: late(name, base, 20), the_base)
    assert gradients == (20, 20)


@BASES
@pytest.mark.parametrize("name", POLICIES)
def test_a_late_start_is_the_base_and_then_a_fresh_policy(make_base, name):
    """k = 3 is no multiple of the interval, so anchors must count from the start."""
    net, other, calls, other_calls = Net(), Net(), [], []
    optimizer, base = late(name, make_base(net), 3), make_base(other)
    train(net, optimizer, range(3), calls)
    train(other, base, range(3))
    assert bits(net) == bits(other)
    assert calls == [0, 1, 2]
    fresh = late(name, base, 0)
    if name == "RST":
        fresh.counters["t"] = 3  # it draws by t, whatever the start
    calls.clear()
    train(net, optimizer, range(3, 18), calls)
    train(other, fresh, range(3, 18), other_calls)
    assert bits(net) == bits(other)
    assert calls == other_calls
    fresh.counters["t"] = 18
    assert plain(optimizer.state_dict()["sharpness"]) == plain(fresh.state_dict()["sharpness"])


# --- gradients taken -----------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 6, 30])
@pytest.mark.parametrize("interval", [1, 7, 20, 100])
@pytest.mark.parametrize("policy", [GraphSAM, SAMk, LookSAM])
def test_gradients_taken_by_policies_with_an_interval(policy, interval, start):
    net, calls = Net(), []
    train(net, policy(adamw(net), reuse_interval=interval, start=start), range(20), calls)
    assert len(calls) == 20 + math.ceil(max(0, 20 - start) / interval)


@pytest.mark.parametrize("start", [0, 6, 30])
@pytest.mark.parametrize(
    ("policy", "share"), [(SAM, 1), (ASAM, 1), (MSAM, 0), (SAMOne, "once"), (S2SAM, "once")]
)
def test_gradients_taken_by_the_others(policy, share, start):
    net, calls = Net(), []
    train(net, policy(adamw(net), start=start), range(20), calls)
    left = max(0, 20 - start)
    assert len(calls) == 20 + (min(left, 1) if share == "once" else share * left)


@pytest.mark.parametrize("start", [0, 6, 30])
def test_gradients_taken_by_rst(start):
    net, calls = Net(), []
    optimizer = RST(adamw(net), probability=0.4, seed=7, start=start)
    train(net, optimizer, range(20), calls)
    draws = [random.Random(f"7, {t}").random() < 0.4 for t in range(start, 20)]
    assert len(calls) == 20 + sum(draws)


def test_rst_draws_as_often_as_it_says():
    def drawn(seed):
        w = nn.Parameter(torch.ones(1))
        optimizer = RST(at_rest([w]), probability=0.3, seed=seed)
        calls = []

        def closure():
            calls.append(optimizer.t)
            w.grad = torch.ones(1)

        for _ in range(2000):
            optimizer.step(closure)
        return [calls.count(t) == 2 for t in range(2000)]

    one, other = drawn(0), drawn(1)
    four_sigma = 4 * math.sqrt(2000 * 0.3 * 0.7)
    assert sum(one) == pytest.approx(600, abs=four_sigma)
    assert sum(other) == pytest.approx(600, abs=four_sigma)
    both = sum(a and b for a, b in zip(one, other, strict=True))
    assert both == pytest.approx(2000 * 0.3**2, abs=4 * math.sqrt(2000 * 0.09 * 0.91))


def test_aesam_takes_the_second_gradient_where_the_first_is_unusual():
    """A gradient of 1 in all steps but a few of 10: after the first, only those count."""
    w, calls = nn.Parameter(torch.ones(1)), []
    optimizer = AESAM(at_rest([w]), steps=100, lambda_1=1.0, lambda_2=1.0, delta=0.9)

    def closure():
        calls.append(optimizer.t)
        w.grad = torch.full((1,), 10.0 if optimizer.t in (30, 60, 90) else 1.0)

    for _ in range(100):
        optimizer.step(closure)
    twice = [t for t in range(15, 100) if calls.count(t) == 2]
    assert twice == [30, 60, 90]


def test_the_threshold_of_aesam_goes_from_one_lambda_to_the_other():
    """Of alternating gradients lambda = 9 takes none twice, and lambda = -9 all."""
    w, calls = nn.Parameter(torch.ones(1)), []
    optimizer = AESAM(at_rest([w]), steps=60, lambda_1=-9.0, lambda_2=9.0, start=20)

    def closure():
        calls.append(optimizer.t)
        w.grad = torch.full((1,), 1.0 + optimizer.t % 2)

    for _ in range(100):
        optimizer.step(closure)
    twice = [calls.count(t) == 2 for t in range(100)]
    assert not any(twice[:35])
    assert all(twice[45:])


def test_the_threshold_of_aesam_stays_after_its_steps():
    """At lambda_1 = 0 the gradients above their mean count; on from lambda_2 all would."""
    w, calls = nn.Parameter(torch.ones(1)), []
    optimizer = AESAM(at_rest([w]), steps=20, lambda_1=0.0, lambda_2=9.0)

    def closure():
        calls.append(optimizer.t)
        w.grad = torch.full((1,), 1.0 + optimizer.t % 2)

    for _ in range(60):
        optimizer.step(closure)
    assert [t for t in range(30, 60) if calls.count(t) == 2] == list(range(31, 60, 2))


# --- memory --------------------------------------------------------------------------------


class LiveBytes(TorchDispatchMode):
    """`peak`: the most bytes of tensors made inside that were alive at once."""

    def __init__(self):
        super().__init__()
        self.peak, self.made = 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {x.untyped_storage().data_ptr() for x in tensors_in(args)}
        result = func(*args, **(kwargs or {}))
        for x in tensors_in(result):
            storage = x.untyped_storage()
            if storage.data_ptr() not in given:
                self.made[StorageWeakRef(storage)] = storage.nbytes()
        self.made = {ref: size for ref, size in self.made.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self.made.values()))
        return result


def tensors_in(x):
    if isinstance(x, torch.Tensor):
        return [x]
    return [leaf for part in x for leaf in tensors_in(part)] if isinstance(x, list | tuple) else []


COPIES = {"SAM": 1, "RST": 1, "AESAM": 1, "MSAM": 1}  # the backup; the others add a memory


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("name", [name for name in POLICIES if name != "ASAM"])
def test_copies_of_the_weights_held(name, adaptive):
    """Between steps and at any moment in them; adaptive groups take one more for a moment."""
    weights = [nn.Parameter(torch.ones(1000)) for _ in range(50)]
    size = sum(w.nbytes for w in weights)
    for i, w in enumerate(weights):
        w.grad = torch.full_like(w, 1.0 + i)
    base = at_rest([{"params": weights, "adaptive": adaptive}])
    base.step()
    optimizer = POLICIES[name](base)
    with LiveBytes() as live:
        for _ in range(5):
            optimizer.step(lambda: None)
    copies = COPIES.get(name, 2)
    assert optimizer.extra_bytes == copies * size
    assert copies <= live.peak / size < copies + adaptive + 0.2
