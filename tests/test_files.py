"""Files of a run: whole or not at all, read as they were written, and nothing executed."""

from __future__ import annotations

import errno
import hashlib
import math
import multiprocessing
import os
import resource
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import trap
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from molsam.files import (
    SUMS,
    RunError,
    check_seal,
    existing,
    load_state,
    read_json,
    save_state,
    seal,
    sealed,
    write_atomic,
    write_json,
)
from molsam.optim import GraphSAM

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
)


@st.composite
def tensors(draw) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    values = draw(st.lists(st.integers(0, 255), min_size=27, max_size=27))
    dtype = draw(st.sampled_from(DTYPES))
    return torch.tensor(values[: math.prod(shape)]).reshape(shape).to(dtype)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TREES = st.recursive(
    PLAIN | tensors(),
    lambda node: (
        st.lists(node, max_size=4)
        | st.lists(node, max_size=4).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=5), node, max_size=4)
    ),
    max_leaves=15,
)


def assert_same(found: object, expected: object) -> None:
    """The same types all the way down, tensors and floats bit for bit."""
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert isinstance(found, dict)
        assert list(map(repr, found)) == list(map(repr, expected))
        assert_same([*found.values()], [*expected.values()])
    elif isinstance(expected, list | tuple):
        assert isinstance(found, list | tuple)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    elif isinstance(expected, float) and math.isnan(expected):
        assert isinstance(found, float)
        assert math.isnan(found)
    else:
        assert repr(found) == repr(expected)


# States


@settings(max_examples=200)
@given(tree=TREES)
def test_a_state_loads_as_it_was_saved(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "state.safetensors"
    save_state(path, tree)
    assert_same(load_state(path), tree)


def test_views_shared_memory_and_parameters_are_saved_by_value(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"whole": whole, "again": whole, "row": whole[1], "turned": whole.T, "0-d": whole[2, 3]}
    save_state(tmp_path / "state", {**state, "weight": torch.nn.Parameter(whole)})
    assert_same(load_state(tmp_path / "state"), {**state, "weight": whole})


def test_kinds_of_dicts_and_tuples_become_plain_ones(tmp_path):
    save_state(tmp_path / "state", OrderedDict(a=torch.Size([2, 3])))
    assert_same(load_state(tmp_path / "state"), {"a": (2, 3)})


def test_an_optimizer_goes_on_as_before(tmp_path):
    def problem():
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 2)
        base = torch.optim.AdamW(model.parameters(), lr=0.1)
        return model, GraphSAM(base, reuse_interval=3)

    def run(model, optimizer, steps):
        x = torch.linspace(-1, 1, 12).reshape(3, 4)
        for _ in range(steps):

            def closure():
                optimizer.zero_grad()
                loss = model(x).square().sum()
                loss.backward()
                return loss

            optimizer.step(closure)

    model, optimizer = problem()
    run(model, optimizer, 4)
    save_state(tmp_path / "state", {"m": model.state_dict(), "o": optimizer.state_dict()})
    run(model, optimizer, 4)
    again, other = problem()
    state = load_state(tmp_path / "state")
    again.load_state_dict(state["m"])
    other.load_state_dict(state["o"])
    run(again, other, 4)
    assert_same(again.state_dict()["weight"], model.state_dict()["weight"])


@pytest.mark.parametrize("size", [0, 1, 7, 8, 40, -1])
def test_a_state_cut_short_is_named(tmp_path, size):
    path = tmp_path / "state.safetensors"
    save_state(path, {"a": torch.arange(100.0)})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RunError, match="damaged or not a file of a run") as caught:
        load_state(path)
    assert str(path) in str(caught.value)


@settings(max_examples=200)
@given(content=st.binary(max_size=80))
def test_any_bytes_are_no_state(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match="damaged or not a file of a run"):
        load_state(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"tree": "{"},
        {"tree": "[]"},
        {"tree": "{}"},
        {"tree": "null"},
        {"tree": '{"tensor": "1"}'},
        {"tree": '{"tensor": 0}'},
        {"tree": '{"list": 1}'},
        {"tree": '{"dict": [[[], {"value": 1}]]}'},
    ],
)
def test_safetensors_of_others_are_no_state(tmp_path, metadata):
    save_file({"0": torch.ones(2)}, tmp_path / "other", metadata)
    with pytest.raises(RunError, match="damaged or not a file of a run"):
        load_state(tmp_path / "other")


@pytest.mark.parametrize("load", [load_state, read_json])
@pytest.mark.parametrize("how", trap.TRAPS)
def test_a_pickle_is_refused_and_not_executed(tmp_path, load, how):
    sprung, path = tmp_path / "sprung", tmp_path / "state"
    path.write_bytes(trap.TRAPS[how](sprung))
    with pytest.raises(RunError, match=str(path)):
        load(path)
    assert not sprung.exists()
    trap.spring(how, path.read_bytes())
    assert sprung.exists()


# JSON, checksums, files that are not there


def test_json_goes_through(tmp_path):
    data = {"é": [1, 2.5, None, True], "b": {"c": 0.1 + 0.2}}
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json") == data
    text = (tmp_path / "a.json").read_bytes()
    assert text.endswith(b"}\n")


def test_a_seal_names_what_was_changed_missing_or_garbled(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b"):
        (tmp_path / name).write_text(name)
    assert not sealed(tmp_path)
    seal(tmp_path, ["a", "sub/b"])
    assert sealed(tmp_path)
    assert hashlib.sha256(b"sub/b").hexdigest() in (tmp_path / SUMS).read_text()
    check_seal(tmp_path, ["a"])
    (tmp_path / "a").write_text("A")
    with pytest.raises(RunError, match="a was changed or cut short"):
        check_seal(tmp_path, ["a"])
    (tmp_path / "a").unlink()
    with pytest.raises(RunError, match="a is missing"):
        check_seal(tmp_path, ["a"])
    for text in (b"\x80 nothing", b"", b"0  sub/b\n"):
        (tmp_path / SUMS).write_bytes(text)
        with pytest.raises(RunError, match=f"{SUMS} is damaged: a is not in it"):
            check_seal(tmp_path, ["a"])


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"{'a': 1}"])
def test_json_that_is_none_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(RunError, match="is not valid JSON") as caught:
        read_json(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("load", [load_state, read_json, existing])
def test_a_missing_file_is_named(tmp_path, load):
    for path in (tmp_path / "run.json", tmp_path / "nowhere" / "run.json"):
        with pytest.raises(RunError, match=r"is not a whole run: run\.json is missing"):
            load(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="folder is missing"):
        load(tmp_path / "folder")


# Writing


@contextmanager
def files_of_at_most(size: int):
    """What a full disk does: writes beyond `size` fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refuse(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def old(tmp_path) -> Path:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    return path


def assert_untouched(old: Path) -> None:
    assert old.read_bytes() == b"old"
    assert os.listdir(old.parent) == [old.name]


def write_many(path: Path, letter: bytes, barrier) -> None:
    barrier.wait(timeout=60)
    for _ in range(30):
        write_atomic(path, letter * 100_000)
        found = path.read_bytes()
        assert found == found[:1] * 100_000


def test_processes_write_one_file_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    jobs = [(tmp_path / "file", letter, barrier) for letter in (b"a", b"b", b"c")]
    writers = [context.Process(target=write_many, args=job) for job in jobs]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_is_replaced_whole(old):
    write_atomic(old, b"new and longer")
    assert old.read_bytes() == b"new and longer"
    assert os.listdir(old.parent) == [old.name]


def test_a_write_that_fails_halfway_leaves_the_old_file(old):
    with files_of_at_most(1000), pytest.raises(OSError, match=f"cannot write {old}: ") as caught:
        write_atomic(old, b"x" * 100_000)
    assert caught.value.errno == errno.EFBIG
    assert_untouched(old)


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_call_that_fails_leaves_the_old_file(old, monkeypatch, call):
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="No space left on device; what was finished stays usable"):
        write_atomic(old, b"new")
    monkeypatch.undo()
    assert_untouched(old)


def test_nothing_is_replaced_before_the_new_file_is_on_disk(old, monkeypatch):
    calls = []
    for call in ("fsync", "replace"):
        real = getattr(os, call)
        monkeypatch.setattr(os, call, lambda *a, n=call, f=real: (calls.append(n), f(*a))[1])
    write_atomic(old, b"new")
    assert calls == [
        "fsync",
        "replace",
        "fsync",
    ]  # the file, its name, the folder that holds the name


def test_a_state_that_cannot_be_saved_leaves_the_old_one(old):
    with pytest.raises(TypeError):
        save_state(old, {"a": torch.ones(2), "b": object()})
    assert_untouched(old)


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot write .*gone/file: No such"):
        write_atomic(tmp_path / "gone" / "file", b"new")
