"""Tables from files of every format: rows, columns, kinds, errors, digests."""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from molsam import datasets
from molsam.datasets import TASKS, DataError, iter_chunks, read_table

FRAME = pd.DataFrame(
    {
        "": ["0", "1", "2", "3", "4"],
        "smiles": ["CCO", "c1ccccc1", "CC(=O)O", "C[N+](C)(C)C.[Cl-]", "N"],
        "name": ["ethanol, pure", 'the "ring"', "Essigsäure", "", "NA"],
        "logS [mol/L]": ["-0.10", "1e0", "", "-2.5", "+3"],
        "hits": ["0", "12", "3", "NA", "4"],
    }
)


def write(folder: Path, text: str, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def write_sdf(path: Path, frame: pd.DataFrame) -> None:
    text = io.StringIO()
    writer = Chem.SDWriter(text)
    for row in frame.to_dict("records"):
        mol = Chem.MolFromSmiles(row["smiles"])
        for name in [column for column in frame.columns if column and column != "smiles"]:
            if row[name]:
                mol.SetProp(name, row[name])
        writer.write(mol)
    writer.close()
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text.getvalue())


@pytest.fixture(params=["csv", "csv.gz", "tsv", "tsv.gz", "parquet", "sdf", "sdf.gz"])
def any_format(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """`FRAME` in each format."""
    path = tmp_path / f"mine.{request.param}"
    kind = request.param.split(".")[0]
    if kind == "sdf":
        write_sdf(path, FRAME)
    elif kind == "parquet":
        FRAME.to_parquet(path)
    else:
        FRAME.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    return path


# --- reading ------------------------------------------------------------------------------------


def test_every_format_gives_the_same_table(any_format: Path) -> None:
    table = read_table(any_format)
    assert table.smiles == tuple(FRAME["smiles"])
    assert table.tasks == ("logS [mol/L]", "hits")
    assert table.units == ("mol/L", "")
    assert table.kind == "regression"
    expected = np.array([[-0.1, 0], [1, 12], [np.nan, 3], [-2.5, np.nan], [3, 4]], np.float32)
    np.testing.assert_array_equal(table.y, expected)
    assert table.y.dtype == np.float32
    np.testing.assert_array_equal(table.rows, [1, 2, 3, 4, 5])
    assert table.source == str(any_format)


@pytest.mark.parametrize("ending", ["smi", "smi.gz"])
@pytest.mark.parametrize("header", ["", "SMILES Name\n"])
def test_smi_files_hold_molecules_alone(tmp_path: Path, ending: str, header: str) -> None:
    path = tmp_path / f"mine.{ending}"
    opener = gzip.open if ending.endswith("gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(header + "CCO\tethyl alcohol\n\nnot-a-smiles 17\nC\n")
    table = read_table(path)
    assert table.smiles == ("CCO", "not-a-smiles", "C")
    assert table.tasks == ()
    assert table.y.shape == (3, 0)
    [chunk] = iter_chunks(path)
    assert list(chunk.frame["name"]) == ["ethyl alcohol", "17", ""]


def test_bad_records_of_an_sd_file_keep_their_place_and_fields(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "mine.sdf"
    write_sdf(path, pd.DataFrame({"smiles": ["CCO", "C", "N"], "y": ["1.5", "", "3"]}))
    good, *others = path.read_text().split("$$$$\n")
    broken = "\n     broken\n\n  not a mol block\nM  END\n>  <late>\nx\n\n"
    path.write_text("$$$$\n".join([good, broken, *others]))
    [chunk] = iter_chunks(path)
    assert list(chunk.frame["smiles"]) == ["CCO", "", "C", "N"]
    assert list(chunk.frame.columns) == ["smiles", "y", "late"]
    assert "record 2" in caplog.text
    np.testing.assert_array_equal(read_table(path).y[:, 0], np.float32([1.5, np.nan, np.nan, 3]))


def test_bad_smiles_and_blank_ones_keep_their_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "smiles,y\nCCO,1\n ,2.5\nnot a molecule,3\nC ,4\n")
    assert read_table(path).smiles == ("CCO", "", "not a molecule", "C")


def test_a_blank_line_in_a_single_column_is_an_empty_field(tmp_path: Path) -> None:
    path = write(tmp_path, "smiles\nCCO\n\nC\n")
    assert read_table(path).smiles == ("CCO", "", "C")


def test_byte_order_marks_of_spreadsheets_are_no_part_of_the_header(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffsmiles,y\nCCO,1\nC,2.5\n")
    assert read_table(path).tasks == ("y",)


cells = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8)
rows_of_text = st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(rows=rows_of_text, chunk=st.integers(1, 40), separator=st.sampled_from([",", "\t"]))
def test_a_file_written_again_from_its_chunks_is_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    chunk: int,
    separator: str,
) -> None:
    path = tmp_path_factory.mktemp("text") / ("a.csv" if separator == "," else "a.tsv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        writer.writerows([("", "SMILES", "note"), *rows])
    chunks = list(iter_chunks(path, chunk=chunk))
    assert {c.smiles for c in chunks} == {"SMILES"}
    assert [len(c.frame) for c in chunks[:-1]] == [chunk] * (len(chunks) - 1)
    whole = pd.concat([c.frame for c in chunks])
    assert list(whole.index) == list(range(1, len(rows) + 1))
    again = io.StringIO()
    writer = csv.writer(again, delimiter=separator, lineterminator="\n")
    writer.writerows([whole.columns, *whole.itertuples(index=False)])
    assert again.getvalue() == path.read_text(encoding="utf-8")


def test_chunks_of_parquet_keep_the_types(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    frame = pd.DataFrame(
        {
            "smiles": ["C", "CC", "CCC"],
            "n": pd.array([1, None, 3], dtype="Int64"),
            "ok": [True, False, True],
        }
    )
    frame.to_parquet(path)
    chunks = list(iter_chunks(path, chunk=2))
    assert [len(c.frame) for c in chunks] == [2, 1]
    whole = pd.concat([c.frame for c in chunks])
    assert list(whole["n"].astype("Int64")) == list(frame["n"])
    table = read_table(path, targets=["ok"])
    assert table.kind == "binary"
    assert table.y[:, 0].tolist() == [1, 0, 1]


def test_chunks_stream(tmp_path: Path) -> None:
    """The first chunks of a gzip file that ends too soon arrive; only then comes the error."""
    path = tmp_path / "mine.csv.gz"
    rng = np.random.default_rng(0)
    lines = "".join(f"C,{x}\n" for x in rng.random(100_000))
    path.write_bytes(gzip.compress(f"smiles,y\n{lines}".encode())[:-20_000])
    chunks = iter_chunks(path, chunk=1000)
    assert next(chunks).frame.index[-1] == 1000
    with pytest.raises(DataError, match=r"mine\.csv\.gz is not a whole gzip file"):
        list(chunks)


# --- which columns, which kind ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["id", "SMILES"], "SMILES"),
        (["mol", "Canonical_SMILES"], "Canonical_SMILES"),
        (["y", "Mol"], "Mol"),
        (["molecule", "smiles", "SMILES"], "smiles"),
        (["y", "Ligand SMILES"], "Ligand SMILES"),
    ],
)
def test_the_smiles_column_is_guessed(header: list[str], expected: str) -> None:
    frame = pd.DataFrame([["C"] * len(header)], columns=header)
    assert datasets.guess_columns(frame).smiles == expected


def test_targets_are_guessed_as_columns_of_numbers_that_are_no_ids() -> None:
    frame = pd.DataFrame(
        {
            "Unnamed: 0": [0, 1],
            "mol_id": [7, 8],
            "CID": [2244, 2519],
            "name": ["12", "13"],
            "fold": [0, 1],
            "smiles": ["C", "CC"],
            "batch": ["12_1", "12_2"],
            "remark": ["1", "two"],
            "blank": ["", "NA"],
            "valid": ["true", "False"],
            "pIC50": ["5.1", ""],
            "period": ["1", "2"],
        }
    )
    guess = datasets.guess_columns(frame, split_column="period")
    assert guess == ("smiles", ("valid", "pIC50"))


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["0.5", "1", "2"], "regression"),
        (["0", "1", "NA", "0"], "binary"),
        (["1.0", "0.0"], "binary"),
        (["0", "1", "2"] * 2, "multiclass"),
        (["0", "1", "2"], "regression"),
        (["1", "2", "3"] * 4, "regression"),
        ([str(i) for i in range(11)] * 2, "regression"),
        (["True", "false"], "binary"),
    ],
)
def test_the_kind_is_guessed(labels: list[str], kind: str) -> None:
    table = datasets.table_from_frame(pd.DataFrame({"smiles": "C", "y": labels}))
    assert table.kind == kind
    assert len(table.classes) == (3 if kind == "multiclass" else 0)


def test_texts_are_classes_of_a_named_target() -> None:
    frame = pd.DataFrame(
        {"smiles": "C", "grade": ["low", "high ", "", "low", "high", "mid", "mid"]}
    )
    table = datasets.table_from_frame(frame, targets=["grade"])
    assert table.kind == "multiclass"
    assert table.classes == ("high", "low", "mid")
    np.testing.assert_array_equal(table.y[:, 0], [1, 0, np.nan, 1, 0, 2, 2])
    assert datasets.table_from_frame(frame).tasks == ()


def test_numbers_can_be_read_as_classes() -> None:
    frame = pd.DataFrame({"smiles": "C", "y": [10.0, np.nan, 9.0, 10.0]})
    table = datasets.table_from_frame(frame, kind="multiclass")
    assert table.classes == ("9", "10")
    np.testing.assert_array_equal(table.y[:, 0], [1, np.nan, 0, 1])


def test_labels_can_be_told_in_the_classes_of_another_table() -> None:
    frame = pd.DataFrame({"smiles": "C", "grade": ["low", "", "high", "low", "high"]})
    table = datasets.table_from_frame(frame, targets="grade")
    retold = table.with_classes(["high", "mid", "low"])
    assert retold.classes == ("high", "mid", "low")
    np.testing.assert_array_equal(retold.y[:, 0], np.float32([2, np.nan, 0, 2, 0]))
    with pytest.raises(DataError, match="'low' is not among the classes 'high', 'mid'"):
        table.with_classes(["high", "mid"])


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        ("logS [mol/L]", "mol/L"),
        ("pKi (nM)", "nM"),
        ("a (b) [c]", "c"),
        ("plain", ""),
        ("[M]", ""),
        ("(only) inside x", ""),
    ],
)
def test_units_in_brackets(column: str, unit: str) -> None:
    frame = pd.DataFrame({"smiles": ["C", "N"], column: [1.5, 2.5]})
    table = datasets.table_from_frame(frame)
    assert (table.tasks, table.units) == ((column,), (unit,))


def test_split_columns_become_folds(tmp_path: Path) -> None:
    path = write(tmp_path, "smiles,y,part\nC,1,train\nN,2.5, test\nO,3,\n")
    table = read_table(path, split_column="part")
    assert table.folds == ("train", "test", "")
    assert table.take([2, 0]).folds == ("", "train")


floats = st.floats(width=32, allow_nan=True, allow_infinity=False)


@settings(deadline=None)
@given(values=st.lists(floats, min_size=2, max_size=20), data=st.data())
def test_labels_survive_as_text_and_take_reorders_all_of_a_row(
    values: list[float], data: st.DataObject
) -> None:
    y = np.array(values, np.float32)
    if len(np.unique(y[~np.isnan(y)])) < 2:
        y[:2] = 0.5, 1.5
    frame = pd.DataFrame(
        {"smiles": [f"[{n}C]" for n in range(len(y))], "y": [repr(float(v)) for v in y]}
    )
    table = datasets.table_from_frame(frame, kind="regression")
    np.testing.assert_array_equal(table.y[:, 0], y)
    order = data.draw(st.permutations(range(len(y))))
    taken = table.take(order)
    assert taken.smiles == tuple(table.smiles[i] for i in order)
    np.testing.assert_array_equal(taken.y[:, 0], y[order])
    np.testing.assert_array_equal(taken.rows, np.array(order) + 1)
    assert taken.take(np.argsort(order)).digest() == table.digest()
    mask = np.array([data.draw(st.booleans()) for _ in y])
    assert len(table.take(mask)) == mask.sum()


# --- errors -------------------------------------------------------------------------------------

BAD_FILES = {
    "no header": (
        "c1ccccc1O,1.5\nCCO,2\n",
        {},
        r"its first line is a molecule \('c1ccccc1O'\): put a line of names above it",
    ),
    "short names that are SMILES too": ("CO,NO,IC\n1,2,3\n", {}, r"--smiles.*'CO', 'NO', 'IC'"),
    "no smiles column": ("mols,y\nC,1\n", {}, r"usual name for SMILES.*'mols', 'y'"),
    "named smiles column": (
        "Structure_1,y\nC,1\n",
        {"smiles": "structure1"},
        r"no column 'structure1'; did you mean 'Structure_1'\?",
    ),
    "named target": (
        "smiles,pIC50,logP\nC,1,2\n",
        {"targets": ["pic50"]},
        r"no column 'pic50'; did you mean 'pIC50'\?",
    ),
    "split column": ("smiles,y\nC,1\n", {"split_column": "fold"}, "no column 'fold'"),
    "text in a target": (
        "smiles,y\nC,1\nN,2\nO,>10\nS,high\n",
        {"targets": ["y"]},
        r"mine\.csv, row 3, column 'y': '>10' is not a number",
    ),
    "infinite target": ("smiles,y\nC,1\nN,inf\n", {"targets": ["y"]}, "row 2, column 'y': 'inf'"),
    "distinct texts": ("smiles,y\nC,a\nN,b\nO,c\n", {"targets": ["y"]}, "row 1, column 'y': 'a'"),
    "no labels": ("smiles,y\nC,\nN,NA\n", {"targets": ["y"]}, "no label in 'y'"),
    "not binary": (
        "smiles,y\nC,0\nN,1\nO,2\n",
        {"kind": "binary"},
        "row 3, column 'y': 2 is neither 0 nor 1",
    ),
    "unknown kind": ("smiles,y\nC,0\nN,1\n", {"kind": "binray"}, "no kind 'binray'.*'regression'"),
    "too many fields": (
        "smiles,y\nC,0\nN,1,2\n",
        {},
        "not well formed: Expected 2 fields in line 3",
    ),
    "fields without a name": ("smiles,y\nC,0,\nN,1,\n", {}, "more fields than its header"),
    "semicolons": ("smiles;y\nC;1,5\nN;2\n", {}, "semicolons separate its columns, not commas"),
    "tabs": ("name\tsmiles\ty\na\tC\t1\n", {}, "tabs separate its columns, not commas"),
    "open quote": ('smiles,y\n"C,0\nN,1\n', {}, "not well formed"),
    "no rows": ("smiles,y\n", {}, "has no rows"),
    "empty": ("", {}, "is empty"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused_with_advice(tmp_path: Path, case: str) -> None:
    text, choices, message = BAD_FILES[case]
    with pytest.raises(DataError, match=message) as caught:
        read_table(write(tmp_path, text), **choices)
    assert "mine.csv" in str(caught.value) or case == "unknown kind"
    assert "\n" not in str(caught.value)


def test_one_useless_task_among_others_is_kept(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "smiles,a,b\nC,1,0\nN,0,\n"))
    assert table.tasks == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.xlsx", b"PK", r"mine\.xlsx is not one of \.csv"),
        ("mine.parquet.gz", b"", "is not one of"),
        ("mine.csv", "smiles,y\nC,1 µM\n".encode("latin-1"), "is not UTF-8"),
        ("mine.csv.gz", b"smiles,y\nC,1\n", "not a whole gzip file"),
        ("mine.parquet", b"smiles,y\nC,1\n", "not well formed"),
        ("mine.smi", b"\n\n", "is empty"),
        ("mine.sdf", b"", "has no rows"),
        ("mine.tsv", b"", "is empty"),
    ],
)
def test_unreadable_files_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(path)


# --- the digest ---------------------------------------------------------------------------------


def test_the_digest_is_of_the_content_not_of_the_bytes(moleculenet: Path, tmp_path: Path) -> None:
    original = moleculenet / "esol.csv"
    target = list(TASKS["esol"].targets)
    digest = read_table(original, targets=target).digest()
    for level in (1, 9):
        (tmp_path / "esol.csv.gz").write_bytes(gzip.compress(original.read_bytes(), level))
        assert read_table(tmp_path / "esol.csv.gz", targets=target).digest() == digest
    frame = pd.read_csv(original)
    frame.to_parquet(tmp_path / "esol.parquet")
    assert read_table(tmp_path / "esol.parquet", targets=target).digest() == digest


@settings(max_examples=20, deadline=None)
@given(row=st.integers(0, 3), change=st.sampled_from(["label", "missing", "smiles", "order"]))
def test_any_change_of_content_changes_the_digest(row: int, change: str) -> None:
    table = datasets.table_from_frame(
        pd.DataFrame({"smiles": list("CNOS"), "y": [0.5, 1.5, 2.5, 3.5]})
    )
    y, smiles = table.y.copy(), list(table.smiles)
    if change == "label":
        y[row] = np.nextafter(y[row], np.float32(9))
    elif change == "missing":
        y[row] = np.nan
    elif change == "smiles":
        smiles[row] += "C"
    else:
        smiles[row], smiles[row - 1] = smiles[row - 1], smiles[row]
    assert replace(table, y=y, smiles=tuple(smiles)).digest() != table.digest()


def test_every_nan_is_the_same_missing_label() -> None:
    table = datasets.table_from_frame(pd.DataFrame({"smiles": list("CNO"), "y": [1, np.nan, 2.5]}))
    y = table.y.copy()
    y.view(np.uint32)[1, 0] = 0xFFC01234
    assert np.isnan(y[1, 0])
    assert replace(table, y=y).digest() == table.digest()
