"""Training steps of the models beside their plain forms, and beside the machine's peak."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import molecules
from ..batches import Batch, PackedMolecules, training_batches
from ..environment import pick_device
from ..losses import LOSSES
from ..models import CoMPT, DenseCoMPT, GraphTransformer
from ..models.layers import Layout
from ..optim.generators import same_generators_after
from ..recipes import Recipe
from .inputs import ESOL, random_molecules
from .operations import SQUARES, SquareProduct, operations, peak
from .racing import Entrant, Told, machine, race, rate, ratios, take_turns

TOLERANCE = 1e-5


class Contest(NamedTuple):
    """A fast form, its plain form, and how many operations the fast form's steps are."""

    name: str
    fast: Learner
    plain: Learner
    operations: int


class Learner(Entrant):
    """A model in training by AdamW: `inputs` has what it reads for each batch of the race."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        batches: Sequence[Batch],
        read: Callable[[Batch], Any] = lambda batch: batch,
    ) -> None:
        super().__init__(name, batches[0].mask.device)
        self.model, self.batches = model, batches
        self.inputs = [read(batch) for batch in batches]
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=1e-4, fused=self.device.type in ("cpu", "cuda")
        )

    def step(self, item: int) -> None:
        """Forward, backward and update on the batch of that number."""
        batch = self.batches[item]
        self.optimizer.zero_grad()
        LOSSES["mse"](self.model(self.inputs[item]), batch.y, batch.label_mask).backward()
        self.optimizer.step()


class GraphormerStack(nn.Module):
    """`GraphTransformer` of the parts of `dgl.nn`: its plain form, with the same predictions.

    The weights are copies of the model's; its layers have no dropout.

    Examples
    --------
    >>> fast = GraphTransformer(74, 12, outputs=1, width=64)
    >>> plain = GraphormerStack(fast)
    """

    def __init__(self, model: GraphTransformer) -> None:
        super().__init__()
        part, config = molecules.dgl().nn, model.config
        self.model = copy.deepcopy(model)
        self.degrees = part.DegreeEncoder(config.max_degree, config.width, direction="in")
        self.degrees.encoder.load_state_dict(model.degree_embedding.state_dict())
        self.spatial = part.SpatialEncoder(config.max_distance, config.heads)
        self.spatial.embedding_table.load_state_dict(model.distance_embedding.state_dict())
        activation = {"relu": nn.ReLU, "gelu": nn.GELU}[config.activation]
        self.layers = nn.ModuleList()
        for ours in self.model.layers:
            layer = part.GraphormerLayer(
                config.width,
                config.feed_forward,
                config.heads,
                norm_first=config.norm_first,
                dropout=0.0,
                attn_dropout=0.0,
                activation=activation(),
            )
            layer.load_state_dict(ours.state_dict())
            self.layers.append(layer)
        self.model.layers = nn.ModuleList()
        self.train(model.training)

    def forward(self, batch: Batch) -> Tensor:
        """Predictions (B, outputs)."""
        mask, model = batch.mask, self.model
        atoms = batch.atoms.new_zeros(*mask.shape, batch.atoms.shape[1])
        atoms[mask] = batch.atoms
        x = model.atom_embedding(atoms) + self.degrees((batch.distance == 1).sum(-1))
        bias = self.spatial(batch.distance) + model.bond_bias(batch.bonds)[batch.pair_codes]
        padding = ~mask[:, None].expand(-1, mask.shape[1], -1)
        for layer in self.layers:
            x = layer(x, bias, padding)
        layout = Layout.of(batch.sizes, mask, batch.slots, heads=1)
        vectors = model.readout(model.norm(x)[mask], layout)
        return model.head(model.join_dropout(model.join(vectors, batch)))


def compare_models(
    *,
    rounds: int = 3,
    steps: int = 6,
    batch_size: int = 32,
    width: int = 256,
    depth: int = 3,
    heads: int = 4,
    device: str = "auto",
    progress: Told = lambda done: None,
) -> dict[str, Any]:
    """Training steps of CoMPT and GraphTransformer beside their plain forms.

    A step is forward, backward and AdamW's update on a batch of ESOL-sized molecules, ready on
    the device. `DenseCoMPT` reads batches padded to ESOL's largest molecule, as published; a
    stack of `dgl.nn.GraphormerLayer` reads the same batches as `GraphTransformer`: those of
    like-sized molecules that training cuts, and such as a plain shuffle gives. "As used" sets
    the former under `GraphTransformer` beside the latter under the stack, as users of each train.
    dgllife's AttentiveFP at its default size runs beside them on a CPU, where DGL's packages
    work; its ratio is to CoMPT with the mean readout. So do products of square matrices, the best
    of which is the machine's peak.

    rounds, steps -> rounds of `steps` batches; width, depth, heads -> of both models.

    Returns what JSON can hold: the machine, the settings, and `rows`. Rates and ratios are medians
    over rounds; `gflops` counts `operations` alone. Raises `ArithmeticError` where a fast form's
    predictions differ from its plain form's by more than 1e-5.
    """
    where = pick_device(device)
    generator = np.random.default_rng(0)
    smiles = random_molecules(steps * batch_size, generator, **ESOL)
    batches = cut_batches(smiles, "compt", batch_size, where)
    shuffled = cut_batches(smiles, "compt", batch_size, where, pool=1)
    config = {"width": width, "depth": depth, "heads": heads}
    Recipe().change({f"model.{name}": value for name, value in config.items()})  # or refuse it
    with same_generators_after([where]):
        torch.manual_seed(0)
        contests = line_up(batches, shuffled, config)
        attentive = [attentive_fp(smiles, batch_size)] if where.type == "cpu" else []
    differences = [difference(contest) for contest in contests]
    contests.append(as_used(*contests[-2:]))
    differences.append(max(differences[-2:]))
    products = [SquareProduct(size, where) for size in SQUARES]
    learners = dict.fromkeys(side for contest in contests for side in (contest.fast, contest.plain))
    turns = [range(steps)[i : i + 2] for i in range(0, steps, 2)]
    if where.type != "cpu":
        turns = take_turns(range(steps), where)
    race([*learners, *attentive, *products], turns, rounds, generator, progress)
    best, count = peak(products, steps), steps * batch_size
    return {
        "bench": "model",
        **machine(where),
        "settings": {
            **config,
            "batch_size": batch_size,
            "steps": steps,
            "rounds": rounds,
            "mean_atoms": float(np.mean(np.concatenate([b.sizes.cpu() for b in batches]))),
            "padded_to": ESOL["largest"],
            "peak_gflops": float(np.median(best)),
        },
        "rows": [
            *(_row(*pair, best, count) for pair in zip(contests, differences, strict=True)),
            *(_beside(contests[0].fast, entrant, count) for entrant in attentive),
        ],
    }


def cut_batches(
    smiles: Sequence[str],
    featurizer: str,
    batch_size: int,
    device: torch.device,
    *,
    pool: int = 20,
) -> list[Batch]:
    """Batches as `training_batches` cuts them, with a random label a molecule."""
    y = np.random.default_rng(0).normal(size=(len(smiles), 1))
    packed = PackedMolecules.from_mols(molecules.parse_many(smiles).mols, featurizer, y)
    cuts = training_batches(packed.sizes.numpy(), batch_size, seed=0, epoch=0, pool=pool)
    packed = packed.to(device)
    return [packed.batch(cut) for cut in cuts]


def line_up(
    batches: Sequence[Batch], shuffled: Sequence[Batch], config: dict[str, int]
) -> list[Contest]:
    """Every fast form and its plain form, with the same weights, from torch's random state."""
    device = batches[0].mask.device
    sizes = batches[0].atoms.shape[1], batches[0].bonds.shape[1], 1
    contests = []
    for readout in ("mean", "gru"):
        model = CoMPT(*sizes, readout=readout, **config).to(device)
        plain = DenseCoMPT.of(model)
        name = f"CoMPT, {readout} readout"
        contests.append(
            Contest(
                name,
                Learner(name, model, batches),
                Learner("DenseCoMPT", plain, batches, lambda batch: batch.pad(ESOL["largest"])),
                sum(operations(model, batch) for batch in batches),
            )
        )
    first = GraphTransformer(*sizes, attention_dropout=0.0, **config).to(device)
    for given, how in ((batches, ""), (shuffled, ", shuffled")):
        model = copy.deepcopy(first)
        plain = GraphormerStack(model).to(device)
        name = f"GraphTransformer{how}"
        contests.append(
            Contest(
                name,
                Learner(name, model, given),
                Learner("dgl.nn.GraphormerLayer", plain, given),
                sum(operations(model, batch) for batch in given),
            )
        )
    return contests


def as_used(like_sized: Contest, shuffled: Contest) -> Contest:
    """GraphTransformer on the batches of its training, the plain form on shuffled ones."""
    name = f"{like_sized.name}, as used"
    return Contest(name, like_sized.fast, shuffled.plain, like_sized.operations)


def attentive_fp(smiles: Sequence[str], batch_size: int) -> Learner:
    """dgllife's AttentiveFP at its default size, on the same molecules with its own features."""
    batches = cut_batches(smiles, "attentivefp", batch_size, torch.device("cpu"))
    kind = molecules.FEATURIZERS["attentivefp"]
    predictor = molecules.dgllife("model").AttentiveFPPredictor
    model = _OnGraphs(predictor(kind.atom_size, kind.bond_size))
    return Learner("AttentiveFP of dgllife", model, batches, Batch.to_dgl)


class _OnGraphs(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, graph: Any) -> Tensor:
        return self.model(graph, graph.ndata["h"], graph.edata["e"])


@torch.no_grad()
def difference(contest: Contest) -> float:
    """The largest difference between the predictions of the two forms."""
    fast, plain = contest.fast, contest.plain
    pairs = zip(fast.inputs, plain.inputs, strict=True)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # or its GRU has ten bits
        found = max(float((fast.model(a) - plain.model(b)).abs().max()) for a, b in pairs)
    if not found <= TOLERANCE:
        raise ArithmeticError(f"{fast.name} and {plain.name} differ by {found:.1g}")
    return found


def _row(contest: Contest, differs: float, best: np.ndarray, count: int) -> dict[str, Any]:
    name, fast, plain, work = contest
    gflops = 1e-9 * work / np.array(fast.seconds)
    per_gflop = count / np.array(fast.seconds) / best
    return {
        "model": name,
        "plain": plain.name,
        "molecules_per_second": rate(count, fast),
        "plain_molecules_per_second": rate(count, plain),
        **ratios(plain, fast),
        "difference": differs,
        "operations_per_molecule": work / count,
        "gflops": float(np.median(gflops)),
        "share_of_peak": float(np.median(gflops / best)),
        "molecules_per_second_per_gflops": float(np.median(per_gflop)),
    }


def _beside(model: Learner, other: Learner, count: int) -> dict[str, Any]:
    return {
        "model": other.name,
        "beside": model.name,
        "molecules_per_second": rate(count, other),
        **ratios(model, other),
    }
