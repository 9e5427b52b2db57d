"""Molecules on which RDKit spends long, and texts that would end its process."""

from __future__ import annotations

from itertools import combinations


def complete(atoms: int) -> str:
    """Uranium, every atom bound to every other: so many paths that no descriptor counts them."""
    bonds = [pair for pair in combinations(range(atoms), 2) if pair[1] - pair[0] > 1]
    labels = {pair: f"%({label})" for label, pair in enumerate(bonds, start=1)}
    return "".join(
        "[U]" + "".join(label for pair, label in labels.items() if atom in pair)
        for atom in range(atoms)
    )


def v3000(atoms: int, bonds: list[tuple[int, int]], symbol: str = "C", end: str = "\n") -> str:
    """A record of an SD file."""
    lines = [
        f"COUNTS {atoms} {len(bonds)} 0 0 0",
        "BEGIN ATOM",
        *(f"{i} {symbol} 0 0 0 0" for i in range(1, atoms + 1)),
        "END ATOM",
        "BEGIN BOND",
        *(f"{i} 1 {a + 1} {b + 1}" for i, (a, b) in enumerate(bonds, start=1)),
        "END BOND",
    ]
    table = "".join(f"M  V30 {line}{end}" for line in ["BEGIN CTAB", *lines, "END CTAB"])
    return f"odd\n\n\n  0  0  0     0  0            999 V3000\n{table}M  END\n$$$$\n"


C60 = (
    "c12c3c4c5c1c1c6c7c2c2c8c3c3c9c4c4c%10c5c5c1c1c6c6c%11c7c2c2c7c8c3c3c8c9c4c4c9c%10c5c5c1c1c6c6"
    "c%11c2c2c7c3c3c8c4c4c9c5c1c1c6c2c3c41"
)
ENDLESS = complete(13)  # descriptors; 9 seconds from 10 atoms, four times as many from each more
# Just within what `parse` takes.
LARGEST = [
    "C" * 1000,
    "C(" * 999 + "C" + ")" * 999,
    ".".join("C" * 1000),
    "[C@H](F)" * 500,
    "c1ccccc1" * 125,
    complete(30),
    "C~C$C->C" + "<-C" * 800,
]
# Of no molecule, however deep or long.
BROKEN = ["(" * 5000, "C(" * 2500, "[" * 5000, "C1" * 2500, "%(" * 2500, "C" * 4999 + "\0"]
