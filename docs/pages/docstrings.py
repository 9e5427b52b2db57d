"""Docstrings as this project writes them, for the API page: an extension of griffe."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import griffe
from griffe import DocstringSectionKind as Kind

ARROW = re.compile(r"^(?=\w[\w, ]* -> )", re.MULTILINE)
DEVIATION = re.compile(r"^(?=Deviation: )", re.MULTILINE)
RAISES = re.compile(r"^Raises:\n +(\w+): ", re.MULTILINE)
PYDANTIC = "pydantic.BaseModel"
LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class OneLine(griffe.Extension):
    """Makes an item of `name -> what it is`, and no type of `name : what it is`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        text = DEVIATION.sub("\n", ARROW.sub("- ", obj.docstring.value))
        obj.docstring.value = RAISES.sub(r"Raises\n------\n\1 : ", text)
        obj.docstring.parsed = obj.docstring.parse("numpy")
        for section in obj.docstring.parsed:
            if section.kind in (Kind.parameters, Kind.attributes, Kind.raises):
                for item in section.value:
                    describe(item, obj)
        if obj.is_class and (found := list(fields(obj))):
            obj.docstring.parsed.append(griffe.DocstringSectionParameters(found, title="Fields:"))


def describe(item: Any, obj: griffe.Object) -> None:
    """What stands where numpydoc has a type begins the description; the signature has the type."""
    if isinstance(item, griffe.DocstringRaise):
        stated, _, text = str(item.annotation).partition(" : ")
    else:
        named = {p.name: p for p in obj.parameters} if obj.is_function else {}
        parameter = named.get(item.name)
        stated = parameter and parameter.annotation
        text = "" if item.annotation is stated else str(item.annotation)
        item.value = parameter and parameter.default
    item.annotation, item.description = stated, f"{text}\n{item.description}".strip()


def fields(model: griffe.Class) -> Iterator[griffe.DocstringParameter]:
    """Of a pydantic model, its own and before them those that it inherits."""
    line = [model, *model.mro()]
    if PYDANTIC not in (base.canonical_path for each in line for base in each.bases):
        return
    found = {name: each for of in reversed(line) for name, each in of.attributes.items()}
    for name, each in found.items():
        if each.annotation is not None and "property" not in each.labels:
            yield field(name, each)


def field(name: str, given: griffe.Attribute) -> griffe.DocstringParameter:
    """One `name: type = Field(default=, ge=, description=)`, or with nothing but a default."""
    told: dict[str, Any] = {"default": given.value}
    if isinstance(given.value, griffe.ExprCall) and given.value.canonical_path == "pydantic.Field":
        told = {each.name: each.value for each in given.value.arguments}
    text = ast.literal_eval(str(told.get("description", "''")))
    limits = [f"`{sign} {told[key]}`" for key, sign in LIMITS.items() if key in told]
    return griffe.DocstringParameter(
        name,
        annotation=choices(given),
        description="; ".join(filter(None, [text, " and ".join(limits)])),
        value=told.get("default"),
    )


def choices(given: griffe.Attribute) -> Any:
    """The type of an attribute; of `Name = Literal[...]` the texts that it allows."""
    path = getattr(given.annotation, "canonical_path", "")
    stands = given.modules_collection[path] if path.startswith(f"{given.package.path}.") else None
    return stands.value if stands and stands.is_attribute else given.annotation
