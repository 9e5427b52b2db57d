"""torch's random generators: that of the CPU, and those of the devices that tensors are on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CPU = torch.device("cpu")


def generator_states(devices: Iterable[torch.device]) -> dict[torch.device, Tensor]:
    """The state of the CPU's generator, and of those of the CUDA and MPS `devices`."""
    states = {CPU: torch.get_rng_state()}
    for device in set(devices):
        if device.type == "cuda":
            states[device] = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            states[device] = torch.mps.get_rng_state()
    return states


def set_generator_states(states: dict[torch.device, Tensor]) -> None:
    """Put back what `generator_states` gave."""
    for device, state in states.items():
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        elif device.type == "mps":
            torch.mps.set_rng_state(state)
        else:
            torch.set_rng_state(state)


@contextmanager
def same_generators_after(devices: Iterable[torch.device]) -> Iterator[None]:
    """Whatever is drawn inside, generators go on as if it had not been."""
    states = generator_states(devices)
    try:
        yield
    finally:
        set_generator_states(states)
