"""Formulas as MathML, which browsers render by themselves: a hook of mkdocs."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex makes of $...$ and $$...$$.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
DISPLAY = {"(": "inline", "[": "block"}


def on_page_content(html: str, **page: Any) -> str:
    """The page with its LaTeX replaced."""
    return FORMULA.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    tag, bracket, latex = found.groups()
    math = convert(unescape(latex).strip(), display=DISPLAY[bracket])
    return f'<{tag} class="formula" data-search-exclude>{math}</{tag}>'
