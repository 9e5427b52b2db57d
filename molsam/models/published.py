"""The published CoMPT's names for its settings and parameters, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

SETTINGS = {
    "d_atom": "atom_size",
    "d_edge": "bond_size",
    "n_output": "outputs",
    "d_model": "width",
    "N": "depth",
    "h": "heads",
    "dropout": "dropout",
    "distance_matrix_kernel": "kernel",
    "max_length": "positions",
    "n_generator_layers": "head_layers",
}
ONLY = {"aggregation_type": "gru", "N_dense": 1, "dense_output_nonlinearity": "mish"}
IDLE = {"leaky_relu_slope"}  # acts between dense layers, of which there is one

PREFIXES = {  # ours -> published
    r"^atom_embedding\.": "node_embed.lut.",
    r"^bond_embedding\.": "edge_embed.lut.",
    r"^positions\.": "pos_embed.pe.",
    r"^layers\.": "encoder.layers.",
    r"^norm\.": "encoder.norm.",
    r"^readout\.": "generator.",
    r"^head\.": "generator.proj.",
    r"\.attention\.query\.": ".self_attn.linears.0.",
    r"\.attention\.key\.": ".self_attn.linears.1.",
    r"\.attention\.value\.": ".self_attn.linears.2.",
    r"\.attention\.out\.": ".self_attn.linears.3.",
    r"\.attention\.fading$": ".self_attn.attenuation_lambda",
    r"\.feed_forward\.": ".feed_forward.linears.0.",
}
UNUSED = re.compile(r"\.self_attn\.linears\.4\.(weight|bias)$")


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `CoMPT` for a published configuration."""
    _same_keys(config, {*SETTINGS, *ONLY, *IDLE, "scale_norm"}, "configuration")
    for key, value in ONLY.items():
        if config[key] != value:
            raise ValueError(
                f"the published configuration has {key} = {config[key]!r}, and only {value!r} "
                "can be read; build a CoMPT(...) and train it instead"
            )
    ours = {SETTINGS[key]: value for key, value in config.items() if key in SETTINGS}
    return ours | {"readout": "gru", "norm": "scale" if config["scale_norm"] else "layer"}


def parameters(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for `model` from published `weights`."""
    ours = model.state_dict()
    norms = {name for name, part in model.named_modules() if isinstance(part, nn.LayerNorm)}
    names = {name: _published_name(name, norms) for name in ours}
    used = {key: value for key, value in weights.items() if not UNUSED.search(key)}
    _same_keys(used, names.values(), "weights")
    state = {name: _convert(key, used[key]) for name, key in names.items()}
    wrong = [names[name] for name in ours if state[name].shape != ours[name].shape]
    if wrong:
        raise ValueError(
            f"the published weights {', '.join(wrong)} do not have the shapes that the "
            "configuration asks for; pass the configuration they were trained with"
        )
    return state


def _published_name(name: str, norms: Collection[str]) -> str:
    module, _, leaf = name.rpartition(".")
    if module in norms:
        name = f"{module}.{ {'weight': 'a_2', 'bias': 'b_2'}[leaf] }"
    for pattern, published in PREFIXES.items():
        name = re.sub(pattern, published, name)
    return name


def _convert(key: str, value: Tensor) -> Tensor:
    if key == "pos_embed.pe.weight":
        return value[1:]  # row 0 is padding's
    if key.endswith(".a_2"):  # their standard deviation is the unbiased one
        return value * (1 - 1 / len(value)) ** 0.5
    return value


def _same_keys(given: Collection[str], wanted: Collection[str], what: str) -> None:
    faults = {
        "lacks": sorted(set(wanted) - set(given)),
        "has the unexpected": sorted(set(given) - set(wanted)),
    }
    said = [f"{fault} {', '.join(keys)}" for fault, keys in faults.items() if keys]
    if said:
        raise ValueError(f"not a published CoMPT: its {what} {' and '.join(said)}")
