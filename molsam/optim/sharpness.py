"""The perturbation that every sharpness-aware policy shares, around any torch optimizer."""
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

Loss = TypeVar("Loss")

LONGEST_SUM = 2**16  # a CPU's float32 sum of 3M squares is off by 6e-5, of these by 1e-7
SMALLEST_NORM = torch.finfo(torch.float32).tiny  # below it, 1 / norm leaves float32


class NonFiniteGradient(ArithmeticError):
    """A gradient holds NaN or infinity; `SharpnessAware.step` turns it into a skipped step."""


class Direction(NamedTuple):
    """A vector over the parameters: `tensors[p]` for each parameter `p` it reaches, and a norm.

    The perturbation along it is `rho * tensors / norm`. `norm` is the global L2 norm, unless a
    policy measures its vector otherwise.
    """

    tensors: Mapping[Tensor, Tensor]
    norm: float

    @classmethod
    def of(cls, tensors: Mapping[Tensor, Tensor]) -> Direction:
        return cls(tensors, global_norm(list(tensors.values())))

    @property
    def scale(self) -> float:
        """`1 / norm`; 0 for the zero vector, whose perturbation is zero and not NaN."""
        return 1 / self.norm if self.norm > SMALLEST_NORM else 0.0


def global_norm(tensors: Sequence[Tensor]) -> float:
    """||x||_2 of all `tensors` as one vector, summed in float32 or wider; 0 for no tensors.

    Costs one host synchronisation, however many tensors there are.
    """
    # CUDA before torch 2.6 mixes up the norms where a list has empty tensors: leave them out.
    pieces = [piece for x in tensors if x.numel() for piece in x.flatten().split(LONGEST_SUM)]
    if not pieces:
        return 0.0
    dtype = reduce(torch.promote_types, {x.dtype for x in pieces}, torch.float32)
    norms = torch._foreach_norm(pieces, 2, dtype=dtype)
    device = norms[0].device
    return torch.linalg.vector_norm(torch.stack([norm.to(device) for norm in norms])).item()


@torch.no_grad()
def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    if sources:
        torch._foreach_copy_(targets, sources)


class SharpnessAware(Optimizer, ABC):
    """Steps of `base` with gradients taken at perturbed weights.

        eps_hat = rho * eps / ||eps||_2     one norm over all parameters of all groups
        omega   = grad L(w + eps_hat)       the updating gradient
        w       = step of `base` from w with omega

    A policy is a subclass. It implements `updating_gradient`, which says *when* a true
    perturbation gradient is taken for `eps` and *what* stands in for it otherwise:

        class SAM(SharpnessAware):
            def updating_gradient(self, gradient):
                eps = gradient()
                with self.perturbed(eps):
                    gradient()

    Memory that lasts from step to step belongs in `self.state[p]` (tensors) and `self.counters`
    (numbers), and is changed after the last `gradient()` only, so that a skipped step leaves it
    alone. Options given as `defaults` become values of each param group.

    The weights come back bit for bit before `base` steps, and whenever the closure raises. Only
    parameters with `requires_grad` are perturbed; those without a gradient count as zero. A step
    whose gradients are not finite is skipped: `base` does not step, `skipped` goes up by one,
    nothing else changes. Clip and accumulate gradients inside the closure; with float16, scale
    there too and let each call settle its own scale:

        scaler.scale(loss).backward(); scaler.unscale_(optimizer); scaler.update()

    Under DistributedDataParallel all ranks see the averaged gradient, hence one perturbation.

    base -> any `torch.optim.Optimizer` instance; `param_groups` and `defaults` are its own, so
        learning-rate schedulers and hooks may be attached to either optimizer.
    rho -> radius of the perturbation, >= 0; per group through the key `rho` of a param group.
    """

    base: Optimizer
    counters: dict[str, int]

    def __init__(self, base: Optimizer, **defaults: float) -> None:
        name = type(self).__name__
        if not isinstance(base, Optimizer):
            raise ValueError(
                f"{name} wraps an optimizer instance, not {base!r}; "
                f"try {name}(torch.optim.AdamW(model.parameters(), lr=1e-3), rho=0.05)"
            )
        if taken := sorted(defaults.keys() & base.defaults.keys()):
            raise ValueError(
                f"{type(base).__name__} already has an option {taken[0]!r}: it was wrapped before "
                f"or uses the name for itself; give {name} a fresh optimizer or another kind"
            )
        for group in base.param_groups:
            self.check({**defaults, **group})
        for options in (base.defaults, *base.param_groups):
            options.update({**defaults, **options})
        # Optimizer.__init__ would build param groups of its own; restoring a state does the rest.
        self.__setstate__(
            {
                "base": base,
                "defaults": base.defaults,
                "state": defaultdict(dict),
                "counters": {"t": 0, "skipped": 0},
            }
        )

    def __getstate__(self) -> dict[str, Any]:
        """What `copy.deepcopy` and pickle keep: as for torch's optimizers, no hooks."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._backup: dict[Tensor, Tensor] = {}
        self._displaced: list[Tensor] = []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The param groups of `base` themselves."""
        return self.base.param_groups

    @property
    def t(self) -> int:
        """Steps taken; a skipped step is not one."""
        return self.counters["t"]

    @property
    def skipped(self) -> int:
        """Steps skipped because a gradient was not finite."""
        return self.counters["skipped"]

    def check(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError if `group` has an option no step could use; policies add their own."""
        if not 0 <= group["rho"] < math.inf:
            raise ValueError(
                f"rho={group['rho']} is no radius; give a finite number >= 0: "
                "0.05 is a usual start, 0 turns the perturbation off"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.check({**self.defaults, **param_group})
        self.base.add_param_group(param_group)

    @abstractmethod
    def updating_gradient(self, gradient: Callable[[], Direction]) -> None:
        """Leave in `.grad` the gradient that `base` shall step with.

        gradient -> calls the closure at the weights as they are now; returns what it left in the
            `.grad` of the trainable parameters: the tensors themselves, valid until the next call.
        """

    @torch.no_grad()
    def step(self, closure: Callable[[], Loss] | None = None) -> Loss:
        """One step of the base optimizer; returns what the first call of `closure` returned.

        closure -> zeroes the gradients, evaluates the loss, calls `backward`, returns the loss.
            It is called once for every gradient the policy takes.
        """
        if closure is None:
            raise ValueError(
                f"{type(self).__name__}.step needs a closure, for it takes gradients at perturbed "
                "weights; pass a function that calls zero_grad, computes the loss, calls "
                "loss.backward() and returns the loss"
            )
        losses: list[Loss] = []

        def gradient() -> Direction:
            with torch.enable_grad():
                losses.append(closure())
            return self._gradient()

        try:
            self.updating_gradient(gradient)
        except NonFiniteGradient:
            self.counters["skipped"] += 1
        else:
            self.base.step()
            self.counters["t"] += 1
        finally:
            self._restore()  # left to do only where an interrupt hit `perturbed` on its way out
        return losses[0]

    @contextmanager
    def perturbed(self, direction: Direction) -> Iterator[None]:
        """Inside, the weights are w + rho * direction / norm, with the rho of each group."""
        moves = [
            (params, [direction.tensors[p] for p in params], alpha)
            for group, params in self.rows(direction.tensors)
            if (alpha := group["rho"] * direction.scale)
        ]
        weights = [p for params, _, _ in moves for p in params]
        _copy(weights, [self._backup_of(p) for p in weights])
        self._displaced = weights
        try:
            for params, tensors, alpha in moves:
                torch._foreach_add_(params, tensors, alpha=alpha)
            yield
        finally:
            self._restore()

    @contextmanager
    def unperturbed(self) -> Iterator[None]:
        """Inside, the weights are w itself, wherever the step is: for evaluating or saving.

        Needed in closures and hooks only, and there before `forward` or after `backward`, not
        between them; outside a step the weights are never perturbed.
        """
        weights = self._displaced
        moved = [p.detach().clone() for p in weights]
        _copy([self._backup[p] for p in weights], weights)
        try:
            yield
        finally:
            _copy(moved, weights)

    def trainable(self) -> Iterator[Tensor]:
        """The parameters with `requires_grad`, group after group."""
        return (p for group in self.param_groups for p in group["params"] if p.requires_grad)

    def rows(
        self, tensors: Mapping[Tensor, Tensor]
    ) -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
        """Each param group with those of its parameters that `tensors` reaches, if any."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p in tensors]
            if params:
                yield group, params

    def state_dict(self) -> dict[str, Any]:
        """That of `base` (param groups included) with one more key, `sharpness`.

        The perturbation is no part of it, even inside a closure. `base` could load it too.
        """
        state = {i: self.state[p] for i, p in enumerate(self._parameters()) if self.state.get(p)}
        return {
            **self.base.state_dict(),
            "sharpness": {"counters": dict(self.counters), "state": state},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken, bit for bit."""
        saved = state_dict.get("sharpness")
        if saved is None or saved["counters"].keys() != self.counters.keys():
            name = type(self).__name__
            raise ValueError(
                f"this state_dict was not saved by {name}; load it with the optimizer that saved "
                f"it, or its base part alone with {name}.base.load_state_dict"
            )
        self.base.load_state_dict({k: v for k, v in state_dict.items() if k != "sharpness"})
        self.counters.update(saved["counters"])
        self.state.clear()
        parameters = self._parameters()
        for i, tensors in saved["state"].items():
            p = parameters[i]
            self.state[p] = {k: x.to(p.device, copy=True) for k, x in tensors.items()}

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _gradient(self) -> Direction:
        gradients = {p: p.grad for p in self.trainable() if p.grad is not None}
        for p, g in gradients.items():
            if g.layout != torch.strided or g.is_complex():
                raise ValueError(self._refusal(p, g))
        direction = Direction.of(gradients)
        if not math.isfinite(direction.norm):
            raise NonFiniteGradient
        return direction

    def _refusal(self, p: Tensor, g: Tensor) -> str:
        kind = "complex" if g.is_complex() else "sparse"
        cure = {
            "complex": "store real and imaginary parts as two real parameters",
            "sparse": "build its layer with sparse=False",
        }[kind]
        index = next(i for i, q in enumerate(self._parameters()) if q is p)
        return (
            f"{type(self).__name__} cannot use the {kind} gradient of parameter {index}, "
            f"of shape {tuple(p.shape)}; {cure}, or train it with an optimizer of its own"
        )

    def _backup_of(self, p: Tensor) -> Tensor:
        """A buffer like `p`, kept from step to step: on a CPU, fresh pages cost 20 copies."""
        kept = self._backup.get(p)
        if kept is None or (kept.dtype, kept.device, kept.shape) != (p.dtype, p.device, p.shape):
            kept = self._backup[p] = torch.empty_like(p)
        return kept

    def _restore(self) -> None:
        _copy([self._backup[p] for p in self._displaced], self._displaced)
        self._displaced = []
