"""Mutation testing, by mutmut: do tests notice changed optimizers, losses, metrics, splits?

    python tests/mutants.py [MODULE ...]

judges the mutants of these modules, or of all, that are not known to be killed, one after the other
in an order that is drawn: interrupted at any time (Ctrl-C), it has judged a fair sample, and the
next call goes on. Mutants and verdicts are in mutants/; `mutmut show NAME` shows one.
docs/studies/mutants.csv counts the verdicts; docs/studies/survivors.csv has the mutants that no
test noticed, each with the reason that is given there.
"""

from __future__ import annotations

import csv
import random
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import libcst as cst
from mutmut import __main__ as mutmut
from mutmut.mutation import file_mutation
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

STUDIES = Path(__file__).resolve().parents[1] / "docs" / "studies"
COUNTS, SURVIVORS = STUDIES / "mutants.csv", STUDIES / "survivors.csv"
BOUND = {"classmethod", "staticmethod"}  # decorators that mutmut knows

Visitor = file_mutation.MutationVisitor
skip, arrange = Visitor._skip_node_and_children, file_mutation.function_trampoline_arrangement
collect, gather = mutmut.collect_or_load_stats, mutmut.collect_source_file_mutation_data


def decorated_too(visitor: Any, node: cst.CSTNode) -> bool:
    """mutmut would leave out what has a decorator: `step`, `perturbed` and the properties."""
    return skip(visitor, bare(node) if isinstance(node, cst.FunctionDef) else node)


def bare_copies(*function: Any, **owner: Any) -> tuple[Any, ...]:
    """Decorators stay on the function that calls a mutant or the original in its place."""
    before, (caller, *copies), after, names = arrange(*function, **owner)
    return before, [caller, *map(bare, copies)], after, names


def bare(function: cst.FunctionDef) -> cst.FunctionDef:
    """Without decorators, except for those that bind."""
    kept = [d for d in function.decorators if getattr(d.decorator, "value", "") in BOUND]
    return function.with_changes(decorators=kept)


def quick_cases(*arguments: Any, **options: Any) -> None:
    """Of a test's cases of the optimizers that take more than .1 s, the quickest judges alone."""
    collect(*arguments, **options)
    state = mutmut.state()
    seconds = state.duration_by_test
    for function, tests in state.tests_by_mangled_function_name.items():
        order = sorted(tests, key=lambda test: seconds[test])
        if function.startswith("molsam.optim."):
            quickest = {test.partition("[")[0]: test for test in reversed(order)}.values()
            order = [test for test in order if seconds[test] < 0.1 or test in quickest]
        state.tests_by_mangled_function_name[function] = order  # pyright: ignore


def drawn(modules: list[str], **options: Any) -> tuple[list[Any], dict[str, Any]]:
    """What mutmut shall judge, and all files."""
    _, files = gather(**options)
    chosen = [
        (data, name, None)
        for path, data in files.items()
        for name in data.exit_code_by_key
        if not modules or module(path) in modules
        if verdict(data, name) not in ("killed", "timeout")
    ]
    random.Random(0).shuffle(chosen)
    return chosen, files


def evidence() -> None:
    """Both files, from the verdicts there are."""
    known = {tuple(row.values())[:4]: row for row in read(SURVIVORS)}
    counts, survivors = [], []
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        names = {name: verdict(data, name) for name in data.exit_code_by_key}
        found = Counter(names.values())
        alive = [survivor(str(path), x) for x in names if names[x] in ("survived", "no tests")]
        survivors += [
            known.get(tuple(x.values()), x | {"equivalent": "", "reason": ""}) for x in alive
        ]
        counts.append(
            {
                "module": module(path),
                "mutants": len(names),
                "judged": len(names) - found["not checked"],
                "timeout": found["timeout"],
                "survived": len(alive),
            }
        )
    write(COUNTS, [row for row in counts if row["judged"]])
    write(SURVIVORS, survivors)


def module(path: str | Path) -> str:
    return ".".join(Path(path).with_suffix("").parts)


def verdict(data: SourceFileMutationData, name: str) -> str:
    return status_by_exit_code[data.exit_code_by_key[name]]


def survivor(path: str, name: str) -> dict[str, str]:
    """What was changed, and where."""
    lines = get_diff_for_mutant(name, path=path).splitlines()[2:]
    was, now = (" ".join(x[1:].strip() for x in lines if x[0] == sign) for sign in "-+")
    function, owner = orig_function_and_class_names_from_key(name)
    function = f"{owner}.{function}" if owner else function
    return {"module": module(path), "function": function, "was": was, "now": now}


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(modules: list[str]) -> None:
    Visitor._skip_node_and_children = decorated_too
    file_mutation.function_trampoline_arrangement = bare_copies
    mutmut.collect_or_load_stats = quick_cases
    mutmut.collect_source_file_mutation_data = partial(drawn, modules)
    mutmut.estimated_worst_case_time = lambda _: 0.0  # mutmut would begin with the quickest
    mutmut._run([], max_children=None)
    evidence()


if __name__ == "__main__":
    main(sys.argv[1:])
