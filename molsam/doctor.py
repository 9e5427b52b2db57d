"""What this machine has for molsam, whether it works together, and what to do where it does not.

Nothing is imported before it is looked for, so that an installation with faults can be examined.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from .batches import PackedMolecules
    from .models import MoleculeModel

ROOM = 1 << 30  # bytes; downloads, the cache and some runs
FEATURIZER = "canonical"
PROBES = ("CC(=O)Oc1ccccc1C(=O)O", "[Na+].[Cl-]", "C")
AGREEMENT = 1e-4  # of predictions of order one: matrix products on a GPU may round to ten bits


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what it is, what was found, and what to do if that is a fault."""

    name: str
    found: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Everything, in the order in which faults follow from each other."""
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    yield Finding("molsam", _version("molsam") or "imported from a folder, not installed")
    yield from chain(packages(), extras())
    for part in (folders, device, graphs, training):
        yield from _survived(part)


def packages() -> Iterator[Finding]:
    """Every package that molsam needs: its version, and whether that will do."""
    for requirement in _requirements():
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement)


def extras() -> Iterator[Finding]:
    """The optional packages; one that is not installed is no fault."""
    found: dict[str, list[str]] = {}
    for requirement in _requirements():
        extra = re.search(r"extra == ['\"](\w+)['\"]", str(requirement.marker))
        if extra and extra[1] not in ("dev", "docs"):
            found.setdefault(extra[1], []).append(requirement.name)
    for extra, names in found.items():
        here = all(_version(name) for name in names)
        shown = ", ".join(f"{name} {_version(name)}" for name in names)
        yield Finding(f"extra {extra}", shown if here else f"pip install 'molsam[{extra}]' adds it")


def folders() -> Iterator[Finding]:
    """Where data and what was worked out of them are kept, and where temporary files go."""
    from . import cache
    from .datasets import cache_folder

    if data := os.environ.get("MOLSAM_DATA"):
        wrong = "" if Path(data).is_dir() else "let MOLSAM_DATA name a folder, or unset it"
        yield Finding("data (MOLSAM_DATA)", data if not wrong else f"no folder {data}", wrong)
    yield _folder("downloads", cache_folder(), "XDG_CACHE_HOME")
    yield _folder("cache", cache.folder(), "MOLSAM_CACHE")
    yield _folder("temporary files", Path(tempfile.gettempdir()), "TMPDIR")


def device() -> Iterator[Finding]:
    """What torch computes with."""
    import torch

    from .environment import device_name, pick_device

    chosen = pick_device("auto")
    if chosen.type != "cpu":
        yield Finding("device", device_name(chosen))
    elif shutil.which("nvidia-smi"):
        fault = "is built without CUDA" if torch.version.cuda is None else "cannot use it"
        found = f"an NVIDIA driver, but torch {torch.__version__} {fault}"
        advice = "install torch for this driver, as pytorch.org says; until then the CPU is used"
        yield Finding("device", found, advice)
    else:
        yield Finding("device", f"{device_name(chosen)}, {os.cpu_count()} cores; no CUDA, no MPS")


def graphs() -> Iterator[Finding]:
    """Molecules read by RDKit and described by dgllife: as a DGL graph and packed, one answer."""
    import torch

    from .molecules import dgl, parse_many, to_dgl

    model, packed = _tiny()
    graph = dgl().batch([to_dgl(mol, FEATURIZER) for mol in parse_many(PROBES).mols])
    with torch.inference_mode():
        apart = float((model.eval()(graph) - model(packed.batch(range(len(packed))))).abs().max())
    yield _agreement(
        "graphs",
        "predictions of a DGL graph and of packed molecules",
        apart,
        "install dgl and dgllife anew",
    )


def training() -> Iterator[Finding]:
    """One step of GraphSAM on the device that is used if none is named, and on the CPU."""
    import torch

    from .environment import pick_device
    from .optim import GraphSAM

    predictions = []
    for chosen in (torch.device("cpu"), pick_device("auto")):
        model, packed = _tiny()
        model.to(chosen)
        batch = packed.to(chosen).batch(range(len(packed)))
        optimizer = GraphSAM(torch.optim.AdamW(model.parameters(), lr=1e-3), rho=0.01)

        def closure(model=model, batch=batch, optimizer=optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.inference_mode():
            predictions.append(model.eval()(batch).cpu())
    apart = float((predictions[0] - predictions[1]).abs().max())
    what = f"predictions after a step of GraphSAM on {chosen} and on the CPU"
    yield _agreement("training", what, apart, "train with --device cpu, and report this device")


def _tiny() -> tuple[MoleculeModel, PackedMolecules]:
    """A model, always the same, and molecules for it."""
    import torch

    from .batches import PackedMolecules
    from .models import CoMPT
    from .molecules import featurizer, parse_many

    kind = featurizer(FEATURIZER)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = CoMPT(kind.atom_size, kind.bond_size, 1, width=16, depth=1, heads=2)
    return model, PackedMolecules.from_mols(parse_many(PROBES).mols, FEATURIZER)


def _survived(part: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a part finds; of one that fails, why."""
    try:
        yield from part()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        advice = "mend the packages above, or install molsam into a fresh environment"
        yield Finding(part.__name__, f"{type(error).__name__}: {reason}", advice)


def _agreement(name: str, what: str, apart: float, advice: str) -> Finding:
    """Whether two ways to the same predictions came to them."""
    return Finding(name, f"{what}: {apart:.1g} apart", "" if apart <= AGREEMENT else advice)


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(line) for line in requires("molsam") or []]
    except PackageNotFoundError:  # imported from a checkout
        return []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(requirement: Requirement) -> Finding:
    wanted = f"{requirement.name}{requirement.specifier}"
    found = _version(requirement.name)
    fits = found is not None and requirement.specifier.contains(found, prereleases=True)
    return Finding(
        requirement.name, found or "not installed", "" if fits else f"pip install '{wanted}'"
    )


def _folder(name: str, path: Path, variable: str) -> Finding:
    """A folder that must take files: one may be written there, and how much room there is."""
    elsewhere = f"let {variable} name a folder that may be written to and has room"
    home = next(place for place in (path, *path.parents) if place.exists())
    if not os.access(home, os.W_OK | os.X_OK) or not home.is_dir():
        return Finding(name, f"{path}: cannot be written to", elsewhere)
    free = shutil.disk_usage(home).free
    return Finding(name, f"{path}: {free / 2**30:.1f} GiB free", "" if free > ROOM else elsewhere)
