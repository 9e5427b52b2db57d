"""molsam.optim: param groups, schedulers, hooks, policies of one's own, advice."""

from __future__ import annotations

import pytest
import torch
from optim_problem import (
    Net,
    adamw,
    bits,
    graphsam,
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
    Diagnostics,
    Direction,
    GraphSAM,
    LookSAM,
    RhoDecay,
    RhoSchedule,
    SAMk,
    SAMOne,
    SharpnessAware,
)

# --- param groups, schedulers, hooks -------------------------------------------------------


@policies()
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


@policies()
def test_hooks_run_once_a_step(wrap):
    net, seen = Net(), []
    optimizer = wrap(adamw(net))
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


def test_the_first_radius_is_kept_in_the_group():
    """Under the name `initial_rho`, by which saved states of all versions hand it on."""
    optimizer = sam(adamw(Net()))
    optimizer.param_groups[1]["initial_rho"] = 0.4
    RhoSchedule(optimizer, gamma=0.5, epochs=1).step()
    assert [group["initial_rho"] for group in optimizer.param_groups] == [0.1, 0.4]
    assert [group["rho"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.2])


def test_a_schedule_saves_its_epoch_under_its_name():
    schedule = RhoSchedule(sam(adamw(Net())), gamma=0.5, epochs=1)
    schedule.step()
    assert schedule.state_dict() == {"epoch": 1}


def test_another_decay():
    optimizer = sam(adamw(Net()))
    decay = RhoDecay(optimizer, lambda epoch: 1 / (1 + epoch))
    decay.step()
    assert optimizer.param_groups[0]["rho"] == pytest.approx(0.05)


# --- policies of one's own -----------------------------------------------------------------


class Elementwise(SharpnessAware):
    """eps_hat = rho * w^2 g / ||w g||: ASAM with an eta of 0."""

    def updating_gradient(self, gradient):
        g = gradient()
        scaled = Direction.of({p: p.abs() * x for p, x in g.tensors.items()})
        adapted = {p: p.abs() * x for p, x in scaled.tensors.items()}
        with self.perturbed(Direction(adapted, scaled.norm)):
            gradient()


def test_a_policy_with_a_norm_of_its_own():
    w = nn.Parameter(torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))
    optimizer = Elementwise(torch.optim.SGD([w], lr=0.0), rho=0.1)
    slope, seen = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64), []

    def closure():
        optimizer.zero_grad()
        seen.append(w.detach().clone())
        (slope * w).sum().backward()

    optimizer.step(closure)
    expected = 0.1 * seen[0] ** 2 * slope / (seen[0] * slope).norm()
    torch.testing.assert_close(seen[1] - seen[0], expected)


class EveryOther(SharpnessAware):
    """SAM in even steps, else the base."""

    def updating_gradient(self, gradient):
        eps = gradient()
        if self.t % 2 == 0:
            with self.perturbed(eps):
                gradient()


def test_a_policy_of_a_few_lines():
    net, other, calls = Net(), Net(), []
    base = adamw(other)
    policies_in_turn = SAM(base, rho=0.1), base
    train(net, EveryOther(adamw(net), rho=0.1), range(10), calls)
    for t in range(10):
        train(other, policies_in_turn[t % 2], [t])
    assert bits(net) == bits(other)
    assert len(calls) == 15


# --- advice --------------------------------------------------------------------------------


ADVICE = {
    r"SAM wraps an optimizer instance.*AdamW\(": lambda net: SAM(torch.optim.AdamW),  # pyright: ignore[reportArgumentType]
    r"rho=-0\.1 is no radius": lambda net: SAM(adamw(net), rho=-0.1),
    r"rho=nan is no radius": lambda net: GraphSAM(adamw(net), rho=float("nan")),
    r"rho=inf is no radius": lambda net: MSAM(adamw(net), rho=float("inf")),
    r"beta=-0\.1 is no smoothing factor.*\[0, 1\)": lambda net: GraphSAM(adamw(net), beta=-0.1),
    r"beta=1\.0 is no smoothing factor": lambda net: GraphSAM(adamw(net), beta=1.0),
    r"reuse_interval=0 .*1 is SAM": lambda net: GraphSAM(adamw(net), reuse_interval=0),
    r"reuse_interval=-1 ": lambda net: SAMk(adamw(net), reuse_interval=-1),
    r"reuse_interval=0 is no": lambda net: LookSAM(adamw(net), reuse_interval=0),
    r"start=-1 is no step.*0 perturbs at once": lambda net: SAMOne(adamw(net), start=-1),
    r"start=-2 is no step": lambda net: S2SAM(adamw(net), start=-2),
    r"probability=1\.5 is none.*0 is the base": lambda net: RST(adamw(net), probability=1.5),
    r"probability=nan is none": lambda net: RST(adamw(net), probability=float("nan")),
    r"steps=0 is no length.*from step 0 on": lambda net: AESAM(adamw(net), steps=0),
    r"steps=9 is no length.*from step 9 on": lambda net: AESAM(adamw(net), steps=9, start=9),
    r"delta=1\.0 is no smoothing factor": lambda net: AESAM(adamw(net), steps=9, delta=1.0),
    r"lambda_2=-inf have to be finite": lambda net: AESAM(
        adamw(net), steps=9, lambda_2=-float("inf")
    ),
    r"lambda_1=nan and lambda_2=1.0 have to be finite": lambda net: AESAM(
        adamw(net), steps=9, lambda_1=float("nan")
    ),
    r"delta=-0.1 is no smoothing": lambda net: AESAM(adamw(net), steps=9, delta=-0.1),
    r"probability=-0.1 is none": lambda net: RST(adamw(net), probability=-0.1),
    r"alpha=inf is no weight": lambda net: LookSAM(adamw(net), alpha=float("inf")),
    r"gamma=inf is no decay factor": lambda net: RhoSchedule(
        sam(adamw(net)), gamma=float("inf"), epochs=1
    ),
    r"alpha=nan is no weight": lambda net: LookSAM(adamw(net), alpha=float("nan")),
    r"alpha=-1 is no weight": lambda net: LookSAM(adamw(net), alpha=-1),
    r"adaptive=1 is neither True nor False": lambda net: SAM(adaptive_by(1, adamw(net))),
    r"every=0 is no number of steps": lambda net: Diagnostics(sam(adamw(net)), every=0),
    r"momentum=0 leaves MSAM no direction.*0\.9.*AdamW": lambda net: MSAM(
        torch.optim.SGD(net.parameters(), lr=0.1)
    ),
    r"momentum=0 leaves": lambda net: MSAM(torch.optim.RMSprop(net.parameters())),
    r"GraphSAM\.step needs a closure.*loss\.backward": lambda net: GraphSAM(adamw(net)).step(),
    r"rho=-1 is no radius": lambda net: GraphSAM(adamw(net)).add_param_group(
        {"params": [], "rho": -1}
    ),
    r"adaptive='yes' is neither": lambda net: ASAM(adamw(net)).add_param_group(
        {"params": [], "adaptive": "yes"}
    ),
    r"Adadelta already has an option 'rho'": lambda net: SAM(
        torch.optim.Adadelta(net.parameters())
    ),
    r"AdamW already has an option 'adaptive': it was wrapped": lambda net: SAM(
        sam(adamw(net)).base
    ),
    r"AdamW has no rho to decay": lambda net: RhoSchedule(adamw(net), gamma=0.5, epochs=1),
    r"gamma=0 is no decay factor": lambda net: RhoSchedule(sam(adamw(net)), gamma=0, epochs=1),
    r"epochs=0 is no number": lambda net: RhoSchedule(sam(adamw(net)), gamma=0.5, epochs=0),
}


def adaptive_by(value, base):
    base.param_groups[1]["adaptive"] = value
    return base


@pytest.mark.parametrize("advice", ADVICE)
def test_errors_advise(advice):
    with pytest.raises(ValueError, match=advice):
        ADVICE[advice](Net())


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("base_of", [torch.optim.Adagrad, torch.optim.Rprop])
def test_msam_of_a_base_without_momentum_advises(base_of, start):
    """It shows once the base has a state; the weights are as they were."""
    net, before = Net(), []
    optimizer = MSAM(base_of(net.parameters(), lr=0.01), start=start)

    def run():
        for t in range(start + 2):
            before.append(bits(net))
            train(net, optimizer, [t])

    with pytest.raises(ValueError, match=rf"{base_of.__name__} keeps none of .*AdamW"):
        run()
    assert bits(net) == before[-1]
    assert optimizer.t == len(before) - 1


def test_msam_waits_for_a_first_gradient():
    net = Net()
    optimizer = MSAM(torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9))
    for _ in range(3):
        optimizer.step(optimizer.zero_grad)
    train(net, optimizer, range(2))
    assert optimizer.t == 5


@policies()
def test_a_step_without_a_closure_advises(wrap):
    optimizer = wrap(adamw(Net()))
    with pytest.raises(ValueError, match=r"\.step needs a closure.*zero_grad.*loss\.backward"):
        optimizer.step()


def test_a_refused_group_changes_nothing():
    base = adamw(Net())
    base.param_groups[1]["rho"] = -1.0
    with pytest.raises(ValueError, match=r"rho=-1\.0"):
        GraphSAM(base)
    assert "rho" not in base.defaults
    assert "beta" not in base.param_groups[0]
