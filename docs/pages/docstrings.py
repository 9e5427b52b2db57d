"""Docstrings as this project writes them, for the API page: an extension of griffe."""

from __future__ import annotations

import re
from typing import Any

import griffe
from griffe import DocstringSectionKind as Kind

ARROW = re.compile(r"^(?=\w[\w, ]* -> )", re.MULTILINE)
DEVIATION = re.compile(r"^(?=Deviation: )", re.MULTILINE)


class OneLine(griffe.Extension):
    """Makes an item of `name -> what it is`, and no type of `name : what it is`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        obj.docstring.value = DEVIATION.sub("\n", ARROW.sub("- ", obj.docstring.value))
        obj.docstring.parsed = obj.docstring.parse("numpy")
        for section in obj.docstring.parsed:
            if section.kind in (Kind.parameters, Kind.attributes, Kind.raises):
                for item in section.value:
                    describe(item, obj)


def describe(item: Any, obj: griffe.Object) -> None:
    """What stands where numpydoc has a type begins the description; the signature has the type."""
    if isinstance(item, griffe.DocstringRaise):
        stated, _, text = str(item.annotation).partition(" : ")
    else:
        named = {p.name: p.annotation for p in obj.parameters} if obj.is_function else {}
        stated = named.get(item.name.split(",")[0])
        text = "" if item.annotation is stated else str(item.annotation)
    item.annotation, item.description = stated, f"{text}\n{item.description}".strip()
