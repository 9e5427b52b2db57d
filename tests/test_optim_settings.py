"""molsam.optim in the settings users have: precision, and what closures do."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from optim_problem import (
    Net,
    adamw,
    at_rest,
    batch,
    bits,
    closure_of,
    graphsam,
    loss_of,
    on_request,
    plain,
    policies,
    sam,
    train,
)
from torch import nn

from molsam.optim import (
    AESAM,
    ASAM,
    MSAM,
    RST,
    S2SAM,
    SAM,
    Direction,
    GraphSAM,
    LookSAM,
    RhoSchedule,
    SAMk,
    SAMOne,
)

# --- precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    w = nn.Parameter(torch.zeros(1000, dtype=dtype))
    optimizer = on_request(torch.optim.SGD([w], lr=0.0))
    slope = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    moved = []

    def closure():
        optimizer.zero_grad()
        moved.append(w.detach().double().norm().item())
        (200 * slope * w).sum().backward()

    for _ in range(3):
        optimizer.step(closure)
    assert moved == pytest.approx([0.0, 0.1, 0.1, 0.1], rel=torch.finfo(dtype).eps)
    assert optimizer.state[w]["eps"].dtype == torch.promote_types(dtype, torch.float32)
    assert not w.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_norm_of_a_gradient_is_as_fine_as_float32_at_least(dtype):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = Direction.of({nn.Parameter(x): x}).norm
    fine = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    assert found == pytest.approx(x.double().norm().item(), rel=10 * fine)


def test_the_average_of_bfloat16_weights_keeps_small_updates():
    w = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    optimizer = GraphSAM(torch.optim.SGD([w], lr=0.0), beta=0.999)
    slope = torch.tensor([1.0, 0.0])

    def closure():
        optimizer.zero_grad()
        (slope * w).sum().backward()

    optimizer.step(closure)
    slope = torch.tensor([0.0, 1.0])
    for _ in range(10):
        optimizer.step(closure)
    # 0.001 off 1 is below the step of bfloat16 there
    expected = torch.tensor([0.999**10, 1 - 0.999**10])
    torch.testing.assert_close(optimizer.state[w]["eps"], expected)


@policies()
def test_a_model_cast_on_the_way(wrap):
    """float64 weights must not pass through backup buffers of float32."""
    net = Net(torch.float32)
    optimizer = wrap(at_rest(net.parameters()))
    train(net, optimizer, range(2))
    net.double()
    with torch.no_grad():
        net.last.weight.add_(1e-12)
    before = bits(net)
    train(net, optimizer, range(5))
    assert bits(net) == before
    assert optimizer.t == 7


@policies()
def test_grad_scaler_inside_the_closure(wrap):
    """A power of two as loss scale changes no bit, and overflow skips until the scale fits."""
    net, other = Net(torch.float32), Net(torch.float32)
    optimizer, unscaled = wrap(adamw(net)), wrap(adamw(other))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)

    def closure(t):
        optimizer.zero_grad()
        loss = 64 * loss_of(net, t)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.update()
        return loss

    def closure_unscaled(t):
        unscaled.zero_grad()
        loss = 64 * loss_of(other, t)
        loss.backward()
        return loss

    while optimizer.t < 10:
        optimizer.step(lambda: closure(optimizer.t))
    while unscaled.t < 10:
        unscaled.step(lambda: closure_unscaled(unscaled.t))
    assert optimizer.skipped > 0
    assert bits(net) == bits(other)


def test_autocast_around_the_step_and_a_look_at_w():
    net, seen = Net(torch.float32), []
    optimizer = sam(at_rest(net.parameters()), rho=1.0)

    def closure():
        closure_of(net, optimizer, 0)()
        with optimizer.unperturbed():
            seen.append(loss_of(net, 0).item())
        seen.append(loss_of(net, 0).item())

    with torch.autocast("cpu", torch.bfloat16):
        optimizer.step(closure)
    assert seen[0] == seen[1] == seen[2]
    assert seen[3] > 2 * seen[0]


@policies()
def test_autocast_around_the_step_is_autocast_inside_the_closure(wrap):
    """The second pass must not read the casts of the weights that the first left behind."""

    def run(outer, inner):
        net, losses = Net(torch.float32), []
        optimizer = wrap(adamw(net))

        def closure(t):
            optimizer.zero_grad()
            with inner():
                loss = loss_of(net, t)
            loss.backward()
            losses.append(loss.item())

        for t in range(8):
            with outer():
                optimizer.step(lambda t=t: closure(t))
        return losses, bits(net), plain(optimizer.state_dict())

    halved = partial(torch.autocast, "cpu", torch.bfloat16)
    assert run(halved, nullcontext) == run(nullcontext, halved) != run(nullcontext, nullcontext)


@policies()
def test_buffers_last_from_step_to_step(wrap):
    """Fresh memory in every step would cost more than all that is copied into it."""
    net = Net()
    optimizer = wrap(adamw(net))
    train(net, optimizer, range(4))

    def buffers():
        memory = [state["eps"] for state in optimizer.state.values() if state]
        return [*optimizer._backup.values(), *memory]

    before = buffers()
    train(net, optimizer, range(4, 10))
    assert before
    assert all(x is y for x, y in zip(before, buffers(), strict=True))


# --- closures ------------------------------------------------------------------------------


def test_clipping_inside_the_closure():
    """The base steps with the clipped gradient; the perturbation still has norm rho."""
    net = Net()
    base = torch.optim.SGD(net.parameters(), lr=1.0)
    optimizer = sam(base)
    start = nn.utils.parameters_to_vector(net.parameters()).detach()
    moved = []

    def closure():
        now = nn.utils.parameters_to_vector(net.parameters()).detach()
        moved.append((now - start).norm().item())
        loss = closure_of(net, optimizer, 0)()
        nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        return loss

    optimizer.step(closure)
    end = nn.utils.parameters_to_vector(net.parameters()).detach()
    assert moved == pytest.approx([0.0, 0.1])
    assert (end - start).norm().item() == pytest.approx(1e-3, rel=1e-2)


@policies()
def test_accumulation_inside_the_closure(wrap):
    net, other = Net(), Net()
    optimizer, whole = wrap(adamw(net)), wrap(adamw(other))

    def closure(t):
        optimizer.zero_grad()
        x, y = batch(t)
        total = 0.0
        for rows in torch.arange(16).split(4):
            loss = (net(x[rows]) - y[rows]).square().sum() / 16
            loss.backward()
            total += loss.detach()
        return total

    for t in range(10):
        optimizer.step(lambda t=t: closure(t))
    train(other, whole, range(10))
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@policies()
def test_returns_the_first_loss_and_differentiates_under_no_grad(wrap):
    net, losses = Net(), []
    optimizer = wrap(adamw(net))

    def closure():
        loss = closure_of(net, optimizer, 0)()
        losses.append(loss)
        return loss

    with torch.no_grad():
        for _ in range(5):
            losses.clear()
            assert optimizer.step(closure) is losses[0]
    assert optimizer.t == 5


def test_compiled_model():
    net, other = Net(torch.float32), Net(torch.float32)
    compiled = torch.compile(net, backend="aot_eager")
    optimizer, eager = graphsam(adamw(net)), graphsam(adamw(other))

    def closure(t):
        optimizer.zero_grad()
        x, y = batch(t, torch.float32)
        loss = (compiled(x) - y).square().mean()
        loss.backward()
        return loss

    for t in range(6):
        optimizer.step(lambda t=t: closure(t))
    train(other, eager, range(6))
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


# --- options -------------------------------------------------------------------------------

DEFAULTS = {
    SAM: {"rho": 0.05, "start": 0},
    ASAM: {"rho": 0.5, "start": 0},
    RST: {"rho": 0.05, "probability": 0.5, "seed": 0, "start": 0},
    AESAM: {"rho": 0.05, "lambda_1": -1.0, "lambda_2": 1.0, "delta": 0.9, "start": 0},
    SAMk: {"rho": 0.05, "reuse_interval": 5, "start": 0},
    SAMOne: {"rho": 0.05, "start": 0},
    LookSAM: {"rho": 0.05, "reuse_interval": 5, "alpha": 0.7, "start": 0},
    GraphSAM: {
        "rho": 0.05, "beta": 0.99, "reuse_interval": None, "normalize_anchor": False, "start": 0,
    },
    S2SAM: {"rho": 0.05, "start": 0},
    MSAM: {"rho": 0.3, "start": 0},
}  # fmt: skip


@pytest.mark.parametrize("policy", DEFAULTS)
def test_what_is_not_said_is_the_default(policy):
    """What the documentation, and papers that cite it, mean by the policy's bare name."""
    needed = {"steps": 20} if policy is AESAM else {}

    def run(options):
        net, calls = Net(), []
        optimizer = policy(adamw(net), **needed, **options)
        losses = train(net, optimizer, range(20), calls)
        return losses, bits(net), calls, plain(optimizer.state_dict())

    assert run({}) == run(DEFAULTS[policy])


def test_looksam_that_reuses_nothing_is_sam_in_every_fifth_step():
    net, other, calls = Net(), Net(), []
    base = adamw(other)
    fifth = SAM(base, rho=0.1)
    train(net, LookSAM(adamw(net), rho=0.1, alpha=0), range(12), calls)
    for t in range(12):
        train(other, base if t % 5 else fifth, [t])
    assert bits(net) == bits(other)
    assert len(calls) == 12 + 3


def test_aesam_that_remembers_nothing_compares_a_gradient_with_itself():
    """With delta = 0 the mean is this step's square and the deviation 0: always unusual."""
    net, calls = Net(), []
    train(net, AESAM(adamw(net), steps=6, delta=0.0), range(6), calls)
    assert calls == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_gamma_of_one_keeps_rho():
    optimizer = sam(adamw(Net()))
    schedule = RhoSchedule(optimizer, gamma=1, epochs=1)
    for _ in range(3):
        schedule.step()
    assert optimizer.param_groups[0]["rho"] == 0.1
