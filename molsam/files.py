"""Writing and reading the files of a run: atomically, and with nothing that can execute."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

Model = TypeVar("Model", bound=BaseModel)


SUMS = "SHA256SUMS"
LOCK = ".lock"
SIX_FIGURES = ".6g"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # as OWASP lists them
# What damaged content raises, wherever it is first used.
UNFIT = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError),
    *(SafetensorError, TypeError, ValueError),
)


class RunError(ValueError):
    """A run folder that cannot be used: says which file, what is wrong with it, what to try."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which a reader sees as it was or whole, never in part.

    Its name is drawn, so that processes may write one path at once: the last to finish stays.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write {path}: {error.strerror}; what was finished stays usable"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file at once or not at all, and so that it outlasts a power cut."""
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk: without it a power cut may undo the last renaming."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def working_on(folder: Path) -> Iterator[None]:
    """Make `folder` and keep other processes out of it; the system ends this with the process.

    Raises
    ------
    RunError : another process works on it, or it holds a link, through which what is written would
        land elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if link := next(filter(Path.is_symlink, folder.rglob("*")), None):
        raise RunError(f"{link} is a link, and a run is written to its own folder alone; remove it")
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"another process works on {folder}: wait for its end, or name another folder (out)"
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_json(path: Path, data: Any) -> None:
    """Indented JSON, atomically."""
    write_atomic(path, (json.dumps(data, indent=1) + "\n").encode())


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `'` before each text that a spreadsheet would run as a formula, names too."""

    def guarded(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith(FORMULA) or _is_number(value):
            return value
        return f"'{value}"

    return frame.map(guarded).rename(columns=guarded)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def rounded(number: float) -> float:
    """To six figures, as `to_csv` writes it."""
    return float(format(number, SIX_FIGURES))


def to_csv(frame: pd.DataFrame) -> bytes:
    """A table without its index, numbers to six figures."""
    return frame.to_csv(index=False, lineterminator="\n", float_format=f"%{SIX_FIGURES}").encode()


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """`to_csv`, atomically."""
    write_atomic(path, to_csv(frame))


def save_state(path: Path, state: Any) -> None:
    """Nested dicts, lists and tuples of tensors and plain values, as one safetensors file."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_fold(state, tensors))
    write_atomic(path, save(tensors, metadata={"tree": tree}))


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Where what `path` holds does not fit, in whatever way that shows, a `RunError` names it."""
    try:
        yield
    except RunError:
        raise
    except UNFIT as error:
        what = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise RunError(
            f"{path} is damaged or not a file of a run ({what}); copy it again, or train anew"
        ) from error


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote, on the CPU."""
    with fitting(path), safe_open(existing(path), "pt") as file:
        tree = json.loads(file.metadata()["tree"])
        return _unfold(tree, file.get_tensor)


def sparse_state(x: np.ndarray) -> dict[str, Any]:
    """A matrix of mostly zeros for `save_state`."""
    rows, columns = np.nonzero(x)
    parts = {"rows": rows, "columns": columns, "values": x[rows, columns]}
    return {name: torch.from_numpy(part) for name, part in parts.items()} | {"shape": list(x.shape)}


def dense_array(state: Mapping[str, Any]) -> np.ndarray:
    """The matrix of which `sparse_state` made `state`."""
    rows, columns, values = (state[name].numpy() for name in ("rows", "columns", "values"))
    x = np.zeros(state["shape"], dtype=values.dtype)
    x[rows, columns] = values
    return x


def _fold(node: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON with tensors replaced by references; each container says what it was."""
    if isinstance(node, Tensor):
        name = str(len(tensors))
        # A copy: safetensors refuses tensors that share memory.
        tensors[name] = node.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(node, Mapping):
        return {"dict": [[key, _fold(value, tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        kind = "list" if isinstance(node, list) else "tuple"
        return {kind: [_fold(value, tensors) for value in node]}
    return {"value": node}


def _unfold(node: dict[str, Any], tensor: Callable[[str], Tensor]) -> Any:
    ((kind, value),) = node.items()
    if kind == "tensor":
        return tensor(value)
    if kind == "dict":
        return {key: _unfold(child, tensor) for key, child in value}
    if kind in ("list", "tuple"):
        children = [_unfold(child, tensor) for child in value]
        return children if kind == "list" else tuple(children)
    return value


def seal(folder: Path, names: Iterable[str]) -> None:
    """Write `SHA256SUMS` over these files, in the form that `sha256sum --check` reads.

    What writers that were killed left behind is removed.
    """
    for partial in folder.rglob(".*.partial"):
        partial.unlink(missing_ok=True)
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in names]
    write_atomic(folder / SUMS, "".join(lines).encode())


def sealed(folder: Path) -> bool:
    """Whether the folder is finished, having its checksums."""
    return (folder / SUMS).is_file()


def unseal(folder: Path) -> None:
    """Let the folder be changed: without its checksums it is unfinished."""
    (folder / SUMS).unlink()


def check_seal(folder: Path, required: Iterable[str]) -> None:
    """Compare a sealed folder with its checksums, which must name all `required` files.

    Raises:
        RunError: names the first file that is missing, changed or not under the seal.
    """
    text = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
    lines = (line.partition("  ") for line in text.splitlines())
    sums = {name: digest for digest, _, name in lines}
    unnamed = [name for name in required if name not in sums]
    if unnamed:
        raise RunError(f"{folder / SUMS} is damaged: {unnamed[0]} is not in it; copy the run again")
    for name, digest in sums.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise RunError(
                f"{folder / SUMS} names {name}, which is not in the run; do not trust it"
            )
        if _sha256(existing(folder / name)) != digest:
            raise RunError(
                f"{folder / name} was changed or cut short after training; copy the run again"
            )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_json(path: Path) -> Any:
    """Parsed JSON; a `RunError` names a file that is missing or damaged."""
    try:
        return json.loads(existing(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, of numbers, of nesting
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} is not valid JSON ({error}); copy the run again") from error


def read_model(path: Path, model: type[Model]) -> Model:
    """JSON as `model`; a `RunError` names the field that does not fit."""
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise RunError(
            f"{path} was edited or is of another version ({place}: {fault['msg'].lower()}); "
            "copy the run again, or train anew"
        ) from error


def existing(path: Path) -> Path:
    """`path`, or a `RunError` if no file is there."""
    if not path.is_file():
        raise RunError(f"{path.parent} is not a whole run: {path.name} is missing; copy it again")
    return path
