"""The documentation site as it is built: whole, offline, linked, with every public name."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from pkgutil import resolve_name
from textwrap import dedent
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
from pydantic import BaseModel

from molsam.recipes import MODEL_CONFIGS, SECTIONS, Recipe

yaml = pytest.importorskip("yaml", reason="the extra `docs` brings it")
pytest.importorskip("mkdocs", reason="the extra `docs` brings it")
griffe = pytest.importorskip("griffe", reason="the extra `docs` brings it")
formulas = pytest.importorskip("pages.formulas", reason="the extra `docs` brings latex2mathml")
docstrings = importlib.import_module("pages.docstrings")

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LISTED = ("molsam", "molsam.optim", "molsam.models", "molsam.datasets", "molsam.tuning")
LISTED += ("molsam.baselines",)
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """A built page: what it loads, where it leads, and the places in it that can be led to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.loads, self.links, self.ids = path, [], [], set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in LOADED and LOADED[tag] in given:
            self.loads.append(given[LOADED[tag]])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.ids |= {given[name] for name in ("id", "name") if name in given}

    def target(self, link: str) -> Path:
        """The file that a link without a host leads to."""
        path = unquote(urlsplit(link).path)
        return (self.path.parent / path).resolve() if path else self.path


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The site, built as `make lint` builds it."""
    folder = tmp_path_factory.mktemp("site").resolve()
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site) -> dict[Path, Page]:
    """Every page but the one for addresses that do not exist, which needs a host."""
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


# Without a network


def test_every_page_is_built(pages):
    written = {p.stem for p in DOCS.rglob("*.md")}
    assert {path.stem for path in pages} == written


def test_pages_load_nothing_from_elsewhere(pages):
    for page in pages.values():
        assert len(page.loads) > 5
        for address in page.loads:
            assert not urlsplit(address).netloc, f"{page.path.name} loads {address}"
            assert page.target(address).is_file(), f"{page.path.name} has no {address}"
        assert 'class="mermaid"' not in page.text  # the theme would fetch a script for it


def test_styles_load_nothing_from_elsewhere(site):
    styles = list(site.rglob("*.css"))
    assert len(styles) > 2
    for path in styles:
        text = path.read_text(encoding="utf-8")
        addresses = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", text)
        assert not [a for a in addresses if "//" in a and not a.startswith("data:")], path


def test_search_works_from_the_disk(site, pages):
    index = (site / "search/search_index.js").read_text(encoding="utf-8")
    name, _, data = index.partition("=")
    assert name.strip() == "var __index"
    locations = {urlsplit(entry["location"]).path for entry in json.loads(data)["docs"]}
    assert locations >= {path.relative_to(site).as_posix() for path in pages}
    for page in pages.values():
        worker = [a for a in page.loads if a.endswith("assets/iframe-worker.js")]
        bundle = [a for a in page.loads if "/bundle" in a]
        assert page.loads.index(*worker) < page.loads.index(*bundle)


# Links


def test_links_lead_to_a_file_and_a_place_in_it(pages):
    followed = 0
    for page in pages.values():
        for link in page.links:
            if urlsplit(link).scheme or urlsplit(link).netloc:
                continue
            target, place = page.target(link), unquote(urlsplit(link).fragment)
            assert target.exists(), f"{page.path.name}: {link}"
            if place and target in pages:
                followed += 1
                assert place in pages[target].ids, f"{page.path.name}: {link}"
    assert followed > 100


def paths(nav: list) -> Iterator[str]:
    """The pages of a nav, section after section."""
    for entry in nav:
        for value in [entry] if isinstance(entry, str) else entry.values():
            yield from [value] if isinstance(value, str) else paths(value)


def test_the_first_page_lists_the_others_in_the_order_of_the_nav():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[[^\]]+\]\(([\w./-]+\.md)\)", text, re.MULTILINE)
    assert listed == [path for path in paths(nav) if path in listed]
    for section in nav[1:]:
        assert set(paths([section])) & set(listed), f"the first page does not list {section}"


# Formulas


def equations(page: Page) -> list[ElementTree.Element]:
    found = re.findall(r"<math.*?</math>", page.text, re.DOTALL)
    return [ElementTree.fromstring(text) for text in found]


def test_formulas_are_whole_mathml(pages):
    count = 0
    for page in pages.values():
        assert 'class="arithmatex"' not in page.text
        for equation in equations(page):
            count += 1
            words = [text for text in equation.itertext() if "\\" in text or "&" in text]
            assert not words, f"{page.path.name}: latex2mathml does not know {words}"
            assert not list(equation.iter("{http://www.w3.org/1998/Math/MathML}merror"))
    assert count > 100


def test_a_formula_becomes_mathml_where_it_stands():
    inline = r'<p>Let <span class="arithmatex">\(a &lt; b\)</span>.</p>'
    found = formulas.on_page_content(inline)
    assert found.startswith('<p>Let <span class="formula"')
    assert found.endswith("</math>.</span></p>")
    assert 'display="inline"' in found
    assert "<mo>&#x0003C;</mo>" in found
    block = '<div class="arithmatex">\\[\n\\frac{a}{b}\n\\]</div>'
    assert 'display="block"><mrow><mfrac>' in formulas.on_page_content(block)
    assert formulas.on_page_content("<p>nothing</p>") == "<p>nothing</p>"


# The API


def shown(page: Page) -> dict[str, object]:
    """What has an entry on the page, by its full name."""
    names = {name for name in page.ids if re.fullmatch(r"molsam[\w.]*", name)}
    return {name: resolve_name(name) for name in names}


@pytest.fixture(scope="session")
def api(site, pages) -> dict[str, object]:
    return shown(pages[site / "api.html"])


@pytest.mark.parametrize("room", LISTED)
def test_every_public_name_is_on_the_page(room, api):
    module = importlib.import_module(room)
    entries = list(api.values())
    for name in module.__all__:
        named = f"{room}.{name}" in api
        assert named or any(getattr(module, name) == entry for entry in entries), name


def test_everything_that_the_page_asks_for_is_shown(api):
    """mkdocstrings passes over members that are inherited or have no docstring."""
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    asked = re.findall(r"^::: (\S+)(?:\n +options: \{members: \[(.*)\]\})?", text, re.MULTILINE)
    assert len(asked) > 50
    for name, members in asked:
        for full in [name, *(f"{name}.{member}" for member in re.findall(r"\w+", members))]:
            assert full in api, full


def test_everything_on_the_page_says_what_it_is(api):
    package = griffe.load("molsam", search_paths=[str(ROOT)])
    for name, entry in api.items():
        documented = package[name.removeprefix("molsam.")]
        documented = documented.final_target if documented.is_alias else documented
        assert documented.has_docstring, name
        if inspect.isclass(entry) or inspect.isroutine(entry):
            assert entry.__doc__, name


def test_docstrings_in_one_line_have_types_from_the_signature(tmp_path):
    code = dedent(
        '''
        def look(rows: int, rho: float = 0.1):
            """Look around.

            rho -> the radius.
            w -> weights.
            Deviation: none.

            Parameters
            ----------
            rows : how many, a word or two.
                And more.
            rho
                The radius.
            """


        def turn(wide: bool, high: str = "a", deep: str = "b"):
            """Turn.

            Parameters
            ----------
            wide, high : as it says.
            deep : as it says.

            Raises
            ------
            ValueError : no rows.
            """


        def leave():
            """Leave.

            Raises:
                KeyError: no door,
                    or no key.
            """
        '''
    )
    (tmp_path / "made.py").write_text(code, encoding="utf-8")
    extensions = griffe.Extensions(docstrings.OneLine())
    module = griffe.load("made", search_paths=[str(tmp_path)], extensions=extensions)
    text, parameters = module["look"].docstring.parsed
    assert text.value == "Look around.\n\n- rho -> the radius.\n- w -> weights.\n\nDeviation: none."
    rows, rho = parameters.value
    assert (str(rows.annotation), rows.description) == (
        "int",
        "how many, a word or two.\nAnd more.",
    )
    assert (str(rho.annotation), rho.description) == ("float", "The radius.")
    _, parameters, raises = module["turn"].docstring.parsed
    stated = [(p.name, str(p.annotation), p.value and str(p.value)) for p in parameters.value]
    assert stated == [("wide", "bool", None), ("high", "str", "'a'"), ("deep", "str", "'b'")]
    (error,) = raises.value
    assert (error.annotation, error.description) == ("ValueError", "no rows.")
    _, raises = module["leave"].docstring.parsed
    (error,) = raises.value
    assert (error.annotation, error.description) == ("KeyError", "no door,\nor no key.")


def words(html: str) -> str:
    """The text of a piece of a page."""
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", "", html)))


def test_every_field_of_every_config_is_on_the_page(site, pages, api):
    """With its default, its limits and what it is."""
    text = pages[site / "api.html"].text
    models = {n: e for n, e in api.items() if inspect.isclass(e) and issubclass(e, BaseModel)}
    assert {*MODEL_CONFIGS.values(), *SECTIONS.values(), Recipe} <= {*models.values()}
    for name, model in models.items():
        entry = text.partition(f'id="{name}"')[2].partition("Fields:")[2].partition("</ul>")[0]
        items = [words(item) for item in re.findall(r"<li.*?</li>", entry, re.DOTALL)]
        assert len(items) == len(model.model_fields), name
        for (field, info), item in zip(model.model_fields.items(), items, strict=True):
            assert item.split()[0] == field
            assert info.description, f"{name}.{field} has no description"
            assert info.description in item, f"{name}.{field}"
            plain = info.default is None or isinstance(info.default, str | int | float | tuple)
            assert not plain or f"default: {info.default!r} )" in item, f"{name}.{field}"
            for limit in info.metadata:
                for key, sign in docstrings.LIMITS.items():
                    if hasattr(limit, key) and "Positive" not in item:
                        assert f"{sign} {getattr(limit, key):g}" in item, f"{name}.{field}"


def test_what_a_function_takes_and_gives_is_on_the_page(site, pages):
    found = words(pages[site / "api.html"].text)
    assert re.search(r"GraphSAM\( base: Optimizer, \*, rho: float = 0\.\d+, beta: float", found)
    assert "predict(molecules: Molecules, **how: Any) -> DataFrame" in found


def test_no_description_stands_as_a_type(site, pages):
    text = pages[site / "api.html"].text
    types = re.findall(r"<b><code>[\w, ]+</code></b>\s*\((.*?)\)\s*–", text, re.DOTALL)
    assert len(types) > 20
    for found in types:
        stated, _, _ = words(found).partition(", default:")
        compile(stated.strip(), stated, "eval")
