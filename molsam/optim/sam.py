"""SAM: sharpness-aware minimization with a true perturbation gradient in every step."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer

from .sharpness import Direction, SharpnessAware


class SAM(SharpnessAware):
    """Two gradients a step (Foret et al., ICLR 2021, eq. 2 with p = 2, and algorithm 1).

        eps_t   = grad L(w_t)
        omega_t = grad L(w_t + rho * eps_t / ||eps_t||_2)
        w_{t+1} = step of `base` from w_t with omega_t

    The norm is one over all parameters. `SharpnessAware` tells what all policies share.

    base -> any `torch.optim.Optimizer` instance.
    rho -> radius of the perturbation, >= 0; per group through the key `rho` of a param group.

    Raises ValueError for a negative rho and for a base that is no optimizer instance.
    """

    def __init__(self, base: Optimizer, *, rho: float = 0.05) -> None:
        super().__init__(base, rho=rho)

    def updating_gradient(self, gradient: Callable[[], Direction]) -> None:
        eps = gradient()
        with self.perturbed(eps):
            gradient()
