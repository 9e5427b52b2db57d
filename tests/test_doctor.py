"""`molsam doctor`: what is well, and what to do about each fault."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import shell
import torch

from molsam import doctor, molecules

DISK = namedtuple("DISK", "total used free")


def faults() -> dict[str, tuple[str, str]]:
    """What was found and is advised, of all that is at fault."""
    return {f.name: (f.found, f.advice) for f in doctor.examine() if f.advice}


def test_all_is_well_where_the_tests_run():
    result = shell.molsam("doctor")
    assert result.code == 0, result.out
    assert result.out.endswith("all is well\n")
    named = {line.partition(":")[0] for line in result.out.splitlines()}
    assert {"python", "molsam", "torch", "dgl", "rdkit", "cache", "device", "training"} <= named


def test_json_says_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("MOLSAM_DATA", str(tmp_path / "nowhere"))
    result = shell.molsam("doctor", "--json")
    assert result.code == 1
    (fault,) = (f for f in json.loads(result.out)["findings"] if f["advice"])
    assert fault["name"] == "data (MOLSAM_DATA)"
    assert "unset it" in fault["advice"]


def test_random_numbers_go_on_as_before():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    list(doctor.examine())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("found", "shown"), [(None, "not installed"), ("0.1.0", "0.1.0")])
def test_a_package_that_will_not_do_is_named_with_the_one_that_will(found, shown, monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: found if name == "dgllife" else real(name))
    assert faults() == {"dgllife": (shown, "pip install 'dgllife>=0.3.2'")}


def test_an_extra_that_is_not_installed_is_no_fault(monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "onnx" else real(name))
    (onnx,) = (f for f in doctor.examine() if f.name == "extra onnx")
    assert onnx == doctor.Finding("extra onnx", "pip install 'molsam[onnx]' adds it")


def test_a_folder_that_takes_no_files(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOLSAM_CACHE", str(tmp_path / "file" / "cache"))
    ((found, advice),) = faults().values()
    assert found.endswith("cannot be written to")
    assert advice.startswith("let MOLSAM_CACHE name a folder")


def test_a_full_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DISK(100, 99, 2**20))
    found = faults()
    assert set(found) == {"downloads", "cache", "temporary files"}
    assert all(words.endswith(": 0.0 GiB free") for words, _ in found.values())


def test_a_driver_that_torch_cannot_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    ((found, advice),) = faults().values()
    assert found.endswith("is built without CUDA")
    assert "until then the CPU is used" in advice


def test_a_dgl_that_cannot_be_imported_is_told_and_the_rest_is_examined(tmp_path):
    (tmp_path / "dgl").mkdir()
    (tmp_path / "dgl" / "__init__.py").write_text("raise OSError('libdgl.so: undefined symbol')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", "from molsam import cli; cli.main()", "doctor", "--json"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 1
    found = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["graphs"]["found"] == "OSError: libdgl.so: undefined symbol"
    assert found["graphs"]["advice"].endswith("fresh environment")
    assert "training" in found


def test_graphs_of_other_features_are_a_fault(monkeypatch):
    right = molecules.to_dgl

    def wrong(mol, name):
        graph = right(mol, name)
        graph.ndata["h"] = graph.ndata["h"].roll(1, dims=1)
        return graph

    monkeypatch.setattr(molecules, "to_dgl", wrong)
    ((found, advice),) = faults().values()
    assert "packed molecules" in found
    assert advice == "install dgl and dgllife anew"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_well(tmp_path: Path):
    found = {f.name: f for f in doctor.examine()}
    assert "cuda" in found["device"].found
    assert not found["training"].advice
