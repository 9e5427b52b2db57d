"""molsam.optim in the settings users have: restarts, schedulers, precision, errors, policies."""

from __future__ import annotations

import copy
import io
import itertools
import sys

import pytest
import torch
from optim_problem import Net, adamw, batch, bits, closure_of, loss_of, plain, sgd, train
from torch import nn

from molsam.optim import SAM, Direction, GraphSAM, RhoDecay, RhoSchedule, SharpnessAware

BASES = pytest.mark.parametrize("make_base", [adamw, sgd])


def graphsam(base, **options):
    return GraphSAM(base, **{"rho": 0.1, "beta": 0.8, "reuse_interval": 4, **options})


def sam(base):
    return SAM(base, rho=0.1)


def on_request(base):
    return graphsam(base, reuse_interval=None)


WRAPS = pytest.mark.parametrize("wrap", [sam, graphsam, on_request])


# --- the weights come back -----------------------------------------------------------------


@WRAPS
@BASES
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", range(5))
def test_an_exception_leaves_the_weights(wrap, make_base, error, call):
    net, calls = Net(torch.float32), []
    optimizer = wrap(make_base(net))
    before = []

    def closure():
        if len(calls) == call:
            raise error
        return closure_of(net, optimizer, 0, calls)()

    def run():
        for _ in range(5):
            before.append(bits(net))
            optimizer.step(closure)

    with pytest.raises(error):
        run()
    assert bits(net) == before[-1]
    assert optimizer.t == len(before) - 1


def test_an_interrupt_anywhere_leaves_the_weights():
    """KeyboardInterrupt at every line of the optimizers in turn."""
    net = Net(torch.float32)
    watched = ("optim/sharpness.py", "optim/graphsam.py")
    start = bits(net)

    def interrupted(line):
        optimizer = graphsam(torch.optim.SGD(net.parameters(), lr=0.0))
        passed = itertools.count()

        def trace(frame, event, argument):
            if not frame.f_code.co_filename.endswith(watched):
                return None
            if event == "line" and next(passed) == line:
                raise KeyboardInterrupt
            return trace

        previous = sys.gettrace()
        sys.settrace(trace)
        try:
            optimizer.step(closure_of(net, optimizer, 0))
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(previous)
        return False

    line = 0
    while interrupted(line):
        assert bits(net) == start, f"after an interrupt at line event {line}"
        line += 1
    assert line > 50


def test_unperturbed_inside_a_closure():
    net, seen = Net(torch.float32), []
    optimizer = sam(sgd(net))
    start = bits(net)

    def closure():
        moved = bits(net)
        with optimizer.unperturbed():
            assert torch.is_grad_enabled()
            seen.append((moved == start, bits(net) == start))
        assert bits(net) == moved
        with pytest.raises(ZeroDivisionError), optimizer.unperturbed():
            raise ZeroDivisionError
        assert bits(net) == moved
        return closure_of(net, optimizer, 0)()

    optimizer.step(closure)
    assert seen == [(True, True), (False, True)]
    after = bits(net)
    with optimizer.unperturbed():
        assert bits(net) == after


# --- gradients that are zero, missing, not finite, of another kind ---------------------------


@WRAPS
def test_zero_gradients_perturb_nothing(wrap):
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = wrap(torch.optim.SGD([w], lr=0.1))

    def closure():
        optimizer.zero_grad()
        assert w.tolist() == [1.0, 2.0]
        loss = (0 * w).sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert w.tolist() == [1.0, 2.0]
    assert (optimizer.t, optimizer.skipped) == (3, 0)


@WRAPS
def test_no_gradient_at_all(wrap):
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = wrap(torch.optim.SGD([w], lr=0.1))
    assert optimizer.step(lambda: 7.0) == 7.0
    assert w.tolist() == [1.0, 2.0]


@WRAPS
@BASES
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_and_counted(wrap, make_base, bad):
    """The first and second gradient of an anchor step and the one of a reuse step go bad."""
    net, other = Net(), Net()
    optimizer, undisturbed = wrap(make_base(net)), wrap(make_base(other))

    def spoiled(t, call):
        calls = []

        def closure():
            loss = closure_of(net, optimizer, t, calls)()
            if len(calls) == call:
                net.last.bias.grad = torch.full_like(net.last.bias, bad)
            return loss

        return closure

    def skip(t, call):
        before, state = bits(net), plain(optimizer.state_dict())
        optimizer.step(spoiled(t, call))
        assert bits(net) == before
        after = plain(optimizer.state_dict())
        state["sharpness"]["counters"]["skipped"] += 1
        assert after == state

    for t in range(10):
        skip(t, 1)
        if wrap is sam or optimizer.anchor_due:
            skip(t, 2)
        train(net, optimizer, [t])
        train(other, undisturbed, [t])
        assert bits(net) == bits(other)
    assert optimizer.skipped == 10 + {sam: 10, graphsam: 3, on_request: 1}[wrap]
    assert optimizer.state_dict()["sharpness"]["counters"]["skipped"] == optimizer.skipped


def test_frozen_on_the_way():
    """A parameter frozen during the run keeps its value, in the closure too."""
    net = Net()
    optimizer = on_request(sgd(net))
    train(net, optimizer, range(3))
    weight = net.first.weight
    weight.requires_grad_(False).grad = None
    kept, seen = weight.detach().clone(), []

    def closure():
        seen.append(torch.equal(weight, kept))
        return closure_of(net, optimizer, 0)()

    for _ in range(3):
        optimizer.step(closure)
    assert seen == [True] * 3
    weight.requires_grad_(True)
    optimizer.step(closure)
    assert seen[3] is False
    assert not torch.equal(weight, kept)


def test_a_parameter_used_late_joins_the_average():
    net = Net()
    optimizer = on_request(sgd(net))
    train(net, optimizer, range(2))
    assert "eps" not in optimizer.state[net.unused]

    def closure():
        optimizer.zero_grad()
        loss = loss_of(net, 0) + net.unused.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    norm = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm()
    expected = (1 - 0.8) * torch.ones(3, dtype=torch.float64) / norm
    torch.testing.assert_close(optimizer.state[net.unused]["eps"], expected)


def test_an_anchor_forgets_the_average():
    """A parameter that the anchor's gradient does not reach starts from zero again."""
    used, other = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = on_request(torch.optim.SGD([used, other], lr=0.0))
    seen = []

    def closure(loss):
        optimizer.zero_grad()
        seen.append(other.item())
        loss().backward()

    optimizer.step(lambda: closure(lambda: (used + other).sum()))
    optimizer.request_anchor()
    for _ in range(2):
        optimizer.step(lambda: closure(used.sum))
    assert [value > 1 for value in seen] == [False, True, False, False, False]


def test_zeroing_gradients_in_place_changes_nothing():
    net, other = Net(), Net()
    optimizer, usual = graphsam(adamw(net)), graphsam(adamw(other))

    def closure(t):
        optimizer.zero_grad(set_to_none=False)
        loss = loss_of(net, t)
        loss.backward()
        return loss

    for t in range(10):
        optimizer.step(lambda t=t: closure(t))
    train(other, usual, range(10))
    assert bits(net) == bits(other)


def test_sparse_gradients_are_refused():
    table = nn.Embedding(10, 4, sparse=True)
    optimizer = sam(torch.optim.SGD(table.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"sparse gradient of parameter 0, .*\(10, 4\).*sparse=F"):
        optimizer.step(lambda: table(torch.tensor([1, 2])).sum().backward())


def test_complex_gradients_are_refused():
    w, z = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = sam(torch.optim.SGD([w, z], lr=0.1))
    with pytest.raises(ValueError, match=r"complex gradient of parameter 1, .*two real parameters"):
        optimizer.step(lambda: (w * z).abs().sum().backward())


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


@WRAPS
def test_a_model_cast_on_the_way(wrap):
    """float64 weights must not pass through backup buffers of float32."""
    net = Net(torch.float32)
    optimizer = wrap(torch.optim.SGD(net.parameters(), lr=0.0))
    train(net, optimizer, range(2))
    net.double()
    with torch.no_grad():
        net.last.weight.add_(1e-12)
    before = bits(net)
    train(net, optimizer, range(5))
    assert bits(net) == before
    assert optimizer.t == 7


def test_grad_scaler_inside_the_closure():
    """A power of two as loss scale changes no bit, and overflow skips until the scale fits."""
    net, other = Net(torch.float32), Net(torch.float32)
    optimizer, unscaled = graphsam(adamw(net)), graphsam(adamw(other))
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


def test_accumulation_inside_the_closure():
    net, other = Net(), Net()
    optimizer, whole = graphsam(adamw(net)), graphsam(adamw(other))

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


@WRAPS
def test_returns_the_first_loss_and_differentiates_under_no_grad(wrap):
    net, losses = Net(), []
    optimizer = wrap(adamw(net))

    def closure():
        loss = closure_of(net, optimizer, 0)()
        losses.append(loss)
        return loss

    with torch.no_grad():
        assert optimizer.step(closure) is losses[0]
    assert len(losses) == 2
    assert losses[0] < losses[1]


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


# --- restarts ------------------------------------------------------------------------------


def restored(saved):
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@WRAPS
@BASES
@pytest.mark.parametrize("k", [1, 6])
def test_a_restart_is_exact(wrap, make_base, k):
    def fresh():
        net = Net(torch.float32)
        optimizer = wrap(make_base(net))
        rates = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return net, optimizer, rates, RhoSchedule(optimizer, gamma=0.7, epochs=2)

    def run(parts, steps):
        net, optimizer, rates, radii = parts
        for t in steps:
            if t % 5 == 0 and isinstance(optimizer, GraphSAM):
                optimizer.request_anchor()
            train(net, optimizer, [t])
            rates.step()
            radii.step()

    whole = fresh()
    run(whole, range(2 * k))
    half = fresh()
    run(half, range(k))
    saved = restored([part.state_dict() for part in half])
    run(half, range(3))  # what goes on after saving does not reach the copy
    rest = fresh()
    for part, state in zip(rest, saved, strict=True):
        part.load_state_dict(state)
    run(rest, range(k, 2 * k))
    assert bits(rest[0]) == bits(whole[0])
    assert plain(rest[1].state_dict()) == plain(whole[1].state_dict())
    assert rest[1].t == 2 * k


def test_a_pending_request_survives_a_restart():
    net, other, calls = Net(), Net(), []
    optimizer, fresh = on_request(adamw(net)), on_request(adamw(other))
    train(net, optimizer, range(3))
    fresh.load_state_dict(restored(optimizer.state_dict()))
    assert not fresh.anchor_due
    optimizer.request_anchor()
    fresh.load_state_dict(restored(optimizer.state_dict()))
    train(other, fresh, [3, 4], calls)
    assert calls == [3, 3, 4]


def leaves(x):
    if isinstance(x, dict | list | tuple):
        children = x.values() if isinstance(x, dict) else x
        return [leaf for child in children for leaf in leaves(child)]
    return [x]


def test_state_dict_is_plain_and_holds_no_perturbation():
    net, seen = Net(), []
    optimizer = graphsam(adamw(net))
    train(net, optimizer, range(6))

    def closure():
        state = optimizer.state_dict()
        seen.append(plain(state))
        allowed = (torch.Tensor, int, float, bool, type(None))
        assert all(isinstance(leaf, allowed) for leaf in leaves(state))
        return closure_of(net, optimizer, 0)()

    before = plain(optimizer.state_dict())
    optimizer.step(closure)
    assert seen == [before]
    assert before["sharpness"]["counters"] == {"t": 6, "skipped": 0, "anchor_requested": False}
    assert sorted(before["sharpness"]["state"]) == [0, 1, 5, 6]
    assert set(before["sharpness"]["state"][0]) == {"eps"}


def test_a_loaded_state_is_its_own():
    net, other = Net(), Net()
    optimizer, fresh = graphsam(sgd(net)), graphsam(sgd(other))
    train(net, optimizer, range(3))
    saved = optimizer.state_dict()
    before = plain(saved["sharpness"])
    fresh.load_state_dict(saved)
    train(other, fresh, range(5))
    assert plain(optimizer.state_dict()["sharpness"]) == before


def test_foreign_state_dicts_are_refused():
    net = Net()
    optimizer, plain_base = graphsam(adamw(net)), adamw(Net())
    before = plain(optimizer.state_dict())
    for foreign in (plain_base.state_dict(), sam(adamw(Net())).state_dict()):
        with pytest.raises(ValueError, match=r"not saved by GraphSAM.*GraphSAM\.base"):
            optimizer.load_state_dict(foreign)
    assert plain(optimizer.state_dict()) == before
    plain_base.load_state_dict(optimizer.state_dict())


def test_deepcopy_goes_its_own_way():
    net = Net()
    optimizer = graphsam(adamw(net))
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    train(net, optimizer, range(3))
    start = bits(net)
    twin_net, twin = copy.deepcopy((net, optimizer))
    train(net, optimizer, range(3, 8))
    assert bits(twin_net) == start
    train(twin_net, twin, range(3, 8))
    assert bits(twin_net) == bits(net)


# --- param groups, schedulers, hooks -------------------------------------------------------


@WRAPS
def test_a_scheduler_on_either_optimizer(wrap):
    def run(inner):
        net = Net()
        optimizer = wrap(adamw(net))
        target = optimizer.base if inner else optimizer
        scheduler = torch.optim.lr_scheduler.OneCycleLR(target, max_lr=0.05, total_steps=12)
        rates = []
        for t in range(10):
            train(net, optimizer, [t])
            scheduler.step()
            rates.append(optimizer.base.param_groups[0]["lr"])
        return bits(net), rates

    assert run(inner=True) == run(inner=False)
    assert len(set(run(inner=True)[1])) == 10


def test_param_groups_are_those_of_the_base():
    net = Net()
    base = adamw(net)
    lists = base.param_groups
    optimizer = graphsam(base)
    assert optimizer.param_groups is base.param_groups is lists
    late = [nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2)]
    optimizer.add_param_group({"params": late[:1], "rho": 0.3})
    base.add_param_group({"params": late[1:]})
    assert [group["rho"] for group in lists] == [0.1, 0.1, 0.3, 0.1]
    assert [group["beta"] for group in lists] == [0.8] * 4
    fresh_net = Net()
    fresh = graphsam(adamw(fresh_net))
    fresh.add_param_group({"params": [torch.ones(2, requires_grad=True)]})
    fresh.add_param_group({"params": [torch.ones(2, requires_grad=True)]})
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.param_groups is fresh.base.param_groups
    assert [group["rho"] for group in fresh.param_groups] == [0.1, 0.1, 0.3, 0.1]


def test_hooks_run_once_a_step():
    net, seen = Net(), []
    optimizer = sam(adamw(net))
    optimizer.register_step_post_hook(lambda *_: seen.append("outer"))
    optimizer.base.register_step_pre_hook(lambda *_: seen.append("base"))
    train(net, optimizer, range(2))
    assert seen == ["base", "outer"] * 2


def test_rho_schedule_is_a_closed_form():
    net = Net()
    base = adamw(net)
    base.param_groups[1]["rho"] = 0.4
    optimizer = graphsam(base)
    schedule = RhoSchedule(optimizer, gamma=0.5, epochs=2)
    for epoch in range(7):
        expected = [0.1 * 0.5 ** (epoch // 2), 0.4 * 0.5 ** (epoch // 2)]
        assert [group["rho"] for group in optimizer.param_groups] == pytest.approx(expected)
        schedule.step()
    optimizer.add_param_group({"params": [torch.ones(1, requires_grad=True)], "rho": 0.8})
    schedule.step()
    assert optimizer.param_groups[2]["rho"] == pytest.approx(0.8 * 0.5**4)


@pytest.mark.parametrize("schedule_first", [True, False])
def test_rho_schedule_restored_in_either_order(schedule_first):
    optimizer = sam(adamw(Net()))
    schedule = RhoSchedule(optimizer, gamma=0.5, epochs=1)
    schedule.step()
    schedule.step()
    saved = optimizer.state_dict(), schedule.state_dict()
    fresh = SAM(adamw(Net()), rho=0.7)
    if not schedule_first:
        fresh.load_state_dict(saved[0])
    again = RhoSchedule(fresh, gamma=0.5, epochs=1)
    if schedule_first:
        fresh.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    assert fresh.param_groups[0]["rho"] == pytest.approx(0.1 / 4)
    again.step()
    assert fresh.param_groups[0]["rho"] == pytest.approx(0.1 / 8)


def test_another_decay():
    optimizer = sam(adamw(Net()))
    decay = RhoDecay(optimizer, lambda epoch: 1 / (1 + epoch))
    decay.step()
    assert optimizer.param_groups[0]["rho"] == pytest.approx(0.05)


# --- policies of one's own -----------------------------------------------------------------


class RST(SharpnessAware):
    """SAM at random, else the base optimizer."""

    def __init__(self, base, *, rho, probability, generator):
        super().__init__(base, rho=rho)
        self.probability, self.generator = probability, generator

    def updating_gradient(self, gradient):
        eps = gradient()
        if torch.rand((), generator=self.generator) < self.probability:
            with self.perturbed(eps):
                gradient()


class ASAM(SharpnessAware):
    """eps_hat = rho * w^2 g / ||w g||."""

    def updating_gradient(self, gradient):
        g = gradient()
        scaled = Direction.of({p: p.abs() * x for p, x in g.tensors.items()})
        adapted = {p: p.abs() * x for p, x in scaled.tensors.items()}
        with self.perturbed(Direction(adapted, scaled.norm)):
            gradient()


@pytest.mark.parametrize(("probability", "gradients"), [(0.0, 20), (1.0, 40)])
def test_a_policy_at_random_between_its_limits(probability, gradients):
    net, other, calls = Net(), Net(), []
    generator = torch.Generator().manual_seed(0)
    rst = RST(adamw(net), rho=0.1, probability=probability, generator=generator)
    train(net, rst, range(20), calls)
    train(other, sam(adamw(other)) if probability else adamw(other), range(20))
    assert bits(net) == bits(other)
    assert len(calls) == gradients


def test_a_policy_with_a_norm_of_its_own():
    w = nn.Parameter(torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))
    optimizer = ASAM(torch.optim.SGD([w], lr=0.0), rho=0.1)
    slope, seen = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64), []

    def closure():
        optimizer.zero_grad()
        seen.append(w.detach().clone())
        (slope * w).sum().backward()

    optimizer.step(closure)
    expected = 0.1 * seen[0] ** 2 * slope / (seen[0] * slope).norm()
    torch.testing.assert_close(seen[1] - seen[0], expected)


# --- advice --------------------------------------------------------------------------------


def test_errors_advise():
    net = Net()
    with pytest.raises(ValueError, match=r"SAM wraps an optimizer instance.*AdamW\("):
        SAM(torch.optim.AdamW)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"rho=-0\.1 is no radius"):
        SAM(adamw(net), rho=-0.1)
    with pytest.raises(ValueError, match="rho=nan is no radius"):
        GraphSAM(adamw(net), rho=float("nan"))
    for beta in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"beta={beta} is no smoothing factor.*\[0, 1\)"):
            GraphSAM(adamw(net), beta=beta)
    with pytest.raises(ValueError, match=r"reuse_interval=0 .*1 is SAM"):
        GraphSAM(adamw(net), reuse_interval=0)
    with pytest.raises(ValueError, match=r"GraphSAM\.step needs a closure.*loss\.backward"):
        GraphSAM(adamw(net)).step()
    with pytest.raises(ValueError, match="rho=-1 is no radius"):
        GraphSAM(adamw(net)).add_param_group({"params": [], "rho": -1})
    with pytest.raises(ValueError, match="Adadelta already has an option 'rho'"):
        SAM(torch.optim.Adadelta(net.parameters()))
    with pytest.raises(ValueError, match="AdamW has no rho to decay"):
        RhoSchedule(adamw(net), gamma=0.5, epochs=1)
    with pytest.raises(ValueError, match="gamma=0 is no decay factor"):
        RhoSchedule(sam(adamw(net)), gamma=0, epochs=1)
    with pytest.raises(ValueError, match="epochs=0 is no number of epochs"):
        RhoSchedule(sam(adamw(net)), gamma=0.5, epochs=0)


def test_a_refused_group_changes_nothing():
    base = adamw(Net())
    base.param_groups[1]["rho"] = -1.0
    with pytest.raises(ValueError, match=r"rho=-1\.0"):
        GraphSAM(base)
    assert "rho" not in base.defaults
    assert "beta" not in base.param_groups[0]
