"""A page of sections: as Markdown (Dagster, model card) and as one HTML file that needs no other.

The HTML reads on a phone, in the dark, without JavaScript, and on paper; both say the same, but
figures are in the HTML only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from seq_ml.pages.style import PAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    Rows = Sequence[Sequence[str]]

NUMBER = re.compile(r"^[+\-−]?[\d–]")
"""A cell that begins so is set in digits of one width, on one line."""
LONG = 20
"""Cells with more characters are kept wide enough to be read on a phone, where tables scroll."""
WIDE = 5
"""In tables with more columns an interval stands below its number."""
INTERVAL = re.compile(r"(.+) (\[.+\])")


class Html(str):
    """A text that is HTML already: a cell, or the eyebrow. Every other one is escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A part of the report that only one task can write: text, a table, figures, in this order.

    rows: cells as text, the header first; figures: inline SVG documents (HTML report only).
    """

    title: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    figures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """A report: what it is about, its verdict, a few facts, sections, and what is folded away.

    headline: three or four words; verdict: one sentence; good: whether the colour is green.
    """

    eyebrow: str
    title: str
    headline: str
    verdict: str
    good: bool
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    appendix: tuple[Section, ...] = ()
    foot: str = ""


def markdown(page: Page) -> str:
    """Return the page as Markdown, without figures."""
    parts = [
        f"# {page.title}",
        page.eyebrow,
        f"**{page.headline}.** {page.verdict}",
        "\n".join(f"- {name}: {value}" for name, value in page.facts),
    ]
    for section in (*page.sections, *page.appendix):
        parts += [f"## {section.title}", section.text, markdown_table(section.rows)]
    return "\n\n".join(part for part in [*parts, page.foot] if part) + "\n"


def html(page: Page) -> str:
    """Return the page as one HTML document that needs nothing else."""
    facts = "".join(
        f"<div><dt>{_breakable(name)}</dt><dd>{_breakable(value)}</dd></div>"
        for name, value in page.facts
    )
    colour = "verdict good" if page.good else "verdict"
    parts = [
        f'<p class="eyebrow">{_text(page.eyebrow)}</p>',
        f"<h1>{escape(page.title)}</h1>",
        f'<div class="{colour}"><b>{escape(page.headline)}</b><p>{escape(page.verdict)}</p></div>',
        f"<dl>{facts}</dl>" if facts else "",
        *(_section(section) for section in page.sections),
    ]
    if page.appendix:
        folded = "".join(_section(section) for section in page.appendix)
        parts.append(f"<details><summary>Every number</summary>{folded}</details>")
    if page.foot:
        parts.append(f'<p class="foot">{escape(page.foot)}</p>')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(page.title)}</title><style>{PAGE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def link(text: str, target: str) -> Html:
    """Return a cell that links to a page beside this one."""
    return Html(f'<a href="{quote(target)}">{escape(text)}</a>')


def coloured(text: str, kind: str) -> Html:
    """Return a cell in the colour of a verdict: good, warn or bad."""
    return Html(f'<span class="{kind}">{escape(text)}</span>')


def markdown_table(rows: Rows) -> str:
    """Return rows of cells, the header first, as a Markdown table; no rows, no table."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _section(section: Section) -> str:
    return "".join(
        [
            f"<section><h2>{escape(section.title)}</h2>",
            *(_paragraph(text) for text in section.text.split("\n\n") if text.strip()),
            f'<div class="figures">{"".join(section.figures)}</div>' if section.figures else "",
            _table(section.rows),
            "</section>",
        ]
    )


def _text(text: str) -> str:
    return text if isinstance(text, Html) else escape(text)


def _paragraph(text: str) -> str:
    lines = text.strip().split("\n")
    if all(line.startswith("- ") for line in lines):
        return f"<ul>{''.join(f'<li>{escape(line[2:])}</li>' for line in lines)}</ul>"
    return f"<p>{escape(' '.join(lines))}</p>"


def _table(rows: Rows) -> str:
    if not rows:
        return ""
    wide = len(rows[0]) > WIDE
    head = "".join(f'<th scope="col">{_breakable(cell)}</th>' for cell in rows[0])
    lines = ("".join(_cell(cell, wide=wide) for cell in row) for row in rows[1:])
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    kind = ' class="wide"' if wide else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table{kind}>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: str, *, wide: bool) -> str:
    if isinstance(cell, Html):
        return f"<td>{cell}</td>"
    kind = "number" if NUMBER.match(cell) else "long" if len(cell) > LONG else ""
    text = _breakable(cell) if wide and kind != "number" else escape(cell)
    if wide and kind == "number" and (parts := INTERVAL.fullmatch(cell)):
        text = f"{escape(parts[1])} <small>{escape(parts[2])}</small>"
    return f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>"


def _breakable(text: str) -> str:
    """Let a long name of the code break after an underscore, not in the middle of a word."""
    return escape(text).replace("_", "_<wbr>")
