"""GraphSAM: sharpness-aware minimization at about the price of the base optimizer.

Wang et al., ICLR 2024, arXiv 2406.13137. The paper's equations are followed where its released
code departs from them. Here, unlike there,

1. the norm is taken of gradients that are there, so rho has its effect on every step;
2. there is one norm over all parameters, so the radius is rho on anchor and reuse steps alike;
3. the perturbation is not scaled by the weights: that is ASAM, another method;
4. the average takes in the updating gradient over its global norm, with nothing added to it;
5. the anchor may be kept raw, as in the paper and its release, or normalised (the default);
6. the decay of rho is a closed form in the epoch, not compounded from epoch to epoch;
7. the gradient is that of the loss the closure returns, not of half its square;
8. everything but the perturbation is the base optimizer's, whatever schedule it follows, so that
   methods can be compared with all else equal;
9. every param group is perturbed, tensors stay on their device, and the state is saved.
"""
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from .sharpness import Direction, SharpnessAware


class GraphSAM(SharpnessAware):
    """A moving average of updating gradients stands in for the perturbation gradient (eq. 3).

        eps_t     = grad L(w_t)  on an anchor step: one extra gradient
        eps_hat   = rho * eps_t / ||eps_t||_2
        omega_t   = grad L(w_t + eps_hat)
        w_{t+1}   = step of `base` from w_t with omega_t
        eps_{t+1} = beta * eps_t + (1 - beta) * omega_t / ||omega_t||_2

    Norms are global, over all parameters. `SharpnessAware` tells what all policies share.

    base -> any `torch.optim.Optimizer` instance.
    rho -> radius of the perturbation, >= 0; per group through the key `rho` of a param group.
    beta -> smoothing of the average, in [0, 1); per group through the key `beta`.
    reuse_interval -> anchor steps are those with t % reuse_interval == 0, so that 1 is `SAM`.
        None leaves them to the caller: the first step, and one step after `request_anchor()`.
        Called at the start of each epoch, that is the paper's setting.
    normalize_anchor -> the average starts from eps_t / ||eps_t||_2 rather than from eps_t itself.

    Deviation: eq. 3 starts the average from the raw gradient and feeds it unit vectors. With beta
    near 1 a first gradient of norm well above 1 then freezes its direction for an epoch, one of
    norm well below 1 is forgotten in a step, and a loss scale moves the method from one to the
    other. The normalised anchor is free of that; `normalize_anchor=False` is the paper's.

    The average, `state[p]["eps"]`, is held in float32 or wider, for updates of 1 - beta vanish in
    half precision. An anchor whose step is skipped is taken in the next.

    Raises ValueError for options out of range and for a base that is no optimizer instance.
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        beta: float = 0.99,
        reuse_interval: int | None = None,
        normalize_anchor: bool = True,
    ) -> None:
        if reuse_interval is not None and reuse_interval < 1:
            raise ValueError(
                f"reuse_interval={reuse_interval} is no number of steps; give an integer >= 1 "
                "(1 is SAM), or None for an anchor where request_anchor() asks for one"
            )
        super().__init__(base, rho=rho, beta=beta)
        self.reuse_interval = reuse_interval
        self.normalize_anchor = normalize_anchor
        self.counters["anchor_requested"] = True

    def check(self, group: dict) -> None:
        super().check(group)
        if not 0 <= group["beta"] < 1:
            raise ValueError(
                f"beta={group['beta']} is no smoothing factor; give a number in [0, 1): "
                "0 keeps the last updating gradient alone, 0.99 averages about a hundred"
            )

    @property
    def anchor_due(self) -> bool:
        """Whether the coming step takes a true perturbation gradient."""
        periodic = self.reuse_interval is not None and self.t % self.reuse_interval == 0
        return periodic or bool(self.counters["anchor_requested"])

    def request_anchor(self) -> None:
        """Make the coming step an anchor step."""
        self.counters["anchor_requested"] = True

    def updating_gradient(self, gradient: Callable[[], Direction]) -> None:
        anchor = self.anchor_due
        if anchor:
            eps = gradient()
            average = self._anchored(eps)
        else:
            average = {p: self.state[p]["eps"] for p in self.trainable() if self.state.get(p)}
            eps = Direction.of(average)
        with self.perturbed(eps):
            omega = gradient()
        if anchor:
            self.state.clear()
            self.counters["anchor_requested"] = False
        self._mix(average, omega)
        for p, tensor in average.items():
            self.state[p]["eps"] = tensor

    def _anchored(self, eps: Direction) -> dict[Tensor, Tensor]:
        average = {p: _zeros(p) for p in eps.tensors}
        scale = eps.scale if self.normalize_anchor else 1.0
        if average:
            torch._foreach_add_(list(average.values()), list(eps.tensors.values()), alpha=scale)
        return average

    def _mix(self, average: dict[Tensor, Tensor], omega: Direction) -> None:
        """average <- beta * average + (1 - beta) * omega / ||omega||, in place."""
        average.update({p: _zeros(p) for p in omega.tensors if p not in average})
        for group, params in self.rows(average):
            torch._foreach_mul_([average[p] for p in params], group["beta"])
        for group, params in self.rows(omega.tensors):
            gradients = [omega.tensors[p] for p in params]
            alpha = (1 - group["beta"]) * omega.scale
            torch._foreach_add_([average[p] for p in params], gradients, alpha=alpha)


def _zeros(p: Tensor) -> Tensor:
    return torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))


class RhoDecay:
    """rho = rho_0 * factor(epoch) in each param group; `step()` once an epoch.

    rho_0 is the radius a group had when first seen here; it is kept in the group as
    `initial_rho` and so travels with the optimizer's state_dict.

    optimizer -> any `SharpnessAware` optimizer, or its base.
    factor -> function of the epoch, 0 for the first.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        if not all("rho" in group for group in optimizer.param_groups):
            raise ValueError(
                f"{type(optimizer).__name__} has no rho to decay; pass the optimizer that "
                "perturbs, such as GraphSAM(base), and construct it first"
            )
        self.optimizer = optimizer
        self.factor = factor
        self.epoch = 0
        self._apply()

    def step(self) -> None:
        """Go on to the next epoch."""
        self.epoch += 1
        self._apply()

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.epoch = state_dict["epoch"]
        self._apply()

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            rho_0 = group.setdefault("initial_rho", group["rho"])
            group["rho"] = rho_0 * self.factor(self.epoch)


class RhoSchedule(RhoDecay):
    """rho = rho_0 * gamma^floor(epoch / lambda) (GraphSAM, eq. 4), closed form.

    optimizer -> any `SharpnessAware` optimizer, or its base.
    gamma -> factor, > 0; the paper's release has 0.5.
    lambda -> epochs, the number of epochs between two changes, >= 1; its release has 1.
    """

    def __init__(self, optimizer: Optimizer, *, gamma: float, epochs: int) -> None:
        if not 0 < gamma < math.inf:
            raise ValueError(f"gamma={gamma} is no decay factor; give one > 0: 1 keeps rho as is")
        if epochs < 1:
            raise ValueError(f"epochs={epochs} is no number of epochs; give an integer >= 1")
        super().__init__(optimizer, lambda epoch: gamma ** (epoch // epochs))
