"""Broken versions of good inputs: bytes, texts and trees, changed in places that parsers read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from random import Random
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

TOKEN = re.compile(r"\[[^\]]*\]|%\(\d+\)|%\d\d|Br|Cl|.", re.DOTALL)
ATOMS = TOKEN.findall(
    "CNOSPFcnoBI*[U][Fe][H][nH][C@H][C@@][Co@OH9][Pt@SP2][As@TB7][N+][O-][13C][999Xe+9]"
    "[CH3:7][Si][Se][se][te][Og][#0][D][2H][Fe+2][S@AL1]"
)
BONDS = ("", "", "", "=", "#", "$", "~", ":", "-", "/", "\\", "->", "<-", ".")
CELLS = (
    *("", "smiles", "C", "CCO", "x", "nan", "NA", "0", "1", "2", "-1.5", "1e999", "inf", "true"),
    *("1_0", "٣", "A", "B", '"', '"a', 'a"b"', "logS [mol/L]", "split", "id", "é" * 30, "C" * 2000),
    *("\0", " ", "[Na+].[Cl-]", "0x1", "1e38", "3.5e38", "unnamed: 0", "y", "SMILES", "mol"),
)
Mutate = Callable[[bytes, Random], bytes]
NUMBERS = ("0", "-1", "1e999", "nan", "inf", "99999999999999999999", "1_0", "0x10", "1e-400", "٣")
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 2**31, 2**70, -0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "\0", "../../x", "/", "nan", "é" * 50, "x" * 3000),
    *([], {}, [[]], [1, 2, 3], ["a"], {"a": {"b": []}}),
)


class Text:
    """Spans cut, doubled, moved and repeated; words of the format and odd numbers put in."""

    def __init__(self, words: str, *more: str) -> None:
        self.known = [word.encode() for word in (*words.split(), *more, *NUMBERS)]

    def __call__(self, data: bytes, rng: Random) -> bytes:
        for _ in range(rng.choice((1, 1, 1, 2, 6))):
            a, b = sorted(rng.choices(range(len(data) + 1), k=2))
            b = min(b, a + rng.choice((1, 1, 4, 30, 1000)))
            put = rng.choice(
                (
                    b"",
                    data[a:b] * rng.choice((2, 3, 50)),
                    data[a:b][::-1],
                    rng.choice(self.known),
                    rng.choice(self.known) * rng.choice((2, 9, 100)),
                    rng.randbytes(rng.choice((1, 2, 8))),
                )
            )
            data = (data[:a] + put + data[b:])[:20_000]
        return data


def smiles(data: bytes, rng: Random) -> bytes:
    """Other atoms, bonds, branches and rings, so that most of it spells something; else a text."""
    tokens = TOKEN.findall(data.decode(errors="replace"))
    if not tokens or rng.random() < 0.2:
        return SMILES_TEXT(data, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, kind = rng.randrange(len(tokens) + 1), rng.random()
        if kind < 0.3:
            tokens[at : at + 1] = [rng.choice(ATOMS)]
        elif kind < 0.5:
            tokens[at:at] = ["(", rng.choice(BONDS), rng.choice(ATOMS), ")"]
        elif kind < 0.7:
            mark = rng.choice(("7", "8", "9", "%55", "%(777)"))
            for place in (at, rng.randrange(len(tokens) + 1)):
                tokens.insert(place, mark)
        elif kind < 0.8:
            tokens.insert(at, rng.choice(BONDS))
        elif kind < 0.9:
            tokens[at:at] = tokens[at : at + rng.choice((3, 10, 30))] * rng.choice((1, 1, 2, 20))
        else:
            del tokens[at : at + rng.choice((1, 1, 4))]
    return "".join(tokens)[:6000].encode()


def table(data: bytes, rng: Random) -> bytes:
    """Other cells, rows and names of columns; now and then another text."""
    separator = max((b",", b"\t", b";"), key=data.count)
    rows = [row.split(separator) for row in data.split(b"\n")]
    for _ in range(rng.choice((1, 1, 3))):
        row = rng.choice(rows)
        at, kind = rng.randrange(len(row)), rng.random()
        if kind < 0.6:
            row[at] = rng.choice(CELLS).encode()
        elif kind < 0.7:
            row.insert(at, rng.choice(CELLS).encode())
        elif kind < 0.8:
            rows += [list(rng.choice(rows)) for _ in range(rng.choice((1, 5, 300)))]
        elif len(rows) > 1:
            rows.remove(row)
    written = b"\n".join(separator.join(row) for row in rows)
    return TABLE_TEXT(written, rng) if rng.random() < 0.3 else written


def toml(data: bytes, rng: Random) -> bytes:
    """Another value, key or table; now and then another text."""
    try:
        tree = deepcopy(_parsed(data))
    except (UnicodeDecodeError, TOMLKitError, RecursionError):
        return TOML_TEXT(data, rng)
    try:
        written = tomlkit.dumps(tree_of(tree, rng)).encode()
    except (TypeError, ValueError, TOMLKitError):
        written = data
    return TOML_TEXT(written, rng) if rng.random() < 0.3 else written


@lru_cache(64)  # the seeds come again and again
def _parsed(data: bytes) -> dict[str, Any]:
    return tomlkit.parse(data.decode()).unwrap()


def js(data: bytes, rng: Random) -> bytes:
    """Another value, key or place; now and then another text."""
    try:
        written = json.dumps(tree_of(json.loads(data), rng)).encode()
    except (ValueError, RecursionError):
        written = data
    return JSON_TEXT(written, rng) if rng.random() < 0.2 else written


def safetensors(data: bytes, rng: Random) -> bytes:
    """Another header, tree, shape or number; now and then other bytes."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        tree = header.get("__metadata__", {}).get("tree")
    except (ValueError, AttributeError, RecursionError):
        return BYTES(data, rng)
    body, kind = bytearray(data[8 + size :]), rng.random()
    if kind < 0.4 and tree:
        header["__metadata__"]["tree"] = js(tree.encode(), rng).decode(errors="replace")
    elif kind < 0.6:
        header = tree_of(header, rng)
    elif kind < 0.9 and body:
        at = rng.randrange(len(body))
        body[at : at + 8] = rng.choice((b"\xff" * 8, b"\x7f" * 8, bytes(8), rng.randbytes(8)))
    else:
        return BYTES(data, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


def tree_of(tree: Any, rng: Random) -> Any:
    """The tree with one of its places changed, or a few."""
    for _ in range(rng.choice((1, 1, 1, 3))):
        places = list(_places(tree))
        if not places:
            return _value(rng)
        holder, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.5:
            holder[key] = _value(rng)
        elif kind < 0.65:
            del holder[key]
        elif kind < 0.8:
            other, there = rng.choice(places)
            value = other[there] if there in other or isinstance(other, list) else None
            holder[key] = json.loads(json.dumps(value, default=str))
        elif isinstance(holder, list):
            holder.insert(key, _value(rng))
        else:
            holder[rng.choice(("x", "", str(key) + "s", "smiles", "name"))] = _value(rng)
    return tree


def _value(rng: Random) -> Any:
    """One of `VALUES`, as a copy: a later change of the tree may be a change within it."""
    return deepcopy(rng.choice(VALUES))


def _places(tree: Any):
    children = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, child in list(children):
        yield tree, key
        if isinstance(child, dict | list):
            yield from _places(child)


TOML_TEXT = Text(
    '[ ] [[ ]] = { } # . " """ \' 1979-05-27T07:32:00Z low high optimizer.rho',
    *("\n", "[model]\n", "[search]\n", "choices = [", "log = true"),
)
SMILES_TEXT = Text(
    r"C c N n O [nH] Cl [U] * ( ) [ ] = # $ ~ . -> <- / \ @ @@ @TH1 @SP1 @OH15 1 %10 %(123) + - ++ "
    ":1 H H9 13 | |m:0:1| $ >> & é |Sg:n:0:1:ht| |^1:0|",
    *("\0", " "),
)
RECORD = Text(
    "V2000 V3000 BEGIN END ATOM BOND SGROUP 999 CFG=1 MASS=300 CHG=-15 STEBOND R# [C,N] ENDPTS=(2",
    *("M  V30 ", "M  END\n", "$$$$\n", "M  CHG  1   1   1\n", "M  ISO", "M  RGP", "M  SAP"),
    *(" -\n", ">  <y>\n", "\n", "\r\n"),
)
TABLE_TEXT = Text(', ; " smiles nan C x é', "\t", "\n", "\r", "\r\n", "\0", " ")
JSON_TEXT = Text('" { } [ ] , : null \\u0000 \\ud800 NaN 1e9')
BYTES = Text("")
