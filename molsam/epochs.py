"""The training of one run's models: steps, epochs, selection on validation, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from . import distributed, environment, inference, landscape, metrics
from .batches import Batch, PackedMolecules, evaluation_batches, training_batches
from .compiling import CompiledLayers, tells_sizes_apart
from .criteria import TrainingError, metric_name, pick_loss
from .files import load_state, save_state
from .histories import tensorboard, write_history
from .optim import Diagnostics, RhoSchedule, SharpnessAware
from .optim.generators import same_generators_after
from .optim.schedules import SCHEDULES
from .recipes import OptimizerConfig
from .runs import CHECKPOINT, WEIGHTS, Run
from .splits import Split

CHECKPOINT_SECONDS = 20.0
SHARPNESS_ROWS = 512


class Divergence(TrainingError):
    """A loss that is no number, most often after steps that were too long."""

    def __init__(self, where: str, epochs: int) -> None:
        kept = f"the weights of epoch {epochs} are kept" if epochs else "no epoch was finished"
        advice = "try a lower optimizer.lr or optimizer.rho, or set training.clip_norm"
        super().__init__(f"{where}, as after steps that are too long: {advice}; {kept}")


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    `epochs_done` is whole when an epoch has just been validated; `loss` and `score` are those of
    the last whole epoch, NaN before there is one.
    """

    member: int
    members: int
    epochs_done: float
    epochs: int
    metric: str
    loss: float
    score: float
    molecules_per_second: float


Listener = Callable[[Progress], None]


@dataclass
class Member:
    """One model in training: all that a checkpoint holds, and where its gradients are taken."""

    number: int
    model: nn.Module
    optimizer: Optimizer
    rho: RhoSchedule | None
    average: AveragedModel | None = None
    epoch: int = 0
    kept_merit: float = -math.inf
    kept_epoch: int = -1
    kept_model: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    stepping: Callable[[], AbstractContextManager[None]] = nullcontext

    PLAIN = ("epoch", "kept_merit", "kept_epoch", "kept_model", "history")

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the average of the weights where there is one."""
        return self.average.module if self.average else self.model

    def state(self) -> dict[str, Any]:
        """Nested plain values and tensors, for `files.save_state`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rho": self.rho.state_dict() if self.rho else {},
            "average": self.average.state_dict() if self.average else {},
            **{name: getattr(self, name) for name in self.PLAIN},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.rho:
            self.rho.load_state_dict(state["rho"])
        if self.average:
            self.average.load_state_dict(state["average"])
        for name in self.PLAIN:
            setattr(self, name, state[name])


class Trainer:
    """Trains the members of `run` on the packed molecules of `split.train`.

    Every draw follows from (seed, member, epoch), so a member restored from its checkpoint ends
    bit for bit where it would have ended. Of several processes the first alone validates, writes
    and reports.
    """

    def __init__(
        self, run: Run, packed: PackedMolecules, split: Split, progress: Listener | None = None
    ) -> None:
        self.run, self.split = run, split
        self.progress = progress if distributed.rank() == 0 else None
        self.packed = packed.to(run.device)
        self.settings = run.recipe.training
        self.sizes = packed.sizes[split.train].cpu().numpy()
        self.metric = metric_name(self.settings, run.info.kind)
        self.loss = pick_loss(run, packed, split)
        self.known = (~torch.isnan(packed.y)).sum(1).cpu().numpy()

    def train(self, number: int) -> None:
        """Train one member and leave its weights; a member that is done is left alone."""
        folder = self.run.folder / f"member-{number}"
        checkpoint = folder / CHECKPOINT
        if distributed.told(is_trained, folder):
            return
        folder.mkdir(exist_ok=True)
        with same_generators_after([self.run.device]):
            member = self._start(number)
            kept = distributed.told(load_checkpoint, checkpoint)
            if kept is not None:
                member.restore(kept)
            self._epochs(member, folder)
        distributed.told(save_weights, folder, member)
        distributed.told(checkpoint.unlink, True)

    def _start(self, number: int) -> Member:
        torch.manual_seed(derive_seed(self.run.info.seed, number, 0))
        choices = self.run.recipe.optimizer
        model = inference.build_model(self.run.recipe, self.run.info).to(self.run.device)
        steps = self.settings.epochs * len(self._batches(number, 0))
        seed = derive_seed(self.run.info.seed, number, 0)
        optimizer = choices.build(model, steps=steps, seed=seed)
        rho, average = choices.rho_schedule(optimizer), averaged(model, self.settings.average)
        member = Member(number, model, optimizer, rho, average)
        if self.settings.compile:
            member.stepping = CompiledLayers(model.get_submodule("layers").children())
            self._compile(member)
        return member

    def _compile(self, member: Member) -> None:
        """Take a gradient, and drop it, on a batch that is the same wherever a run goes on.

        What is compiled depends in its rounding on the first sizes it meets.
        """
        cuts, kinds = self._batches(member.number, 0), len(self.packed.bond_rows)
        sizes = ((len(cut), max(self.sizes[cut]), sum(self.sizes[cut]), kinds) for cut in cuts)
        told = (cut for cut, known in zip(cuts, sizes, strict=True) if tells_sizes_apart(known))
        batch = self.packed.batch(self.split.train[next(told, cuts[0])])
        member.model.train()
        try:
            with member.stepping():
                self._gradient(member, batch, 1.0)
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"torch.compile failed: {reason}; set training.compile = false, or see that it "
                "has a C++ compiler (on a GPU, Triton too)"
            ) from error
        member.model.zero_grad()

    def _gradient(self, member: Member, batch: Batch, weight: float) -> Tensor:
        """The loss, with its gradient in the model; `weight` is that of a share among others."""
        with environment.autocast(self.run.device, self.settings.precision):
            prediction = member.model(batch)
        loss = self.loss(prediction.float(), batch.y, batch.label_mask)
        if weight != 1:
            loss = weight * loss
        loss.backward()
        return distributed.add_up(loss, member.model)

    def _epochs(self, member: Member, folder: Path) -> None:
        saved = -math.inf
        with tensorboard(folder, member.epoch) as add_to_tensorboard:
            while not distributed.told(self._is_done, member):
                draws = (self.run.info.seed, member.number, member.epoch + 1)
                torch.manual_seed(derive_seed(*draws, *distributed.beside_first()))
                try:
                    row = self._epoch(member) | distributed.told(self._judged, member)
                except Divergence:
                    if member.epoch and distributed.rank() == 0:
                        save_weights(folder, member)
                    raise
                member.history.append(row)
                member.epoch += 1
                saved = distributed.told(self._keep, member, folder, saved)
                add_to_tensorboard(member.history[-1])
                self._tell(member, 0.0, member.history[-1]["molecules_per_second"])

    def _keep(self, member: Member, folder: Path, saved: float) -> float:
        """Write the history, and a checkpoint if the last is old; returns when that was `saved`."""
        write_history(folder, member.history)  # first, or the last row may stay unwritten
        if time.monotonic() - saved <= CHECKPOINT_SECONDS:
            return saved
        save_state(folder / CHECKPOINT, member.state())
        save_weights(folder, member)
        return time.monotonic()

    def _is_done(self, member: Member) -> bool:
        return member.epoch >= self.settings.epochs or self._out_of_patience(member)

    def _out_of_patience(self, member: Member) -> bool:
        patience = self.settings.patience
        return patience is not None and member.epoch - 1 - member.kept_epoch >= patience

    def _epoch(self, member: Member) -> dict[str, Any]:
        """One pass over the training rows."""
        batches = self._batches(member.number, member.epoch)
        start_epoch(member, self.run.recipe.optimizer)
        watch = diagnostics(member, self.run.recipe.optimizer)
        member.model.train()
        losses = torch.zeros(len(batches), device=self.run.device)
        rates: list[float] = []
        gradients = 0
        began = time.perf_counter()
        for step, index in enumerate(batches):
            self._set_learning_rate(member, member.epoch + step / len(batches))
            rows, weight = distributed.share(self.split.train[index], self.known)
            batch = self.packed.batch(rows)
            loss, calls = self._step(member, batch, weight, watch or member.optimizer)
            if member.average:
                member.average.update_parameters(member.model)
            losses[step] = loss.detach()
            rates.append(member.optimizer.param_groups[0]["lr"])
            gradients += calls
            done = (step + 1) / len(batches)
            self._tell(member, done, done * len(self.sizes) / (time.perf_counter() - began))
        each = losses.tolist()
        seconds = time.perf_counter() - began
        refuse_divergence(each, rates, member.epoch)
        group = member.optimizer.param_groups[0]
        return {
            "epoch": member.epoch + 1,
            "loss": float(np.average(each, weights=[len(index) for index in batches])),
            "lr": group["lr"],
            "rho": group.get("rho", 0.0),
            "gradients": gradients,
            **(watch.means() if watch else {}),
            "molecules_per_second": round(len(self.sizes) / seconds, 1),
            "seconds": round(seconds, 3),
        }

    def _batches(self, number: int, epoch: int) -> list[np.ndarray]:
        return training_batches(
            self.sizes,
            self.settings.batch_size,
            seed=derive_seed(self.run.info.seed, number, 0),
            epoch=epoch,
            max_pairs=self.settings.max_pairs,
        )

    def _set_learning_rate(self, member: Member, epochs_done: float) -> None:
        schedule = SCHEDULES[self.settings.schedule]
        factor = schedule(epochs_done / self.settings.epochs, self.settings.warmup)
        for group in member.optimizer.param_groups:
            group["lr"] = self.run.recipe.optimizer.lr * factor

    def _step(
        self, member: Member, batch: Batch, weight: float, stepper: Optimizer | Diagnostics
    ) -> tuple[Tensor, int]:
        """One update; returns the loss where its first gradient was taken, and the gradients.

        That is at the weights w, or at w + eps where the optimizer has a stand-in for eps.
        """
        gradients = 0

        def closure() -> Tensor:
            nonlocal gradients
            gradients += 1
            member.optimizer.zero_grad()
            with member.stepping():
                loss = self._gradient(member, batch, weight)
            if self.settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(member.model.parameters(), self.settings.clip_norm)
            return loss

        return stepper.step(closure), gradients  # type: ignore[arg-type, return-value]

    def _judged(self, member: Member) -> dict[str, Any]:
        """What an epoch leaves in the history beside its own."""
        return self._validate(member) | self._sharpness(member)

    def _validate(self, member: Member) -> dict[str, Any]:
        """Score the validation rows and keep the weights; with patience only if they are better.

        Where no task has what the metric needs (one class only, say), the loss selects.
        """
        info, index = self.run.info, self.split.valid
        outputs = inference.infer(member.judged, self.packed, self.run.recipe, index)
        y = self.packed.y[index].cpu()
        loss = float(self.loss(outputs, torch.nan_to_num(y), ~torch.isnan(y)))
        if not math.isfinite(loss):
            raise Divergence(
                f"the validation loss is {loss} after epoch {member.epoch + 1}", member.epoch
            )
        truth = self.run.scalers.target.inverse(y.double().numpy())
        prediction = inference.to_user(outputs, info, self.run.scalers)
        score = metrics.score(self.metric, truth, prediction, info.tasks).mean
        sign = 1.0 if metrics.METRICS[self.metric].greater_is_better else -1.0
        merit = -loss if math.isnan(score) else sign * score
        kept = self.settings.patience is None or merit > member.kept_merit
        if kept:
            member.kept_merit, member.kept_epoch = merit, member.epoch
            state = member.judged.state_dict()
            member.kept_model = {name: tensor.clone() for name, tensor in state.items()}
        return {"valid_loss": loss, f"valid_{self.metric}": score, "kept": kept}

    def _sharpness(self, member: Member) -> dict[str, float]:
        """Loss and its top Hessian eigenvalue on training rows, at the weights as they are."""
        every = self.settings.sharpness_every
        if every is None:
            return {}
        if (member.epoch + 1) % every:
            return {"train_loss": math.nan, "sharpness": math.nan}
        member.model.eval()
        terms = self.loss_terms(member.model)
        with torch.no_grad():
            loss = sum(float(term()) for term in terms)
        generator = torch.Generator(self.run.device).manual_seed(0)
        parameters = [p for p in member.model.parameters() if p.requires_grad]
        top = landscape.top_eigenvalue(terms, parameters, generator=generator)
        return {"train_loss": loss, "sharpness": top}

    def loss_terms(self, model: nn.Module) -> list[Callable[[], Tensor]]:
        """Parts of the mean loss of `model` over up to SHARPNESS_ROWS training rows."""
        step = -(-len(self.split.train) // SHARPNESS_ROWS)
        rows = self.split.train[::step]
        known = int((~torch.isnan(self.packed.y[rows])).sum())

        def term(batch: Batch) -> Tensor:
            share = batch.label_mask.sum() / known
            return share * self.loss(model(batch).float(), batch.y, batch.label_mask)

        sizes = self.packed.sizes[rows].cpu().numpy()
        cuts = evaluation_batches(sizes, 4 * self.settings.batch_size)
        return [partial(term, self.packed.batch(rows[cut])) for cut in cuts]

    def _tell(self, member: Member, share: float, molecules_per_second: float) -> None:
        """Report `share` of the epoch that runs."""
        if self.progress is None or share == 1.0:  # the end of an epoch is told once validated
            return
        last = member.history[-1] if member.history else {}
        self.progress(
            Progress(
                member=member.number,
                members=self.settings.members,
                epochs_done=member.epoch + share,
                epochs=self.settings.epochs,
                metric=self.metric,
                loss=last.get("loss", math.nan),
                score=last.get(f"valid_{self.metric}", math.nan),
                molecules_per_second=molecules_per_second,
            )
        )


def averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    """a_n = a_{n-1} + max(1 - decay, 1 / n) (w_n - a_{n-1}), with w_n the weights after step n.

    The plain mean of the first 1 / (1 - decay) weights, an exponential average from then on, so
    that it never leans on the weights that training started from. A decay of 0, for which
    a_n = w_n, needs none.
    Deviation: torch's own exponential average starts at w_1 with its whole weight.
    """
    if decay == 0:
        return None

    def update(average: Any, weights: Any, count: Any) -> None:
        share = max(1 - decay, 1 / (int(count) + 1))
        torch._foreach_lerp_(average, weights, share)  # type: ignore[reportPrivateImportUsage]

    return AveragedModel(model, multi_avg_fn=update)


def start_epoch(member: Member, choices: OptimizerConfig) -> None:
    """The optimizer's part of a new epoch: the radius of eq. 4, and its anchor, if any."""
    if member.rho is not None and member.epoch > 0:
        member.rho.step()
    choices.start_epoch(member.optimizer, member.epoch)


def diagnostics(member: Member, choices: OptimizerConfig) -> Diagnostics | None:
    """A fresh look for each epoch, so that a resumed run writes the same history."""
    if choices.diagnose_every is None or not isinstance(member.optimizer, SharpnessAware):
        return None
    return Diagnostics(member.optimizer, every=choices.diagnose_every)


def refuse_divergence(losses: Sequence[float], rates: Sequence[float], epoch: int) -> None:
    """Stop at a loss that is no number: no later step could mend the weights."""
    step = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if step is None:
        return
    before = f", {losses[step - 1]:.3g} a step before" if step else ""
    where = f"step {step + 1} of epoch {epoch + 1}"
    raise Divergence(
        f"the training loss is {losses[step]} in {where} (learning rate {rates[step]:.3g}){before}",
        epoch,
    )


def is_trained(folder: Path) -> bool:
    """Whether the member of `folder` has come to its end."""
    return (folder / WEIGHTS).is_file() and not (folder / CHECKPOINT).is_file()


def load_checkpoint(path: Path) -> Any:
    """The state of a member that was stopped, None if there is none."""
    return load_state(path) if path.is_file() else None


def save_weights(folder: Path, member: Member) -> None:
    """The weights that are kept so far."""
    save_state(folder / WEIGHTS, {"model": member.kept_model})


def derive_seed(*path: int) -> int:
    """An independent 63-bit seed for each place (seed, member, epoch)."""
    return int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0] >> np.uint64(1))
