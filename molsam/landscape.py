"""A loss at the weights and around them: eigenvalue and trace of its Hessian, values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Terms = Sequence[Callable[[], Tensor]]


def top_eigenvalue(
    terms: Terms,
    parameters: Sequence[Tensor],
    *,
    generator: torch.Generator,
    tolerance: float = 1e-3,
    iterations: int = 200,
) -> float:
    """The largest eigenvalue of the Hessian H of `sum(term() for term in terms)`.

        v <- H v / ||H v||_2,    lambda = v^T H v

    until lambda changes by less than `tolerance` of itself (power iteration). It finds the
    eigenvalue of largest magnitude; if that one is negative, the iteration runs again on
    H - lambda I, whose largest is positive. H v is the gradient of <grad L, v> (Pearlmutter,
    Neural Computation 1994), so a product costs about three gradients.

    terms -> functions that give parts of a loss at the present weights, one in memory at a time;
        the model should be in evaluation mode, so that each call gives the same value.
    parameters -> tensors with `requires_grad`, in which H is taken; their `.grad` is not touched.
    generator -> draws the first v, on the device of the parameters.
    """
    v = [torch.empty_like(p, requires_grad=False).normal_(generator=generator) for p in parameters]
    largest = _iterate(terms, parameters, v, 0.0, tolerance, iterations)
    if largest >= 0:
        return largest
    return largest + _iterate(terms, parameters, v, largest, tolerance, iterations)


def trace(
    terms: Terms, parameters: Sequence[Tensor], *, generator: torch.Generator, samples: int = 32
) -> tuple[float, float]:
    """The trace of the Hessian H of the sum of `terms`, and its standard error.

        tr H = E[v^T H v],    v_i = +-1 with equal chances

    over `samples` draws of v (Hutchinson, Commun. Stat. 18, 1989, 1059). Arguments as in
    `top_eigenvalue`.
    """
    found = []
    for _ in range(samples):
        v = [
            torch.empty_like(p, requires_grad=False).bernoulli_(0.5, generator=generator) * 2 - 1
            for p in parameters
        ]
        found.append(_dot(v, hessian_product(terms, parameters, v)))
    spread = torch.tensor(found, dtype=torch.float64)
    return float(spread.mean()), float(spread.std()) / samples**0.5


def filter_normalized(parameters: Sequence[Tensor], *, generator: torch.Generator) -> list[Tensor]:
    """A random direction d on the scale of the weights w, filter by filter:

        d_i <- d_i ||w_i||_2 / ||d_i||_2,    d_i normal

    with w_i the weights into one unit, a row of a matrix (Li et al., NeurIPS 2018, section 4). So
    directions of models whose weights differ in scale can be compared. Vectors of parameters
    (biases, norms) have no filters and stay as they are: d is 0 there, as in the paper.
    """
    direction = []
    for w in parameters:
        d = torch.empty_like(w, requires_grad=False).normal_(generator=generator)
        if w.dim() < 2:
            direction.append(torch.zeros_like(d))
            continue
        filters = tuple(range(1, w.dim()))
        norm = torch.linalg.vector_norm
        scale = norm(w.detach(), dim=filters, keepdim=True) / norm(d, dim=filters, keepdim=True)
        direction.append(d * scale)
    return direction


def losses_along(
    terms: Terms,
    parameters: Sequence[Tensor],
    directions: Sequence[Sequence[Tensor]],
    places: Sequence[Sequence[float]],
) -> list[float]:
    """L(w + sum_k a_k d_k) for each place (a_1, ..., a_K); the weights are w again at the end.

    directions -> K, each with a tensor a parameter; terms -> as in `top_eigenvalue`.
    """
    weights = [p.detach().clone() for p in parameters]
    found = []
    with torch.no_grad():
        try:
            for place in places:
                for at, (p, w) in enumerate(zip(parameters, weights, strict=True)):
                    p.copy_(w + sum(a * d[at] for a, d in zip(place, directions, strict=True)))
                found.append(sum(float(term()) for term in terms))
        finally:
            for p, w in zip(parameters, weights, strict=True):
                p.copy_(w)
    return found


def _iterate(
    terms: Terms,
    parameters: Sequence[Tensor],
    v: list[Tensor],
    shift: float,
    tolerance: float,
    iterations: int,
) -> float:
    """The eigenvalue of largest magnitude of H - shift I, starting from `v`."""
    found = math.nan
    norm = _dot(v, v) ** 0.5
    for _ in range(iterations):
        v = [x / norm for x in v]
        product = hessian_product(terms, parameters, v)
        product = [hv - shift * x for hv, x in zip(product, v, strict=True)]
        before, found = found, _dot(v, product)
        norm = _dot(product, product) ** 0.5
        if norm == 0 or abs(found - before) <= tolerance * abs(found):
            break
        v = product
    return found


def hessian_product(
    terms: Terms, parameters: Sequence[Tensor], v: Sequence[Tensor]
) -> list[Tensor]:
    """H v of the sum of `terms`, as in `top_eigenvalue`."""
    total = [torch.zeros_like(p) for p in parameters]
    for term in terms:
        # neither fused attention nor cuDNN's GRU can be differentiated twice
        cudnn_off = torch.backends.cudnn.flags(enabled=False)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), cudnn_off:
            gradient = torch.autograd.grad(
                term(), parameters, create_graph=True, materialize_grads=True
            )
            curved = [(g, x) for g, x in zip(gradient, v, strict=True) if g.requires_grad]
            if not curved:  # a linear loss
                continue
            outputs, directions = zip(*curved, strict=True)
            part = torch.autograd.grad(outputs, parameters, directions, materialize_grads=True)
        total = [x + y for x, y in zip(total, part, strict=True)]
    return total


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    wide = torch.float32 if a[0].device.type == "mps" else torch.float64  # MPS has no float64
    return float(sum((x * y).sum(dtype=wide) for x, y in zip(a, b, strict=True)))
