"""All that a GPU is needed for, in one go: `python tests/gpu.py [--out FOLDER] [--device cuda]`.

Compares the device with the CPU, runs the tests marked `cuda`, times steps and prints the tables of
`molsam bench`. What it prints, and gpu.json, lie in FOLDER: $OUT if not given, else runs/gpu.
Exit code 0 if all held, 1 if something did not, 2 without such a device.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from random_batches import ATOM, BOND, OUTPUTS, random_batch
from torch import Tensor, nn

from molsam import bench, doctor, screen
from molsam.batches import Batch
from molsam.bench.racing import wait_for
from molsam.compiling import CompiledLayers
from molsam.environment import autocast
from molsam.losses import mse
from molsam.models import MODELS
from molsam.optim import GraphSAM

SECONDS = 500  # no section is started later than this after the first
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "CoMPT, mean": ("compt", {}),
    "CoMPT, gru": ("compt", {"readout": "gru", "kernel": "softmax", "norm": "scale"}),
    "GraphTransformer": ("graph_transformer", {"attention_dropout": 0.0}),
}
# Largest difference allowed, as a share of the largest entry compared.
BOUNDS = {
    "outputs": 1e-4,
    "gradients": 1e-4,
    "compiled outputs": 1e-4,
    "compiled gradients": 1e-4,
    "bfloat16 outputs": 0.05,
    "losses of 20 steps": 1e-3,
    "bfloat16 losses of 20 steps": 0.1,
    "predictions of a run": 1e-4,
}
TABLES: dict[str, tuple[Callable[..., Any], Callable[[dict[str, Any]], None], dict[str, int]]] = {
    "model": (bench.compare_models, screen.say_models, {"rounds": 3, "steps": 34}),
    "optimizers": (bench.compare_optimizers, screen.say_optimizers, {"rounds": 3}),
    "train": (bench.measure_training, screen.say_training, {"rounds": 2, "epochs": 6}),
    "predict": (bench.measure_prediction, screen.say_prediction, {"rounds": 2}),
}
STEPS: dict[str, Any] = {"width": 256, "batch_sizes": (32, 256), "warm": 8, "steps": 50}


def examine(device: torch.device) -> dict[str, Any]:
    """What `molsam doctor` finds, which picks its device by itself."""
    findings = list(doctor.examine())
    for finding in findings:
        say(f"{finding.name}: {finding.found}{finding.advice and '; FAULT: ' + finding.advice}")
    faults = [finding.name for finding in findings if finding.advice]
    return {"rows": [asdict(finding) for finding in findings], "ok": not faults}


def build(name: str, seed: int = 0, **config: Any) -> nn.Module:
    """A model of `FORMS` with the weights of `seed`, on the CPU, in training mode."""
    torch.manual_seed(seed)
    kind, form = FORMS[name]
    return MODELS[kind](ATOM, BOND, OUTPUTS, **{"width": 32, "depth": 2, **form, **config}).train()


def share(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference as a share of the largest entry of `expected`."""
    pairs = list(zip((x.detach().cpu().float() for x in found), expected, strict=True))
    largest = max(float(y.detach().abs().max()) for _, y in pairs)
    return max(float((x - y.detach()).abs().max()) for x, y in pairs) / largest


def outputs_and_gradients(model: nn.Module, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    model.zero_grad()
    output = model(batch)
    mse(output.float(), batch.y, batch.label_mask).backward()
    return [output], [p.grad for p in model.parameters() if p.grad is not None]


def train(
    model: nn.Module, batches: list[Batch], count: int, precision: str = "float32"
) -> list[Tensor]:
    """Losses of `count` steps of GraphSAM, an anchor in every tenth."""
    device = batches[0].mask.device
    base = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    optimizer = GraphSAM(base, rho=0.05, beta=0.9, reuse_interval=10)
    losses = []
    for step in range(count):
        batch = batches[step % len(batches)]

        def closure(batch: Batch = batch) -> Tensor:
            optimizer.zero_grad()
            with autocast(device, precision):
                output = model(batch)
            loss = mse(output.float(), batch.y, batch.label_mask)
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).detach())
    return [torch.stack(losses)]


def compare_models(device: torch.device) -> Iterator[tuple[str, str, float]]:
    """(what, model, difference) of each model on the CPU and on `device`."""
    here = [random_batch(seed=seed) for seed in range(4)]
    there = [batch.to(device) for batch in here]
    for name in FORMS:
        model = build(name)
        output, gradients = outputs_and_gradients(copy.deepcopy(model), here[0])
        moved = copy.deepcopy(model).to(device)
        found = outputs_and_gradients(moved, there[0])
        yield "outputs", name, share(found[0], output)
        yield "gradients", name, share(found[1], gradients)
        with autocast(device, "bfloat16"):
            yield "bfloat16 outputs", name, share([moved(there[0])], output)
        losses = train(copy.deepcopy(model), here, 20)
        found = train(copy.deepcopy(model).to(device), there, 20)
        yield "losses of 20 steps", name, share(found, losses)
        found = train(copy.deepcopy(model).to(device), there, 20, "bfloat16")
        yield "bfloat16 losses of 20 steps", name, share(found, losses)


def compare_compiled(device: torch.device) -> Iterator[tuple[str, str, float]]:
    """(what, model, difference) of each model with its layers compiled, from the CPU's."""
    for name in FORMS:
        model, batch = build(name), random_batch()
        output, gradients = outputs_and_gradients(copy.deepcopy(model), batch)
        moved = model.to(device)
        with CompiledLayers(moved.layers)():
            found = outputs_and_gradients(moved, batch.to(device))
        yield "compiled outputs", name, share(found[0], output)
        yield "compiled gradients", name, share(found[1], gradients)


def compare_runs(device: torch.device) -> Iterator[tuple[str, str, float]]:
    """(what, model, difference) of the predictions of a run that the CPU trained."""
    import tiny

    from molsam import Run, fit

    with tempfile.TemporaryDirectory() as folder, tiny.undrawn():
        for name in MODELS:
            recipe = tiny.recipe(**{"model.name": name})
            run = fit(recipe, tiny.regression(), out=Path(folder) / name, device="cpu")
            moved = Run.load(run.folder, device=str(device))
            here, there = (torch.tensor(r.predict(tiny.PROBES)["activity"]) for r in (run, moved))
            yield "predictions of a run", name, share([there], [here.float()])


def parity(device: torch.device, compare: Callable[..., Any]) -> dict[str, Any]:
    """Rows of `compare`, each with its bound."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # or its GRU has ten bits
        found = list(compare(device))
    rows = []
    for what, model, difference in found:
        ok = difference <= BOUNDS[what]
        rows.append({"what": what, "model": model, "difference": difference, "ok": ok})
        verdict = "ok" if ok else "FAILED"
        say(f"{what:28} {model:18} {difference:.2g} of {BOUNDS[what]:g}  {verdict}")
    return {"rows": rows, "ok": all(row["ok"] for row in rows)}


def time_steps(device: torch.device) -> dict[str, Any]:
    """Milliseconds a step of GraphSAM on ready batches: as it is, in bfloat16, compiled, both."""
    rows = []
    for name in FORMS:
        for batch_size in STEPS["batch_sizes"]:
            sizes = [[6 + (m + 3 * b) % 40 for m in range(batch_size)] for b in range(4)]
            batches = [random_batch(s, seed=b).to(device) for b, s in enumerate(sizes)]
            for precision in ("float32", "bfloat16"):
                for compiled in (False, True):
                    model = build(name, width=STEPS["width"], depth=3, heads=4).to(device)
                    with CompiledLayers(model.layers)() if compiled else nullcontext():
                        train(model, batches, STEPS["warm"], precision)
                        wait_for(device)
                        began = time.perf_counter()
                        train(model, batches, STEPS["steps"], precision)
                        wait_for(device)
                    milliseconds = 1e3 * (time.perf_counter() - began) / STEPS["steps"]
                    row = {"model": name, "batch_size": batch_size, "precision": precision}
                    rows.append(row | {"compiled": compiled, "milliseconds": milliseconds})
                    how = f"{precision}{', compiled' if compiled else ''}"
                    say(f"{name:18} {batch_size:4} molecules  {how:20} {milliseconds:8.2f} ms")
    return {"rows": rows, "ok": True}


def run_tests(device: torch.device) -> dict[str, Any]:
    """The tests marked `cuda`."""
    if device.type != "cuda":
        return {"ok": True, "skipped": "tests marked cuda need CUDA"}
    here = Path(__file__).parent
    files = [str(file) for file in here.glob("test_*.py") if "mark.cuda" in file.read_text()]
    words = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *files]
    done = subprocess.run(words, capture_output=True, text=True, cwd=here.parent)
    say(done.stdout[-6000:] + done.stderr[-2000:])
    return {"ok": done.returncode == 0, "code": done.returncode}


def table(device: torch.device, name: str) -> dict[str, Any]:
    """One table of `molsam bench`."""
    measure, show, settings = TABLES[name]
    report = measure(device=str(device), **settings)
    with screen.out.capture() as text:
        show(report)
    say(text.get())
    return {**report, "ok": True}


SECTIONS: dict[str, Callable[[torch.device], dict[str, Any]]] = {
    "doctor": examine,
    "parity of models": lambda device: parity(device, compare_models),
    "parity of runs": lambda device: parity(device, compare_runs),
    "parity of compiled layers": lambda device: parity(device, compare_compiled),
    "tests": run_tests,
    **{f"bench {name}": lambda device, name=name: table(device, name) for name in TABLES},
    "steps": time_steps,
}
SAID: list[str] = []


def say(text: str) -> None:
    print(text, flush=True)
    SAID.append(text)


def write(folder: Path, report: dict[str, Any]) -> None:
    """After every section, so that what is cut short has left what it found."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(report, indent=1, default=str) + "\n")
    (folder / "gpu.txt").write_text("\n".join(SAID) + "\n")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "runs/gpu")))
    parser.add_argument("--device", default="cuda")
    chosen = parser.parse_args(words)
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("this machine has no CUDA device that torch can use: nothing was checked")
        return 2
    report: dict[str, Any] = {"torch": torch.__version__, "device": str(device)}
    if device.type == "cuda":
        report["processor"] = torch.cuda.get_device_name(device)
    SAID.clear()
    say(str(report))
    began = time.monotonic()
    for name, section in SECTIONS.items():
        started = time.monotonic()
        if started - began > SECONDS:
            say(f"== {name}: left out, {SECONDS} seconds are over")
            continue
        say(f"== {name}")
        try:
            report[name] = section(device)
        except (Exception, SystemExit):
            say(traceback.format_exc()[-4000:])
            report[name] = {"ok": False, "error": traceback.format_exc()[-4000:]}
        report[name]["took_seconds"] = round(time.monotonic() - started, 1)
        write(chosen.out, report)
    failed = [name for name in SECTIONS if not report.get(name, {"ok": True})["ok"]]
    say(f"failed: {', '.join(failed)}" if failed else "all held")
    write(chosen.out, report)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
