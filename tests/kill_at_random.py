"""Kills commands of molsam at random moments, starts them again, and compares what they leave.

    python tests/kill_at_random.py [KILLS [SEED [TARGET ...]]]

Each command is a child of a process that has imported all and computed nothing, so that a kill may
strike anywhere from its first line to its last. What it leaves in the end has to be what it leaves
when nobody interrupts it. A row a target goes to docs/studies/kills.csv.
"""

from __future__ import annotations

import csv
import http.server
import json
import os
import random
import shutil
import signal
import ssl
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kill_tunes
import pandas as pd
import shell
import tiny
import trustme

from molsam import datasets, epochs, fit, histories, pictures, studies
from molsam.datasets import TASKS
from molsam.files import to_csv

HERE = Path(__file__).parent
EVIDENCE = HERE.parent / "docs" / "studies" / "kills.csv"
BLOCKS, PAUSE = 40, 0.02  # of a download


@dataclass(frozen=True)
class Target:
    """`call(folder)` starts a command or goes on with it; `outcome(folder)` is what it leaves."""

    call: Callable[[Path], None]
    outcome: Callable[[Path], Any]


def train(folder: Path) -> None:
    begun = (folder / "run" / "run.json").is_file()
    new = ["bundled", *shell.SMALL, "--epochs", "3", "--out", folder / "run"]
    asked = ["--resume", folder / "run"] if begun else new
    assert shell.molsam("train", *asked).code == 0


def trained(folder: Path) -> dict[str, Any]:
    """Everything of a run but times, dates and what only goes on with it."""
    left = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "run").rglob("*"))
        if path.is_file() and path.suffix in (".safetensors", ".toml", ".json")
    }
    history = pd.read_csv(folder / "run" / "member-0" / "history.csv").drop(columns=tiny.TIMES)
    predicted = (folder / "run" / "predictions.csv").read_bytes()
    return left | {"history": to_csv(history), "predictions": predicted}


def model(folder: Path) -> None:
    fit(tiny.recipe(epochs=1), tiny.regression(), out=folder)


def predict(folder: Path) -> None:
    run, table = folder.parents[1] / "model", folder.parents[1] / "table.csv"
    assert shell.molsam("predict", run, table, "-o", folder / "predicted.csv.gz").code == 0


def predicted(folder: Path) -> str:
    """The text: gzip writes the time into its header."""
    return pd.read_csv(folder / "predicted.csv.gz", dtype=str).to_csv()


def tune(folder: Path) -> None:
    kill_tunes.tune(folder / "study", trials=4)


def tuned(folder: Path) -> list[Any]:
    return kill_tunes.outcome(kill_tunes.Study.load(folder / "study"))


STUDY = studies.Study(
    about="kills",
    tasks=("bundled",),
    common=tiny.SMALL,
    variants={name: {"optimizer.name": name} for name in ("sam", "graphsam")},
)


def study(folder: Path) -> None:
    list(studies.run_study(STUDY, folder / "study", seeds=1))
    studies.conclude(STUDY, folder / "study")


def studied(folder: Path) -> list[Any]:
    rows = pd.read_csv(folder / "study" / "rows.csv")
    return rows[[name for name in rows if "seconds" not in name]].to_dict("list")


def fetch(folder: Path) -> None:
    datasets.fetch(PUBLISHED, folder / "cache", pause=0.01)


def fetched(folder: Path) -> bytes:
    return (folder / "cache" / PUBLISHED.file).read_bytes()


TARGETS = {
    "train": Target(train, trained),
    "predict": Target(predict, predicted),
    "tune": Target(tune, tuned),
    "study": Target(study, studied),
    "fetch": Target(fetch, fetched),
}


def kill(name: str, kills: int, rng: random.Random, home: Path) -> dict[str, Any]:
    """Kill a target until it has been killed so often; every series ends by a comparison."""
    target, whole = TARGETS[name], home / "whole"
    seconds = run(target, whole)
    expected = target.outcome(whole)
    done = dict.fromkeys(("kills", "commands", "different"), 0)
    while done["kills"] < kills:
        folder = home / f"{name}-{done['commands']}"
        folder.mkdir()
        wait: float | None = rng.uniform(0, seconds)
        while run(target, folder, wait) is None:
            done["kills"] += 1
            more = done["kills"] < kills and rng.random() < 0.8
            wait = rng.uniform(0, seconds) if more else None
        done["commands"] += 1
        done["different"] += target.outcome(folder) != expected
        shutil.rmtree(folder)
    return {"command": name, **done}


def run(target: Target, folder: Path, seconds: float | None = None) -> float | None:
    """How long it took in a child, or None if it was killed after so many seconds."""
    folder.mkdir(exist_ok=True)
    began = time.monotonic()
    child = os.fork()
    if not child:
        code = 1
        try:
            target.call(folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    while seconds is None or time.monotonic() - began < seconds:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"{target.call.__name__} failed by itself in {folder}")
            return time.monotonic() - began
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else time.monotonic() - began


class Slow(http.server.BaseHTTPRequestHandler):
    """A server that takes its time, and goes on with a file where it is asked to."""

    content = b""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        start = int(asked[6:-1]) if asked else 0
        self.send_response(206 if start else 200)
        if start:
            size = len(self.content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        step = len(self.content) // BLOCKS
        for place in range(start, len(self.content), step):
            self.wfile.write(self.content[place : place + step])
            time.sleep(PAUSE)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(home: Path) -> Iterator[datasets.Task]:
    """A published file at an address of this machine; every child trusts its certificate."""
    table = home / "published.csv"
    task, rows = TASKS["esol"], range(40_000)
    pd.DataFrame({"smiles": "C", task.targets[0]: rows}).to_csv(table, index=False)
    read = datasets.read_table(table)
    Slow.content = table.read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.handle_error = lambda *_: None  # a client that was killed
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    authority.cert_pem.write_to_path(str(home / "authority.pem"))
    os.environ |= {"REQUESTS_CA_BUNDLE": str(home / "authority.pem"), "NO_PROXY": "localhost"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield replace(
        task,
        file="esol.csv",
        bucket=f"https://localhost:{server.server_port}/",
        editions={len(read): read.digest()},
    )
    server.shutdown()
    server.server_close()


def main(kills: int = 100, seed: int = 0, *names: str) -> list[dict[str, Any]]:
    """So many kills over all targets; the rows of the evidence."""
    import sklearn.metrics  # noqa: F401
    import torch._dynamo  # noqa: F401

    from molsam import molecules

    global PUBLISHED
    epochs.CHECKPOINT_SECONDS = 0.0  # more to strike
    histories.find_spec = lambda name: None  # no files for TensorBoard, slower than training here
    pictures.draw = lambda *_: None
    molecules.featurize(molecules.parse("CCO"), "compt")
    tiny.regression()
    rng, chosen, rows = random.Random(seed), names or tuple(TARGETS), []
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        table = pd.DataFrame({"smiles": datasets.load("bundled").smiles * 3})
        table.to_csv(home / "table.csv", index=False)
        run(Target(model, os.listdir), home / "model")
        with serving(home) as PUBLISHED:
            for name in chosen:
                part = home / name
                part.mkdir()
                began = time.monotonic()
                row = kill(name, -(-kills // len(chosen)), rng, part)
                rows.append(row | {"seed": seed, "minutes": (time.monotonic() - began) / 60})
                print(json.dumps(row), flush=True)
    return rows


if __name__ == "__main__":
    numbers, targets = [int(w) for w in sys.argv[1:3]], sys.argv[3:]
    found = main(*numbers, *targets)
    with open(EVIDENCE, "w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "minutes": f"{row['minutes']:.1f}"} for row in found)
