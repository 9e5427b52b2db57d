"""A whole data set as a few flat tensors, and batches cut from it by indexing alone.

`PackedMolecules` keeps what dgllife's features repeat only once: the distinct feature rows, and a
code per atom and per bond. It fits on the device, and `PackedMolecules.batch` is index
arithmetic on that device, with no Python loop over molecules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import molecules

if TYPE_CHECKING:
    from dgl import DGLGraph
    from rdkit.Chem import Mol

UNREACHABLE = -1
_NO_BOND = 0


@dataclass(frozen=True)
class Batch:
    """What a model reads: B molecules, A atoms in all, V in the largest, K kinds of bonds.

    Attributes
    ----------
    atoms : (A, Fa) float. Features of the real atoms, molecule after molecule.
    sizes : (B,) int64. Atoms of each molecule; they sum to A.
    bonds : (K, Fb) float. Distinct bond feature rows; row 0 is "no bond", all zeros.
    pair_codes : (B, V, V) int64. Row of `bonds` for each pair of atoms, 0 on padding.
    distance : (B, V, V) int64. Shortest path in bonds; -1 where there is none and on padding.
    mask : (B, V) bool. Real atoms.
    descriptors : (B, P) float. Scaled molecule descriptors; P may be 0.
    y : (B, T) float. Labels in the model's scaled space, 0 where missing.
    label_mask : (B, T) bool. Known labels.
    """

    atoms: Tensor
    sizes: Tensor
    bonds: Tensor
    pair_codes: Tensor
    distance: Tensor
    mask: Tensor
    descriptors: Tensor
    y: Tensor
    label_mask: Tensor

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def slots(self) -> Tensor:
        """(A,) int64. Where each real atom lies in a (B * V) padded layout."""
        count, total = self.sizes.shape[0], self.atoms.shape[0]
        within = torch.arange(total, device=self.sizes.device)
        starts = torch.cumsum(self.sizes, 0) - self.sizes
        rows = torch.arange(count, device=self.sizes.device) * self.mask.shape[1]
        shift = torch.repeat_interleave(rows - starts, self.sizes, output_size=total)
        return within + shift

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def pad(self, width: int) -> Batch:
        """The same batch with room for `width` >= V atoms a molecule."""
        extra = width - self.mask.shape[1]
        if extra < 0:
            raise ValueError(f"a batch {self.mask.shape[1]} atoms wide cannot be cut to {width}")
        grow = torch.nn.functional.pad
        return replace(
            self,
            pair_codes=grow(self.pair_codes, (0, extra, 0, extra)),
            distance=grow(self.distance, (0, extra, 0, extra), value=UNREACHABLE),
            mask=grow(self.mask, (0, extra)),
        )

    @classmethod
    def from_dgl(
        cls, graph: DGLGraph, *, node: str = "h", edge: str = "e", bond_size: int = 1
    ) -> Batch:
        """Read a (batched) DGLGraph as dgllife makes it: `ndata[node]`, `edata[edge]`.

        Distances are shortest paths over the edges, each as long as `edata["distance"]` says,
        else 1. Labels and descriptors are left empty. Edges without features read as ones;
        `bond_size` is the width of `bonds` for a graph without edges, which does not tell it.
        """
        g: Any = graph
        if node not in g.ndata:
            raise ValueError(
                f'the graph has no ndata["{node}"]; it has {sorted(g.ndata)}. '
                "Name the atom features with node=..."
            )
        atoms = g.ndata[node].float()
        sizes = g.batch_num_nodes().to(torch.int64)
        count, width = len(sizes), int(sizes.max())
        starts = torch.cumsum(sizes, 0) - sizes
        src, dst = (end.to(torch.int64) for end in g.edges())
        home = torch.repeat_interleave(torch.arange(count, device=sizes.device), sizes)[src]
        src, dst = src - starts[home], dst - starts[home]
        columns = 1 if len(src) else bond_size
        features = g.edata[edge].float() if edge in g.edata else atoms.new_ones(len(src), columns)
        rows, codes = torch.unique(features, dim=0, return_inverse=True)
        pair_codes = sizes.new_zeros(count, width, width)
        pair_codes[home, src, dst] = codes + 1
        length = g.edata.get("distance", torch.ones_like(src))
        return cls(
            atoms=atoms,
            sizes=sizes,
            bonds=torch.cat([rows.new_zeros(1, features.shape[1]), rows]),
            pair_codes=pair_codes,
            distance=_shortest_paths(sizes, home, src, dst, length),
            mask=torch.arange(width, device=sizes.device) < sizes[:, None],
            descriptors=atoms.new_zeros(count, 0),
            y=atoms.new_zeros(count, 0),
            label_mask=torch.zeros(count, 0, dtype=torch.bool, device=sizes.device),
        )

    def to_dgl(self) -> DGLGraph:
        """A batched DGLGraph on the CPU with `ndata["h"]`, `edata["e"]`, `edata["distance"]`."""
        dgl = molecules.dgl()
        home, src, dst = (t.cpu() for t in torch.nonzero(self.pair_codes, as_tuple=True))
        sizes = self.sizes.cpu()
        starts = torch.cumsum(sizes, 0) - sizes
        ends = (src + starts[home], dst + starts[home])
        graph = dgl.graph(ends, num_nodes=int(sizes.sum()))
        graph.set_batch_num_nodes(sizes)
        graph.set_batch_num_edges(torch.bincount(home, minlength=len(sizes)))
        graph.ndata["h"] = self.atoms.cpu()
        graph.edata["e"] = self.bonds.cpu()[self.pair_codes.cpu()[home, src, dst]]
        graph.edata["distance"] = self.distance.cpu()[home, src, dst]
        return graph


def _shortest_paths(
    sizes: Tensor, home: Tensor, src: Tensor, dst: Tensor, length: Tensor
) -> Tensor:
    """(B, V, V) int64 shortest paths of each graph of a batch, `UNREACHABLE` where none."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import shortest_path

    width = int(sizes.max())
    out = np.full((len(sizes), width, width), UNREACHABLE, dtype=np.int64)
    home_, src_, dst_, length_ = (t.cpu().numpy() for t in (home, src, dst, length))
    for b, size in enumerate(sizes.tolist()):
        here = (home_ == b) & (src_ != dst_) & (length_ > 0)
        edges = coo_matrix((length_[here], (src_[here], dst_[here])), shape=(size, size))
        paths = shortest_path(edges.tocsr())
        out[b, :size, :size] = np.where(np.isinf(paths), UNREACHABLE, paths)
    return torch.from_numpy(out).to(sizes.device)


def _first_seen(codes: np.ndarray, rows: np.ndarray, *before: int) -> tuple[Tensor, Tensor]:
    """Codes numbered anew in order of first sight, and their rows; `before` are seen already."""
    seen = np.concatenate([np.array(before, dtype=codes.dtype), codes])
    place = np.full(len(rows), len(seen))
    place[seen[::-1]] = np.arange(len(seen))[::-1]
    used = np.flatnonzero(place < len(seen))
    used = used[np.argsort(place[used])]
    renumbered = np.empty(len(rows), dtype=np.int32)
    renumbered[used] = np.arange(len(used))
    return torch.from_numpy(renumbered[codes]), torch.from_numpy(rows[used])


def _merged(parts: Iterable[tuple[Tensor, Tensor]], *before: int) -> tuple[Tensor, Tensor]:
    """Codes and rows of several sets, one after another, with no row twice."""
    arrays = [(codes.numpy(), rows.numpy()) for codes, rows in parts]
    table = molecules.Table(arrays[0][1].shape[1])
    codes = [np.array([table.add(row) for row in rows])[codes] for codes, rows in arrays]
    return _first_seen(np.concatenate(codes), table.rows, *before)


def _ranges(starts: Tensor, lengths: Tensor, total: int) -> Tensor:
    """Concatenated `arange(start, start + length)` of each pair; `total` -> sum of lengths."""
    shift = starts - (torch.cumsum(lengths, 0) - lengths)
    steps = torch.arange(total, device=starts.device)
    return steps + torch.repeat_interleave(shift, lengths, output_size=total)


def _sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` of the CPU on `device`; a GPU fetches it by itself, without being waited for."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def _offsets(lengths: np.ndarray) -> Tensor:
    return torch.tensor(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


@dataclass(frozen=True)
class PackedMolecules:
    """N molecules in flat tensors: distinct rows, codes, and offsets that say whose is whose.

    `atom_rows[atom_codes]` are dgllife's atom features bit for bit, molecule after molecule;
    `bond_rows[edge_codes]` those of the edges `edge_src -> edge_dst` (row 0 of `bond_rows` is
    "no bond"). Columns that take any value (Gasteiger charges) are 0 in `atom_rows` and stand in
    `charges`, a row per atom. `distances` holds V * V shortest paths a molecule. `y` is (N, T)
    with NaN for missing; `descriptors` (N, P).
    """

    featurizer: str
    atom_rows: Tensor
    bond_rows: Tensor
    atom_codes: Tensor
    charges: Tensor
    edge_codes: Tensor
    edge_src: Tensor
    edge_dst: Tensor
    distances: Tensor
    atom_offsets: Tensor
    edge_offsets: Tensor
    pair_offsets: Tensor
    y: Tensor
    descriptors: Tensor

    @classmethod
    def from_mols(
        cls, mols: Iterable[Mol], featurizer: str, y: np.ndarray | Tensor | None = None
    ) -> PackedMolecules:
        """Featurize `mols` with the dgllife featurizer of that name; `y` (N, T), NaN missing."""
        mols, kind = list(mols), molecules.featurizer(featurizer)
        if not mols:
            raise ValueError("there are no molecules to pack")
        found = molecules.encode(mols, featurizer)
        atom_codes, atom_rows = _first_seen(found.atoms, kind.atom_table.rows)
        edge_codes, bond_rows = _first_seen(found.bonds, kind.bond_table.rows, _NO_BOND)
        bonds = molecules.bond_ends(mols) if kind.complete else (found.edges, found.src, found.dst)
        packed = cls(
            featurizer=featurizer,
            atom_rows=atom_rows,
            bond_rows=bond_rows,
            atom_codes=atom_codes,
            charges=torch.from_numpy(found.charges),
            edge_codes=edge_codes,
            edge_src=torch.from_numpy(found.src.astype(np.int16)),
            edge_dst=torch.from_numpy(found.dst.astype(np.int16)),
            distances=torch.from_numpy(molecules.shortest_paths(found.sizes, *bonds)),
            atom_offsets=_offsets(found.sizes),
            edge_offsets=_offsets(found.edges),
            pair_offsets=_offsets(found.sizes**2),
            y=torch.empty(len(mols), 0),
            descriptors=torch.empty(len(mols), 0),
        )
        return packed if y is None else packed.labelled(y)

    @classmethod
    def concat(cls, packs: Sequence[PackedMolecules]) -> PackedMolecules:
        """The molecules of several sets on the CPU, one after another, as if packed at once."""
        if len({pack.featurizer for pack in packs}) != 1:
            raise ValueError("sets to put together need one featurizer, the same for all")
        joined = {
            name: torch.cat([getattr(pack, name) for pack in packs])
            for name in ("charges", "edge_src", "edge_dst", "distances", "y", "descriptors")
        }
        lengths = {
            name: _offsets(np.concatenate([getattr(pack, name).diff().numpy() for pack in packs]))
            for name in ("atom_offsets", "edge_offsets", "pair_offsets")
        }
        atom_codes, atom_rows = _merged((p.atom_codes, p.atom_rows) for p in packs)
        edge_codes, bond_rows = _merged(((p.edge_codes, p.bond_rows) for p in packs), _NO_BOND)
        return replace(
            packs[0],
            atom_codes=atom_codes,
            atom_rows=atom_rows,
            edge_codes=edge_codes,
            bond_rows=bond_rows,
            **joined,
            **lengths,
        )

    def labelled(self, y: np.ndarray | Tensor) -> PackedMolecules:
        """The same molecules with labels `y` (N, T), NaN missing."""
        if np.ndim(y) != 2 or len(y) != len(self):
            raise ValueError(
                f"y must be ({len(self)}, T), a row per molecule and a column per task, "
                f"not {tuple(np.shape(y))}"
            )
        return replace(self, y=torch.as_tensor(y, dtype=torch.float32))

    def __len__(self) -> int:
        return len(self.atom_offsets) - 1

    @property
    def sizes(self) -> Tensor:
        """(N,) int64. Atoms of each molecule."""
        return self.atom_offsets.diff()

    def to(self, device: torch.device | str) -> PackedMolecules:
        """The same data set on another device."""
        return replace(self, **{name: t.to(device) for name, t in self.tensors().items()})

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        tensors = {name: t.contiguous() for name, t in self.tensors().items()}
        save_file(tensors, path, metadata={"featurizer": self.featurizer})

    @classmethod
    def load(cls, path: str | Path) -> PackedMolecules:
        """Read what `save` wrote."""
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(featurizer=file.metadata()["featurizer"], **tensors)

    def tensors(self) -> dict[str, Tensor]:
        """All but the name of the featurizer."""
        names = (f.name for f in fields(self) if f.name != "featurizer")
        return {name: getattr(self, name) for name in names}

    def batch(self, index: Sequence[int] | np.ndarray | Tensor) -> Batch:
        """The molecules `index`, in that order, as one padded `Batch` on the same device.

        index -> positions, counted from the end if negative, or a mask (N,), as NumPy reads them.
        """
        device = self.atom_codes.device
        chosen = np.arange(len(self))[torch.as_tensor(index).cpu().numpy()]
        lengths, edges = (part[chosen] for part in self._lengths)
        count, width = len(chosen), int(lengths.max())
        index = _sent(torch.from_numpy(chosen), device)
        sizes = self.sizes[index]
        y = self.y[index]
        known = ~torch.isnan(y)
        return Batch(
            atoms=self._atoms(index, sizes, int(lengths.sum())),
            sizes=sizes,
            bonds=self.bond_rows,
            pair_codes=self._pair_codes(index, count, width, int(edges.sum())),
            distance=self._distance(index, sizes, width, int((lengths**2).sum())),
            mask=torch.arange(width, device=device) < sizes[:, None],
            descriptors=self.descriptors[index],
            y=torch.where(known, y, 0.0),
            label_mask=known,
        )

    @cached_property
    def _lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Atoms and edges of each molecule, kept on the host: a batch need not ask its device."""
        atoms, edges = self.atom_offsets.diff(), self.edge_offsets.diff()
        return atoms.cpu().numpy(), edges.cpu().numpy()

    def _atoms(self, index: Tensor, sizes: Tensor, total: int) -> Tensor:
        places = _ranges(self.atom_offsets[index], sizes, total)
        atoms = self.atom_rows.index_select(0, self.atom_codes[places])
        dense = molecules.FEATURIZERS[self.featurizer].continuous
        for column, charges in zip(dense, self.charges.T, strict=True):
            atoms[:, column] = charges[places]
        return atoms

    def _pair_codes(self, index: Tensor, count: int, width: int, total: int) -> Tensor:
        lengths = self.edge_offsets.diff()[index]
        edges = _ranges(self.edge_offsets[index], lengths, total)
        home = torch.repeat_interleave(lengths, output_size=total)
        slot = (home * width + self.edge_src[edges]) * width + self.edge_dst[edges]
        codes = home.new_zeros(count * width * width)
        codes[slot] = self.edge_codes[edges].to(codes.dtype)
        return codes.view(count, width, width)

    def _distance(self, index: Tensor, sizes: Tensor, width: int, total: int) -> Tensor:
        lengths, count = sizes**2, len(index)
        pairs = _ranges(self.pair_offsets[index], lengths, total)
        home = torch.repeat_interleave(lengths, output_size=total)
        within = pairs - self.pair_offsets[index][home]
        row = torch.div(within, sizes[home], rounding_mode="floor")
        slot = (home * width + row) * width + within - row * sizes[home]
        distance = torch.full((count * width * width,), UNREACHABLE, device=pairs.device)
        distance[slot] = self.distances[pairs].to(distance.dtype)
        return distance.view(count, width, width)


def training_batches(
    sizes: np.ndarray,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    max_pairs: int = 1_000_000,
    pool: int = 20,
) -> list[np.ndarray]:
    """Random batches of like-sized molecules: a function of (seed, epoch) and nothing else.

    The molecules are shuffled, cut into pools of `pool` batches, sorted by size within each pool
    and cut into batches of at most `batch_size` molecules and `max_pairs` padded atom pairs; the
    batches are shuffled again. Every molecule comes once.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(sizes))
    batches = []
    for start in range(0, len(order), pool * batch_size):
        part = order[start : start + pool * batch_size]
        part = part[np.argsort(sizes[part], kind="stable")]
        batches += _cut(part, sizes, batch_size, max_pairs)
    return [batches[i] for i in rng.permutation(len(batches))]


def evaluation_batches(
    sizes: np.ndarray, batch_size: int, *, max_pairs: int = 1_000_000
) -> list[np.ndarray]:
    """All molecules once, smallest first, in batches bounded as in `training_batches`."""
    return _cut(np.argsort(sizes, kind="stable"), sizes, batch_size, max_pairs)


def _cut(order: np.ndarray, sizes: np.ndarray, batch_size: int, max_pairs: int) -> list[np.ndarray]:
    """Cut an order of ascending size into batches; a molecule over the bound goes alone."""
    cuts, start = [], 0
    for i, molecule in enumerate(order):
        full = i - start == batch_size or (i + 1 - start) * sizes[molecule] ** 2 > max_pairs
        if full and i > start:
            cuts.append(i)
            start = i
    return np.split(order, cuts)
