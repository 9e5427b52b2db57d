"""The one place that imports DGL and dgllife: quietly, quickly, and whatever torch is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType

from rdkit.rdBase import BlockLogs


@functools.cache
def dgl() -> ModuleType:
    """The module `dgl`, imported on PyTorch without a word and without a file in the home folder.

    DGL 2.x also loads its GraphBolt library, which is built for a few versions of torch only and
    which nothing here uses; where there is none for this torch, an empty module takes its place.
    """
    # Unless told its backend, DGL prints a notice and writes ~/.dgl/config.json.
    os.environ["DGLBACKEND"] = "pytorch"
    if _graphbolt_lacks_this_torch():
        sys.modules.setdefault("dgl.graphbolt", ModuleType("dgl.graphbolt"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("dgl")


def dgllife(part: str) -> ModuleType:
    """The module `dgllife.<part>` with all that it imports, as users of dgllife have it.

    That switches RDKit's log off; here it stays as it was.
    """
    dgl()
    with BlockLogs(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"dgllife.{part}")


@functools.cache
def dgllife_featurizers() -> ModuleType:
    """The module `dgllife.utils.featurizers`, loaded from its own file.

    The packages above it import all of dgllife, with hyperopt, pandas and scikit-learn.
    """
    name = "dgllife.utils.featurizers"
    if name in sys.modules:
        return sys.modules[name]
    dgl()
    path = _folder("dgllife") / "utils" / "featurizers.py"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"dgllife has no {path}: install it again (pip install dgllife)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _graphbolt_lacks_this_torch() -> bool:
    graphbolt = _folder("dgl") / "graphbolt"
    if not graphbolt.is_dir():
        return False
    import torch

    version = torch.__version__.split("+")[0]
    return not any(graphbolt.glob(f"*graphbolt_pytorch_{version}.*"))


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ImportError(
            f"{package} is not installed: pip install {package} "
            "(DGL has packages for Linux and macOS; on Windows use WSL)"
        )
    if not spec.submodule_search_locations:
        raise ImportError(f"{spec.origin} hides the package {package}; give that file another name")
    return Path(spec.submodule_search_locations[0])
