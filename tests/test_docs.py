"""The pages: links lead somewhere, what they name in the code is there, the map is current."""

from __future__ import annotations

import re

import pytest

from tests import ROOT
from tests.file_map import PAGE, file_map

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
FILE = re.compile(r"[\w./-]*\w\.py\b")
MODULE = re.compile(r"\b(?:seq_ml|seq_assets|benchmarks|tests)(?:\.\w+)+")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def anchors(text: str) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def is_there(name: str) -> bool:
    """Tell whether a dotted name begins with a module, or with a folder of modules."""
    parts = name.split(".")
    for length in (len(parts), len(parts) - 1):  # the last part may be a name in the module
        path = ROOT.joinpath(*parts[:length])
        if path.is_dir() or path.with_suffix(".py").exists():
            return True
    return False


@each_page
def test_links_lead_somewhere(page):
    broken = []
    for match in LINK.finditer(page.read_text()):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert not broken


@each_page
def test_files_and_modules_that_a_page_names_are_there(page):
    text = re.sub(r"\[[^]]*\](?=\()", "", page.read_text())  # the label of a link may be short
    missing = {name for name in FILE.findall(text) if not (page.parent / name).exists()}
    missing = {name for name in missing if not (ROOT / name).exists()}
    assert not missing, "write the path from the root of the checkout"
    assert not {name for name in MODULE.findall(text) if not is_there(name)}


@each_page
def test_pictures_say_what_they_show(page):
    assert not re.findall(r"<img (?![^>]*alt=\"[^\"]+\")|!\[\]", page.read_text())


def test_the_map_names_every_file_with_its_own_words():
    """Renew with `make docs`."""
    assert PAGE.read_text() == file_map()
