"""Formulas as MathML, which browsers render by themselves: a hook of mkdocs."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex makes of $...$ and $$...$$; no line ends before the stop after it.
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>([,.;:)]*)', re.DOTALL
)
DISPLAY = {"(": "inline", "[": "block"}
NORM = "<mo>&#x02016;</mo>"  # would grow with every index inside it


def on_page_content(html: str, **page: Any) -> str:
    """The page with its LaTeX replaced, and no line between a mean and its spread."""
    return FORMULA.sub(_mathml, html).replace(" ± ", "&nbsp;±&nbsp;")


def _mathml(found: re.Match[str]) -> str:
    tag, bracket, latex, stop = found.groups()
    math = convert(unescape(latex).strip(), display=DISPLAY[bracket])
    math = math.replace(NORM, NORM.replace("<mo>", '<mo stretchy="false">'))
    return f'<{tag} class="formula" data-search-exclude>{math}{stop}</{tag}>'
