"""Files of molecules as data frames: CSV, TSV, Parquet, SDF and .smi, plain or gzipped.

Text stays the text that stood in the file and every row keeps its place, so that a table written
again with one more column differs from the user's in that column alone.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import itertools
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import pandas as pd

from molsam.molecules import parse_many, read_sdf

logger = logging.getLogger(__name__)

SMILES_NAMES = (
    "smiles",
    "canonicalsmiles",
    "isomericsmiles",
    "smi",
    "mol",
    "molecule",
    "structure",
)
LEAST_ATOMS = 6  # of a molecule in the header, for short names like CO are SMILES too
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
SD_FIELD = re.compile(r">[^<]*<(.+)>")


class DataError(ValueError):
    """A file or table that cannot be used; the message says which, where, and what to try."""


class Chunk(NamedTuple):
    """Consecutive rows of a file: `frame`, indexed by data row from 1, and its SMILES column."""

    frame: pd.DataFrame
    smiles: str


def is_table(name: str) -> bool:
    """Whether a file of this name is read; no SMILES ends like one."""
    return _suffix(Path(name)) in READERS


def iter_chunks(
    path: str | Path, *, smiles: str | None = None, chunk: int = 10_000
) -> Iterator[Chunk]:
    """The rows of a file in order, `chunk` at a time, in memory that does not grow with the file.

    Every column and row is kept, unreadable molecules too. Values of text formats are text as
    they stood, "" where there is none; columns of Parquet keep their types. The molecules of an
    SD file become its first column, `smiles` ("" for a record that RDKit cannot read; the reason
    is logged); those of a .smi file `smiles`, and `name` the rest of the line. A blank line is
    no row, except in a CSV or TSV file of one column, where it is a row without SMILES.

    Parameters
    ----------
    path : `.csv`, `.tsv`, `.parquet`, `.sdf` or `.smi`; all but Parquet also with `.gz`.
    smiles : column of SMILES; guessed from the usual names if not given.
    chunk : rows a chunk.

    Raises
    ------
    DataError : no such file, another format, no rows, no SMILES column, or not well formed.
    """
    path = Path(path)
    frames = _reader(path)(path, chunk)
    start = 1
    with _readable(path):
        for frame in frames:
            column = smiles_column(frame.columns, smiles, str(path))
            frame.index = pd.RangeIndex(start, start + len(frame))
            start += len(frame)
            if len(frame):
                yield Chunk(frame, column)
    if start == 1:
        raise DataError(f"{path} has no rows of data")


def read_frame(path: str | Path, *, smiles: str | None = None) -> Chunk:
    """The whole file as one chunk; see `iter_chunks`."""
    chunks = list(iter_chunks(path, smiles=smiles, chunk=100_000))
    return Chunk(pd.concat([chunk.frame for chunk in chunks]), chunks[0].smiles)


def frame_chunks(frame: pd.DataFrame, *, smiles: str | None, chunk: int) -> Iterator[Chunk]:
    """The rows of a data frame, `chunk` at a time, whatever its index; columns as in a file."""
    names = [name for name in frame.columns if isinstance(name, str)]
    column = smiles_column(names, smiles, "the data frame")
    frame = frame.set_axis(range(1, len(frame) + 1))
    return (
        Chunk(frame.iloc[start : start + chunk], column)
        for start in range(0, max(1, len(frame)), chunk)
    )


def smiles_column(columns: Iterable[str], name: str | None, source: str) -> str:
    """`name` if it is among `columns`; without a name the first that is usual for SMILES.

    The usual names are `SMILES_NAMES` in that order, case and punctuation aside, then the only
    column whose name contains "smiles".
    """
    columns = list(columns)
    if name is not None:
        return existing_column(columns, name, source)
    plain = {re.sub(r"[^a-z]", "", column.lower()): column for column in reversed(columns)}
    usual = [plain[word] for word in SMILES_NAMES if word in plain]
    containing = [column for column in columns if "smiles" in column.lower()]
    if not usual and len(containing) != 1:
        raise DataError(f"{source} has no column with a usual name for SMILES; {_advice(columns)}")
    return (usual or containing)[0]


def _advice(columns: list[str]) -> str:
    """What to do about a header without SMILES; one that names molecules is a row."""
    parsed = parse_many(columns)
    sizes = [mol.GetNumHeavyAtoms() for mol in parsed.mols]
    if max(sizes, default=0) >= LEAST_ATOMS:
        molecule = columns[parsed.index[sizes.index(max(sizes))]]
        return f"its first line is a molecule ({molecule!r}): put a line of names above it"
    return f"name the right one of its columns with --smiles or smiles_column: {listed(columns)}"


def existing_column(columns: Iterable[str], name: str, source: str) -> str:
    """`name`, or an error that offers the nearest of `columns`."""
    columns = list(columns)
    if name not in columns:
        raise DataError(f"{source} has no column {name!r}; {nearest(name, columns)}")
    return name


def nearest(word: str, options: Iterable[str]) -> str:
    """Advice for a misspelt `word`: the nearest of `options`, and what else there is."""
    folded = {option.lower(): option for option in options}
    near = difflib.get_close_matches(word.lower(), folded, n=3, cutoff=0.6)
    there_is = f"there is {listed(folded.values())}"
    if not near:
        return there_is
    return f"did you mean {' or '.join(repr(folded[match]) for match in near)}? ({there_is})"


def listed(names: Iterable[str], most: int = 20) -> str:
    """The names in quotes, the first `most` of them."""
    quoted = [repr(name) for name in names]
    rest = [f"and {len(quoted) - most} more"] if len(quoted) > most else []
    return ", ".join(quoted[:most] + rest)


def _reader(path: Path) -> Callable[[Path, int], Iterator[pd.DataFrame]]:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    reader = READERS.get(_suffix(path))
    if reader is None or (reader is _parquet and path.suffix.lower() == ".gz"):
        raise DataError(f"{path} is not one of {', '.join(READERS)}; convert it to one of these")
    return reader


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the readers raise into one sentence that names the file."""
    try:
        yield
    except DataError:
        raise
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file; copy or compress it anew") from error
    except (ValueError, csv.Error) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip().rstrip(".")
        raise DataError(f"{path} is not well formed: {reason}; repair or export it anew") from error


def _text(path: Path, errors: str = "strict") -> IO[str]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", errors=errors, newline="")


def _delimited(path: Path, chunk: int, separator: str) -> Iterator[pd.DataFrame]:
    with _text(path) as file:
        header = next(filter(None, csv.reader(file, delimiter=separator)), [])
    _refuse_other_separators(header, separator)
    unique = len(set(header)) == len(header)
    frames = pd.read_csv(
        path,
        sep=separator,
        header=0,
        names=header if header and unique else None,  # pandas would rename an empty one
        skip_blank_lines=len(header) != 1,  # in a single column a blank line is an empty field
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        chunksize=chunk,
    )
    with frames:
        for frame in frames:
            if not isinstance(frame.index, pd.RangeIndex):
                raise ValueError("its rows have more fields than its header has names")
            yield frame.fillna("")


def _refuse_other_separators(header: list[str], separator: str) -> None:
    """Refuse a file whose header is one column to us and several to its author."""
    for other, name in SEPARATORS.items():
        if len(header) == 1 and other != separator and other in header[0]:
            raise ValueError(f"{name} separate its columns, not {SEPARATORS[separator]}")


def _csv(path: Path, chunk: int) -> Iterator[pd.DataFrame]:
    return _delimited(path, chunk, ",")


def _tsv(path: Path, chunk: int) -> Iterator[pd.DataFrame]:
    return _delimited(path, chunk, "\t")


def _parquet(path: Path, chunk: int) -> Iterator[pd.DataFrame]:
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=chunk):
            table = pyarrow.Table.from_batches([batch])
            yield table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)


def _smi(path: Path, chunk: int) -> Iterator[pd.DataFrame]:
    with _text(path) as file:
        lines = filter(None, map(str.strip, file))
        first = next(lines, None)
        if first is None:
            raise pd.errors.EmptyDataError
        header = first.split()[0].lower() in SMILES_NAMES
        lines = lines if header else itertools.chain([first], lines)
        while rows := [
            (*line.split(maxsplit=1), "")[:2] for line in itertools.islice(lines, chunk)
        ]:
            yield pd.DataFrame(rows, columns=["smiles", "name"], dtype=str)


def _sdf(path: Path, chunk: int) -> Iterator[pd.DataFrame]:
    columns = ["smiles", *_sd_fields(path)]
    records = enumerate(read_sdf(path), start=1)
    while batch := list(itertools.islice(records, chunk)):
        for number, record in batch:
            if record.smiles is None:
                logger.info("%s: record %d is unreadable: %s", path, number, record.reason)
        rows = [record.properties | {"smiles": record.smiles or ""} for _, record in batch]
        yield pd.DataFrame(rows, columns=columns, dtype=str).fillna("")


def _sd_fields(path: Path) -> list[str]:
    """Names of all data fields, in order: records differ in theirs, so the text is read ahead."""
    fields: dict[str, None] = {}
    title = True
    with _text(path, errors="replace") as file:
        for line in file:
            if title and line.strip():
                fields["_Name"] = None
            if match := SD_FIELD.match(line):
                fields[match[1]] = None
            title = line.startswith("$$$$")
    return [field for field in fields if field != "smiles"]


READERS = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".sdf": _sdf,
    ".smi": _smi,
}
