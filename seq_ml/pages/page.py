"""A page of sections: as Markdown (Dagster, model card) and as one HTML file that needs no other.

The HTML reads on a phone, in the dark, without JavaScript, and on paper; both say the same, but
figures are in the HTML only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from seq_ml.pages.figures import DARK, FIGURE_STYLE, VARIABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    Rows = Sequence[Sequence[str]]

STYLE = (
    f"{VARIABLES}{DARK}*{{box-sizing:border-box}}html{{color-scheme:light dark}}"
    "body{font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;color:var(--ink);"
    "background:var(--bg);max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem}"
    "h1{font-size:1.7rem;line-height:1.25;margin:.2rem 0 1rem}"
    "h2{font-size:1.2rem;margin:2.4rem 0 .5rem;padding-top:.9rem;border-top:1px solid var(--line)}"
    "p{margin:.5rem 0;max-width:46rem}.eyebrow,.foot{color:var(--muted);font-size:.85rem;margin:0}"
    ".foot{margin-top:3rem}"
    ".verdict{background:var(--card);border:1px solid var(--line);"
    "border-left:5px solid var(--warn);border-radius:6px;padding:.8rem 1rem;font-size:1.08rem}"
    ".verdict.good{border-left-color:var(--good)}.verdict b{display:block;color:var(--warn)}"
    ".verdict.good b{color:var(--good)}.verdict p{margin:.2rem 0 0}"
    "dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.6rem;"
    "margin:1rem 0}dl div{background:var(--card);border:1px solid var(--line);border-radius:6px;"
    "padding:.55rem .8rem}dt{color:var(--muted);font-size:.82rem}dd{margin:0;font-weight:600;"
    "overflow-wrap:anywhere}.scroll{overflow-x:auto;margin:.8rem 0}"
    "table{border-collapse:collapse;font-size:.9rem;min-width:60%}"
    "th,td{padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--line);text-align:left;"
    "vertical-align:top}th{color:var(--muted);font-weight:600}"
    "td{white-space:nowrap}td.long{white-space:normal;min-width:15rem}"
    "td.number{font-variant-numeric:tabular-nums}td small{display:block;color:var(--muted)}"
    ".wide td.long{min-width:9rem}"
    ".figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));"
    "gap:1rem 1.5rem;margin:1rem 0}ul{padding-left:1.2rem;max-width:46rem}li{margin:.25rem 0}"
    "summary{cursor:pointer;font-size:1.2rem;font-weight:600}details{margin-top:2.4rem;"
    "padding-top:.9rem;border-top:1px solid var(--line)}details h2{border:0;font-size:1rem;"
    f"margin:1.2rem 0 0;padding:0}}@media print{{details{{display:block}}}}{FIGURE_STYLE}"
)
NUMBER = re.compile(r"^[+\-−]?[\d–]")
"""A cell that begins so is set in digits of one width, on one line."""
LONG = 20
"""Cells with more characters are kept wide enough to be read on a phone, where tables scroll."""
WIDE = 5
"""In tables with more columns an interval stands below its number."""
INTERVAL = re.compile(r"(.+) (\[.+\])")


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
        f'<p class="eyebrow">{escape(page.eyebrow)}</p>',
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
        f"<title>{escape(page.title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


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
    kind = "number" if NUMBER.match(cell) else "long" if len(cell) > LONG else ""
    text = _breakable(cell) if wide and kind != "number" else escape(cell)
    if wide and kind == "number" and (parts := INTERVAL.fullmatch(cell)):
        text = f"{escape(parts[1])} <small>{escape(parts[2])}</small>"
    return f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>"


def _breakable(text: str) -> str:
    """Let a long name of the code break after an underscore, not in the middle of a word."""
    return escape(text).replace("_", "_<wbr>")


@dataclass(frozen=True)
class Section:
    """A part of the report that only one task can write: text, a table, figures, in this order.

    rows: cells as text, the header first; figures: inline SVG documents (HTML report only).
    """

    title: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    figures: tuple[str, ...] = ()
