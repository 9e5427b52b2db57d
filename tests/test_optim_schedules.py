"""Schedules: torch's own where it has them, values by hand, and what all of them share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from molsam.optim.schedules import SCHEDULES, constant, cosine, noam, one_cycle

STEPS = 100
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def factors(make, steps=STEPS):
    """What a scheduler of torch's makes of a learning rate of 1, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_one_cycle_is_torchs():
    """torch counts STEPS + 1 steps, and ends the warm-up a step before their share."""
    share = 31 / (STEPS + 1)
    twin = factors(
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.0, STEPS + 1, pct_start=share)
    )
    assert [one_cycle(k / STEPS, 0.3) for k in range(STEPS + 1)] == pytest.approx(twin)


def test_cosine_is_torchs_after_a_linear_warm_up():
    twin = factors(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, STEPS))
    assert [cosine(k / STEPS, 0.0) for k in range(STEPS + 1)] == pytest.approx(twin, abs=1e-12)
    assert [cosine(t, 0.4) for t in (0.0, 0.1, 0.3, 0.4, 0.7)] == pytest.approx(
        [0, 0.25, 0.75, 1, 0.5]
    )


def test_constant_warms_up_linearly():
    assert [constant(t, 0.4) for t in (0.0, 0.1, 0.4, 1.0)] == pytest.approx([0, 0.25, 1, 1])
    assert [constant(t, 0.0) for t in (0.0, 0.5, 1.0)] == [1, 1, 1]


def test_noam_is_linear_and_then_geometric():
    """The paper's runs: 1e-4 to 1e-3 in the warm-up, and back by one factor a step."""
    rising = [1e-3 * noam(t, 0.5) for t in np.linspace(0, 0.5, 6)]
    assert rising == pytest.approx(np.linspace(1e-4, 1e-3, 6))
    falling = [1e-3 * noam(t, 0.5) for t in np.linspace(0.5, 1, 6)]
    assert falling == pytest.approx(np.geomspace(1e-3, 1e-4, 6))
    assert noam(0.0, 0.2, low=0.01) == noam(1.0, 0.2, low=0.01) == pytest.approx(0.01)


@every_schedule
@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.5, 1.0])
def test_a_schedule_rises_to_one_and_falls_no_lower_than_zero(schedule, warmup):
    rising = [schedule(t, warmup) for t in np.linspace(0, warmup, 20)]
    falling = [schedule(t, warmup) for t in np.linspace(warmup, 1, 20)]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert rising[-1] == falling[0] == pytest.approx(1)
    assert min(rising + falling) >= 0


@every_schedule
def test_a_schedule_does_not_jump(schedule):
    found = np.array([schedule(t, 0.3) for t in np.linspace(0, 1, 1001)])
    assert np.abs(np.diff(found)).max() < 0.01


def test_a_cycle_and_a_cosine_stay_at_their_ends():
    """Rounding may bring the share of training a little above 1."""
    assert one_cycle(1.2, 0.3) == pytest.approx(4e-6)
    assert cosine(1.2, 0.3) == 0
    assert math.isclose(one_cycle(0.0, 0.3), 0.04)
