"""`molsam doctor`."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.markup import escape

from ..screen import out
from .options import AsJson


def doctor(as_json: AsJson = False) -> None:
    """Say what this machine has for molsam, whether it works, and what to do where it does not.

    Exit code 1 if anything is at fault.
    """
    from .. import doctor as doctors

    findings = []
    for finding in doctors.examine():
        findings.append(finding)
        if not as_json:
            out.print(f"{escape(finding.name)}: {escape(finding.found)}", soft_wrap=True)
            if finding.advice:
                out.print(f"  [bold red]fault:[/] {escape(finding.advice)}", soft_wrap=True)
    faults = [finding for finding in findings if finding.advice]
    if as_json:
        out.print_json(data={"findings": [asdict(finding) for finding in findings]})
    elif not faults:
        out.print("all is well")
    if faults:
        raise typer.Exit(1)
