"""Races: entrants take turns in one process, so that whatever else runs slows all alike."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..environment import provenance

Told = Callable[[int], None]


class Entrant:
    """One of those who race; `seconds` has one number a round."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.seconds: list[float] = []

    def start_round(self) -> None:
        self.seconds.append(0.0)

    def take(self, turn: Sequence[Any]) -> None:
        """`step` on each item of `turn`, timed."""
        wait_for(self.device)
        began = time.perf_counter()
        for item in turn:
            self.step(item)
        wait_for(self.device)
        self.seconds[-1] += time.perf_counter() - began

    def step(self, item: Any) -> None:
        raise NotImplementedError

    def forget(self) -> None:
        """Count and time from here on."""
        self.seconds.clear()


def race(
    entrants: Sequence[Entrant],
    turns: Sequence[Sequence[Any]],
    rounds: int,
    generator: np.random.Generator,
    progress: Told,
) -> None:
    """`rounds` rounds of all turns, after one turn that is left out, for buffers and caches."""
    run_round(entrants, turns[:1], generator)
    for entrant in entrants:
        entrant.forget()
    run_rounds(entrants, turns, rounds, generator, progress)


def run_rounds(
    entrants: Sequence[Entrant],
    turns: Sequence[Sequence[Any]],
    rounds: int,
    generator: np.random.Generator,
    progress: Told,
) -> None:
    """`rounds` rounds of all turns, none left out."""
    for done in range(1, rounds + 1):
        run_round(entrants, turns, generator)
        progress(done)


def run_round(
    entrants: Sequence[Entrant], turns: Sequence[Sequence[Any]], generator: np.random.Generator
) -> None:
    """Every entrant takes every turn, in an order drawn for each."""
    for entrant in entrants:
        entrant.start_round()
    for turn in turns:
        for i in generator.permutation(len(entrants)):
            entrants[i].take(turn)


def take_turns(batches: Sequence[Any], device: torch.device) -> list[Sequence[Any]]:
    """The batches of one turn after another.

    One step on a CPU, where other programs come and go; more elsewhere, since a step that is
    waited for hides that the next could have been queued behind it.
    """
    length = 1 if device.type == "cpu" else 17
    return [batches[i : i + length] for i in range(0, len(batches), length)]


def wait_for(device: torch.device) -> None:
    """Return when `device` has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def machine(device: torch.device) -> dict[str, Any]:
    """Where a bench runs."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": str(device),
        "processor": name,
        "threads": torch.get_num_threads(),
        "versions": provenance(),
    }


def ratios(plain: Entrant, fast: Entrant) -> dict[str, float]:
    """How many times faster `fast` is: the median over rounds, the lowest and the highest."""
    found = np.array(plain.seconds) / np.array(fast.seconds)
    return {
        "ratio": float(np.median(found)),
        "ratio_low": float(found.min()),
        "ratio_high": float(found.max()),
    }


def rate(count: int, entrant: Entrant) -> float:
    """Things done a second, the median over rounds of `count` things each."""
    return float(np.median(count / np.array(entrant.seconds)))
