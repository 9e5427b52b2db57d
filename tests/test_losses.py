"""Losses: values by hand, torch's own where nothing is missing, and no trace of what is."""

from __future__ import annotations

import math
import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from molsam import losses
from molsam.losses import KINDS, LOSSES

RELAXED = settings(deadline=None, max_examples=15)
POISONS = [math.nan, math.inf, -math.inf, 1e30, -7.0]
CLASSES = 3


def example(name: str, seed: int, shape: tuple[int, int] = (5, 4)):
    """Random predictions that ask for a gradient, labels of the kind the loss serves, a mask."""
    generator = torch.Generator().manual_seed(seed)
    kind = KINDS[name]
    size = (*shape, CLASSES) if kind == "multiclass" else shape
    prediction = torch.randn(size, generator=generator).requires_grad_()
    y = torch.randn(shape, generator=generator)
    if kind != "regression":
        y = torch.randint(CLASSES if kind == "multiclass" else 2, shape, generator=generator) * 1.0
    return prediction, y, torch.rand(shape, generator=generator) < 0.6


def value_and_gradient(loss, prediction, y, mask):
    prediction = prediction.detach().clone().requires_grad_()
    value = loss(prediction, y, mask)
    value.backward()
    return value.detach(), prediction.grad


every_loss = pytest.mark.parametrize("name", LOSSES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mse", (0.25 + 9) / 2),
        ("mae", (0.5 + 3) / 2),
        ("huber", (0.125 + 2.5) / 2),
        ("bce", (math.log(1 + math.exp(-1.5)) + math.log(1 + math.exp(-2))) / 2),
    ],
)
def test_by_hand(name, expected):
    """Errors .5 and -3 (labels 1 and 0 for the logits 1.5 and -2); the third label is missing."""
    prediction = torch.tensor([[1.5, -2.0, 4.0]])
    y = torch.tensor([[1.0, 1.0, math.nan]])
    if name == "bce":
        y[0, 1] = 0
    loss = LOSSES[name](prediction, y, torch.tensor([[True, True, False]]))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_by_hand():
    prediction = torch.tensor([[[0.0, 0.0, math.log(2)], [9.0, 9.0, 9.0]]])  # 1/4 1/4 1/2
    y = torch.tensor([[2.0, math.nan]])
    mask = torch.tensor([[True, False]])
    assert losses.cross_entropy(prediction, y, mask).item() == pytest.approx(math.log(2))
    weight = torch.tensor([1.0, 1.0, 3.0])
    weighted = losses.cross_entropy(prediction, y, mask, weight=weight)
    assert weighted.item() == pytest.approx(3 * math.log(2))


TWINS = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
    "bce": F.binary_cross_entropy_with_logits,
    "cross_entropy": lambda p, y: F.cross_entropy(p.reshape(-1, CLASSES), y.long().flatten()),
}


@every_loss
def test_nothing_missing_is_torchs_mean(name):
    prediction, y, mask = example(name, 0)
    everything = torch.ones_like(mask)
    assert LOSSES[name](prediction, y, everything).item() == pytest.approx(
        TWINS[name](prediction, y).item(), rel=1e-6
    )


@every_loss
def test_missing_labels_are_as_if_left_out(name):
    prediction, y, mask = example(name, 1)
    left = prediction[mask].unsqueeze(1), y[mask].unsqueeze(1), mask[mask].unsqueeze(1)
    assert LOSSES[name](prediction, y, mask).item() == pytest.approx(
        LOSSES[name](*left).item(), rel=1e-6
    )


@every_loss
@RELAXED
@given(seed=st.integers(0, 10_000), poison=st.sampled_from(POISONS))
def test_hidden_entries_never_matter(name, seed, poison):
    """What lies outside the mask, in labels or in predictions, changes no bit of the result."""
    prediction, y, mask = example(name, seed)
    clean = value_and_gradient(LOSSES[name], prediction, y, mask)
    hidden = torch.where(mask, y, poison)
    spoilt = prediction.detach().clone()
    spoilt[~mask] = poison
    for p, labels in ((prediction, hidden), (spoilt, y), (spoilt, hidden)):
        value, gradient = value_and_gradient(LOSSES[name], p, labels, mask)
        assert torch.equal(value, clean[0])
        assert torch.equal(gradient, clean[1])
    assert (clean[1][~mask] == 0).all()


@every_loss
def test_visible_labels_matter(name):
    prediction, y, mask = example(name, 2)
    mask[0, 0] = True
    changed = y.clone()
    changed[0, 0] = 1 - y[0, 0] if KINDS[name] == "binary" else (y[0, 0] + 1) % CLASSES
    assert LOSSES[name](prediction, y, mask) != LOSSES[name](prediction, changed, mask)


@every_loss
@pytest.mark.parametrize("poison", [0.0, math.nan])
def test_no_known_label_is_zero_with_a_gradient(name, poison):
    prediction, y, mask = example(name, 3)
    value, gradient = value_and_gradient(
        LOSSES[name], prediction, torch.full_like(y, poison), torch.zeros_like(mask)
    )
    assert value == 0
    assert (gradient == 0).all()


@every_loss
def test_gradients_are_the_derivatives(name):
    prediction, y, mask = example(name, 4)
    double = prediction.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: LOSSES[name](p, y.double(), mask), double)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_float32(name, dtype):
    prediction, y, mask = example(name, 5, (200, 12))
    half = prediction.detach().to(dtype)
    value = LOSSES[name](half, y, mask)
    assert value.dtype == torch.float32
    assert torch.equal(value, LOSSES[name](half.float(), y, mask))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_the_type_of_labels_does_not_matter(name, dtype):
    prediction, y, mask = example(name, 8)
    y = y.round()
    value = LOSSES[name](prediction, y.to(dtype), mask)
    assert value.dtype == torch.float32
    assert torch.equal(value, LOSSES[name](prediction, y, mask))


@every_loss
def test_shapes_must_agree(name):
    prediction, y, mask = example(name, 6)
    shapes = re.escape(f"their shapes are {tuple(prediction.shape)}, (5, 1), (5, 1)")
    with pytest.raises(ValueError, match=shapes):
        LOSSES[name](prediction, y[:, :1], mask[:, :1])
    with pytest.raises(ValueError, match="their shapes are"):
        LOSSES[name](prediction, y, mask[:1])


def test_positive_weights_by_hand():
    columns = [[1, 0, 0, 0], [0, 0, 0, 1], [0, math.nan, 1, 0], [1, 1, 1, math.nan], [0, 0, 0, 0]]
    y = torch.tensor(columns).T
    mask = ~y.isnan()
    mask[3, 2] = False
    assert losses.positive_weights(y, mask).tolist() == [3, 3, 1, 1, 1]


def test_positive_weights_of_a_single_label_on_one_side():
    y = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    assert losses.positive_weights(y, torch.ones(3, 2, dtype=torch.bool)).tolist() == [0.5, 2]


def test_positive_weights_balance_the_classes():
    """With them, predicting the same for all pulls equally to both sides."""
    _, y, mask = example("bce", 7, (500, 3))
    y[:, 0] = (torch.arange(500) % 50 == 0) * 1.0
    weighted = partial(losses.bce, pos_weight=losses.positive_weights(y, mask))
    _, gradient = value_and_gradient(weighted, torch.zeros(500, 3), y, mask)
    torch.testing.assert_close(gradient.sum(0), torch.zeros(3), atol=1e-6, rtol=0)
    _, plain = value_and_gradient(losses.bce, torch.zeros(500, 3), y, mask)
    assert plain.sum(0)[0] > 0.1


def test_each_kind_has_a_default_that_serves_it():
    assert KINDS.keys() == LOSSES.keys()
    for kind in ("regression", "binary", "multiclass"):
        assert KINDS[losses.default_loss(kind)] == kind
