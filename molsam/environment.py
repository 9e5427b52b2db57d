"""What a run stands on: a device, a precision, versions."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import torch


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU; any other name is torch's.

    Of processes that torchrun has started on a machine, each has the GPU of its number.
    """
    if name == "auto" and torch.cuda.is_available():
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device {name!r} cannot be used: {reason}") from error
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """`cpu (2 threads)`, or the accelerator's own name."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 autocast, or nothing for float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def provenance() -> dict[str, str]:
    """Versions that a result may depend on."""
    packages = ("molsam", "torch", "rdkit", "dgl", "dgllife", "numpy", "scikit-learn")
    found = {"python": platform.python_version()}
    for name in packages:
        with suppress(PackageNotFoundError):  # an import from a checkout, say
            found[name] = version(name)
    return found
