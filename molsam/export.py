"""A run as one file that predicts without molsam: an exported program of torch's, or ONNX."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from . import reading
from .batches import Batch
from .files import replacing
from .gaussian_process import TINY, GaussianProcess
from .inference import describe
from .models.layers import Layout
from .models.mish import mish
from .models.readouts import GRUReadout
from .runs import Run

# The axes of the inputs that may be of any length from 1 on.
AXES = {
    "atoms": ("atoms",),
    "sizes": ("molecules",),
    "bonds": ("kinds",),
    "pair_codes": ("molecules", "width", "width"),
    "distance": ("molecules", "width", "width"),
    "descriptors": ("molecules",),
    "counts": ("molecules",),
    "ranks": ("molecules",),
}
GRAPH = tuple(AXES)[:5]
OUTPUTS = ["prediction", "std"]
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Molecules to trace the program with, no two of whose axes are equally long, and to check it with.
TRACED = ("CCO", "Oc1ccccc1", "[Na+].[Cl-]")
CHECKED = ("C", "CC(=O)Oc1ccccc1C(=O)O", "C[N+](C)(C)C.[Br-]", "C=CC#N")
CLOSE = 1e-4


class ExportError(ValueError):
    """What cannot be exported: says why, and what to try."""


class LaidOut(Batch):
    """A `Batch` whose `slots` are made of operations that ONNX has."""

    @property
    def slots(self) -> Tensor:
        ends = self.sizes.cumsum(0)
        atom = torch.arange(self.atoms.shape[0])
        home = (atom[:, None] >= ends).sum(1)
        return atom + home * self.mask.shape[1] - (ends - self.sizes)[home]


class ScannedGRU(nn.Module):
    """`GRUReadout` as a scan over padded molecules: its loop is as long as the widest of a batch.

    A molecule is read from its last atom on by mirroring it within its own atoms, so that what
    stands behind them is never read before them.
    """

    u: Tensor
    b: Tensor
    c: Tensor
    w: Tensor

    def __init__(self, readout: GRUReadout):
        super().__init__()
        self.bias, self.linear, self.mean = readout.bias, readout.linear, readout.mean
        for name, pair in zip("wubc", zip(*readout.gru.all_weights, strict=True), strict=True):
            self.register_buffer(name, torch.stack(pair).detach())

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        from torch._higher_order_ops.scan import scan

        width = layout.mask.shape[1]
        start = layout.pad(mish(x + self.bias), float("-inf")).amax(1)
        ahead = layout.pad(x)
        mirror = (layout.sizes[:, None] - 1 - torch.arange(width)).clamp(min=0)
        mirror = mirror[..., None].expand(-1, -1, x.shape[1])
        both = torch.stack([ahead, ahead.gather(1, mirror)]).transpose(1, 2)  # (2, V, B, D)
        gates = torch.baddbmm(self.b[:, None], both.flatten(1, 2), self.w.mT)
        gates = gates.unflatten(1, (width, -1)).transpose(0, 1)
        _, y = scan(self._step, start.expand(2, -1, -1).contiguous(), gates)
        forward, backward = y.permute(1, 2, 0, 3)  # (B, V, D)
        y = torch.cat([forward, backward.gather(1, mirror)], -1)
        y = y.flatten(0, 1).index_select(0, layout.slots)
        return self.mean(mish(self.linear(y)), layout)

    def _step(self, h: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """The equations of `gru.packed_gru`: the next h (2, B, D), twice."""
        of_x, of_h = (g.chunk(3, -1) for g in (gates, torch.baddbmm(self.c[:, None], h, self.u.mT)))
        r, z = ((x + h).sigmoid() for x, h in zip(of_x[:2], of_h[:2], strict=True))
        n = (of_x[2] + r * of_h[2]).tanh()
        h = (1 - z) * n + z * h
        return h, h.clone()


class Relatives(nn.Module):
    """`GaussianProcess.predict` on tensors; a count c of a training molecule is c rows of a table.

    counts -> (B, 2048) Morgan counts;  ranks -> (B, 2 P) descriptors, by the process's own scale.
    """

    column: Tensor
    level: Tensor
    table: Tensor
    total: Tensor
    descriptors: Tensor
    by_counts: Tensor
    by_descriptors: Tensor
    center: Tensor

    def __init__(self, process: GaussianProcess):
        super().__init__()
        self.gamma, self.classes = process.gamma, process.classes
        tops = process.counts.max(axis=0).astype(np.int64)
        column = np.repeat(np.arange(len(tops)), tops)
        level = np.arange(len(column)) - np.repeat(np.cumsum(tops) - tops, tops) + 1
        buffers = {
            "column": column,
            "level": level,
            "table": process.counts[:, column] >= level,
            "total": process.counts.sum(axis=1, dtype=np.float32),
            "descriptors": process.descriptors,
            "by_counts": process.alpha * (1 - process.mix),
            "by_descriptors": process.alpha * process.mix,
            "center": process.center,
        }
        for name, array in buffers.items():
            self.register_buffer(name, torch.from_numpy(array))

    def forward(self, counts: Tensor, ranks: Tensor) -> Tensor:
        ours = (counts.index_select(1, self.column) >= self.level).float()
        shared = ours @ self.table.float().T
        union = counts.sum(1).float()[:, None] + self.total - shared
        tanimoto = torch.where(union > 0, shared / union.clamp(min=1), 1.0)
        norms = ranks.square().sum(1)[:, None] + self.descriptors.square().sum(1)
        squares = (norms - 2 * ranks @ self.descriptors.T).clamp(min=0)
        rbf = torch.exp(-self.gamma * squares)
        f = tanimoto.double() @ self.by_counts + rbf.double() @ self.by_descriptors + self.center
        if self.classes:
            f = f.clamp(TINY, 1)
        if self.classes <= 2:
            return f
        f = f.unflatten(1, (-1, self.classes))
        return f / f.sum(-1, keepdim=True)


class Program(nn.Module):
    """`Run.predict_mols` on tensors: `inputs`, by name, to prediction and std (B, T[, C]).

    It computes in float32 and on the CPU, whatever precision and device the run was trained with.
    """

    scale: Tensor
    center: Tensor

    def __init__(self, run: Run):
        super().__init__()
        # Models of its own, whose readout may be replaced.
        run = replace(run, device=torch.device("cpu"))
        self.kind, self.tasks = run.info.kind, len(run.info.tasks)
        self.models = nn.ModuleList(run.models)
        for model in run.models:
            if isinstance(model.readout, GRUReadout):
                model.readout = ScannedGRU(model.readout)
        self.width = run.recipe.model.width
        self.process = None if run.process is None else Relatives(run.process)
        self.share = 0.0 if run.process is None else run.process.share
        self.register_buffer("scale", torch.from_numpy(run.scalers.target.scale))
        self.register_buffer("center", torch.from_numpy(run.scalers.target.center))
        self.eval().requires_grad_(False)

    def forward(
        self,
        atoms: Tensor,
        sizes: Tensor,
        bonds: Tensor,
        pair_codes: Tensor,
        distance: Tensor,
        descriptors: Tensor | None = None,
        counts: Tensor | None = None,
        ranks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        none = atoms.new_zeros(sizes.shape[0], 0)
        batch = LaidOut(
            atoms=atoms,
            sizes=sizes,
            # With so many rows it is known beforehand which way CoMPT's scores are cheaper.
            bonds=F.pad(bonds, (0, 0, 0, self.width)),
            pair_codes=pair_codes,
            distance=distance,
            mask=torch.arange(pair_codes.shape[1]) < sizes[:, None],
            descriptors=none if descriptors is None else descriptors,
            y=none,
            label_mask=none.bool(),
        )
        each = self._user(torch.stack([model(batch) for model in self.models]).double())
        mean = each.mean(0)
        std = (each - mean).square().mean(0).sqrt()
        if self.process is not None:
            mean = (1 - self.share) * mean + self.share * self.process(counts, ranks)
        return mean, std

    def _user(self, z: Tensor) -> Tensor:
        """`inference.to_user` of outputs (M, B, O)."""
        if self.kind == "regression":
            return z * self.scale + self.center
        if self.kind == "binary":
            return z.sigmoid()
        return z.unflatten(-1, (self.tasks, -1)).softmax(-1)


def inputs(run: Run, read: reading.Reading) -> dict[str, np.ndarray]:
    """What an exported `run` reads of the molecules that could be read, N of them, as one batch.

    read -> `run.read(smiles)`. Those of `Batch`, a name each: atoms (A, Fa) and bonds (K, Fb)
    float32, sizes (N,), pair_codes and distance (N, V, V) int64; of a run that reads them
    descriptors (N, P) float32; of one with a Gaussian process counts (N, 2048) int64, Morgan's, and
    ranks (N, 2 P) float32, the descriptors by the process's scale.

    Raises
    ------
    ExportError : no molecule could be read.
    """
    if read.packed is None:
        raise ExportError("no molecule could be read")
    choices, process = run.recipe.data, run.process
    packed = describe(read.packed, read.descriptors, read.fingerprints, choices, run.scalers)
    batch = packed.batch(np.arange(len(packed)))
    named = {name: getattr(batch, name).numpy() for name in GRAPH}
    if batch.descriptors.shape[1]:
        named["descriptors"] = batch.descriptors.numpy()
    if process is not None:
        assert read.fingerprints is not None
        assert read.descriptors is not None
        named["counts"] = read.fingerprints.astype(np.int64)
        named["ranks"] = process.scaler.transform(read.descriptors)
    return named


def export(run: Run, path: str | Path) -> None:
    """Write all that `run` predicts with as one file: .pt2, a program of torch's, or .onnx.

    The program reads `inputs` by name, as many molecules of as many atoms as there are, and gives
    prediction and std, those of `Run.predict_mols`. The file also holds a JSON object with the
    `columns` and `classes` of these: the extra file molsam.json, or ONNX's metadata `molsam`.

    Raises
    ------
    ExportError : another suffix, a package that is missing or too old, or a file whose predictions
        would not be those of the run.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ExportError(f"{path}: write to a {' or '.join(WRITERS)} file")
    _require(path.suffix)
    program = Program(run)
    traced, checked = (_tensors(inputs(run, run.read(some))) for some in (TRACED, CHECKED))
    about = json.dumps({"columns": run.columns(), "classes": run.info.classes})
    with replacing(path) as partial, _quietly(), torch.no_grad():
        try:
            predict = WRITERS[path.suffix](_traced(program, traced), partial, about)
        except RuntimeError as error:
            raise ExportError(
                f"torch {torch.__version__} cannot write this run as {path.suffix}: "
                + str(error).partition("\n")[0]
            ) from error
        if not _close(predict(checked), program(**checked)):
            raise ExportError(f"{path} would not predict what the run does; it was not written")


def _tensors(named: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in named.items()}


def _require(suffix: str) -> None:
    known = inspect.signature(torch.export.export).parameters
    if "prefer_deferred_runtime_asserts_over_guards" not in known:
        raise ExportError(f"torch {torch.__version__} is too old to export a run; take torch 2.9")
    missing = [name for name in PACKAGES if suffix == ".onnx" and find_spec(name) is None]
    if missing:
        raise ExportError(
            f"a .onnx file needs {', '.join(missing)}: pip install 'molsam[onnx]', "
            "or write a .pt2 file"
        )


def _traced(program: Program, example: dict[str, Tensor]) -> ExportedProgram:
    lengths = {name: torch.export.Dim(name) for axes in AXES.values() for name in axes}
    traced = torch.export.export(
        program,
        (),
        example,
        dynamic_shapes={
            name: {i: lengths[axis] for i, axis in enumerate(AXES[name])} for name in example
        },
        strict=False,
        # Its solver does not see that V is no more than V^2.
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    for module in traced.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # it names folders of this machine
    return traced


def _write_pt2(traced: ExportedProgram, path: Path, about: str) -> Predict:
    with open(path, "wb") as file:
        torch.export.save(traced, file, extra_files={"molsam.json": about})
    with open(path, "rb") as file:
        module = torch.export.load(file).module()
    return lambda asked: module(**asked)


def _write_onnx(traced: ExportedProgram, path: Path, about: str) -> Predict:
    from onnxruntime import InferenceSession

    names = [str(name) for name in traced.graph_signature.user_inputs]
    shapes = {name: dict(enumerate(AXES[name])) for name in names}
    converted = torch.onnx.export(
        traced, output_names=OUTPUTS, dynamic_shapes=shapes, verbose=False
    )
    assert converted is not None
    converted.model.metadata_props["molsam"] = about
    converted.save(path, external_data=False)
    session = InferenceSession(path, providers=["CPUExecutionProvider"])

    def predict(asked: dict[str, Tensor]) -> list[Tensor]:
        found = session.run(OUTPUTS, {name: x.numpy() for name, x in asked.items()})
        return [torch.as_tensor(y) for y in found]

    return predict


Predict: TypeAlias = Callable[[dict[str, Tensor]], Sequence[Tensor]]
WRITERS: dict[str, Callable[[ExportedProgram, Path, str], Predict]] = {
    ".pt2": _write_pt2,
    ".onnx": _write_onnx,
}


def _close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether they differ by a ten-thousandth of the largest prediction of a task at most."""
    most = CLOSE * expected[0].abs().amax(0)
    return all(bool(((a - b).abs() <= most).all()) for a, b in zip(found, expected, strict=True))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch and ONNX's converter say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
