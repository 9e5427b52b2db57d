"""What the terminal shows, where it is narrow and where there is none."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from molsam.screen import console, say, show_frame, tables

SENTENCE = "random forest wins over molsam bundled-1 by 0.257 RMSE on average, and on 2 of 2 seeds."


@pytest.mark.parametrize("terminal", [True, False])
def test_a_sentence_is_broken_between_words_on_a_terminal_alone(terminal):
    shown = Console(file=io.StringIO(), force_terminal=terminal, width=40, highlight=False)
    say(SENTENCE, shown)
    lines = [line.rstrip() for line in shown.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert " ".join(lines) == SENTENCE
    assert len(lines) == (3 if terminal else 1)
    assert max(map(len, lines)) <= 40 or not terminal


def test_numbers_stay_whole_beside_long_names(capsys, monkeypatch):
    name = "r_mmffld_Potential_Energy-OPLS_2005_of_the_lowest_conformer_[kcal/mol]"
    found = ["-0.068 ± 0.012", "2.97436e-05", "1,017", "9 of 10"]
    table = console.numbers("target", "behind", "lowest", "known", "wins")
    table.add_row(tables.escape(name), *found)
    monkeypatch.setattr(tables.out, "width", 80)
    tables.out.print(table)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(number in lines[1] for number in found)
    assert "".join(line.split("  ")[0].strip() for line in lines[1:]) == name


def test_a_narrow_screen_leaves_intervals_out_as_a_whole_and_shows_gaps_as_blanks(
    capsys, monkeypatch
):
    frame = pd.DataFrame(
        {
            "molecule": ["ethanol", "none"],
            "y": [1.25, np.nan],
            "y low": [-0.5, np.nan],
            "y high": [3.0, np.nan],
            "in domain": pd.array([True, None], dtype="boolean"),
            "error": ["", "empty"],
        }
    )
    monkeypatch.setattr(tables.out, "width", 40)
    show_frame(frame, spare=[("y low", "y high"), ("in domain",)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["molecule", "y", "in", "domain", "error"]
    assert [line.split() for line in lines[1:3]] == [
        ["ethanol", "1.250", "True"],
        ["none", "empty"],
    ]
    assert (
        " ".join(line.strip() for line in lines[3:])
        == "without y low, y high for want of room; -o FILE writes all"
    )
