"""Make the Data Docs readable without the internet, and give them an index of their own.

The pages that Great Expectations writes load style sheets, scripts and images from six hosts, and
count their readers. Nothing of that remains: the pages get the few rules below, and their index,
which was drawn by those scripts, is written here.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from seq_ml.schema.stages import DRIFT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from seq_ml.clean.expectations.verdicts import DayResult

SENTENCES = 20
"""So many findings of a day are listed."""

# Scripts, style sheets, images and the footer that GX loads from elsewhere.
FOREIGN = re.compile(
    r"<script\b.*?</script>|<style\b.*?</style>|<link\b[^>]*>|<img\b[^>]*>|<footer\b.*?</footer>",
    re.DOTALL,
)

STYLE = """<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --good: #2a8a4a; --bad: #c8352b;
  --mild: #b07400; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; } h2, h4 { font-size: 1.15rem; } h5, h6 { font-size: 1rem; margin: 0; }
a { color: #2a6fc9; text-decoration: none; } a:hover { text-decoration: underline; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
th, td { border-top: 1px solid var(--line); padding: .3rem .6rem; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th, td:first-child { white-space: nowrap; } td.n, th.n { text-align: right; white-space: nowrap; }
td ul { margin: 0; padding-left: 1.1rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .mild { color: var(--mild); }
.bar { background: #2a6fc9aa; height: .8rem; display: inline-block; }
nav ol, nav ul { list-style: none; margin: 0; padding: 0; }
.breadcrumb { display: flex; gap: .5rem; padding: 1rem 0; }
.breadcrumb li + li::before { content: "/ "; }
.container-fluid > .row { display: flex; gap: 2rem; align-items: flex-start; }
.container-fluid > .row > .col-lg-2 { flex: 0 0 13rem; position: sticky; top: 1rem; }
.container-fluid > .row > .col-lg-10, .container-fluid > .row > .col-12 { flex: 1; min-width: 0; }
.ge-section .row { display: block; }
.card { border: 1px solid var(--line); border-radius: 4px; margin-bottom: 1rem; }
.card-header, .alert { background: var(--soft); padding: .4rem .7rem; }
.card-body { padding: .4rem .7rem; }
.sticky > .card.mb-3, .collapse, thead[hidden] { display: none; }
.collapse:target { display: block; }
.badge { background: var(--soft); border-radius: 3px; padding: 0 .3rem; }
.text-success { color: var(--good); } .text-danger { color: var(--bad); }
.text-warning { color: var(--mild); } .fas { font-style: normal; font-weight: bold; }
.fa-check-circle::before { content: "✓"; } .fa-times::before { content: "✗"; }
.fa-exclamation-triangle::before { content: "!"; }
@media (max-width: 800px) { .container-fluid > .row { display: block; } }
</style>"""


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole HTML page with our style."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="UTF-8"><title>{escape(title)}'
        f"</title>{STYLE}</head>\n<body><h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def verdict(success: bool, *, mild: bool = False) -> str:
    """Return the coloured word for a verdict."""
    if not success:
        return '<span class="bad">✗ failed</span>'
    return '<span class="mild">! warnings</span>' if mild else '<span class="good">✓</span>'


def finish_docs(docs_folder: Path, results: Sequence[DayResult]) -> None:
    """Mend every page below `docs_folder`, and write its index.html about `results`."""
    pages = []
    for file in sorted(docs_folder.rglob("*.html")):
        text = FOREIGN.sub("", file.read_text())
        file.write_text(text.replace("</head>", f"{STYLE}</head>", 1))
        if status := re.search(r"Status:</span>.*?</i>\s*(\w+)", text):
            pages.append((file.relative_to(docs_folder), status[1] == "Succeeded"))
    (docs_folder / "index.html").write_text(_index(results, pages))


def _index(results: Sequence[DayResult], pages: Sequence[tuple[Path, bool]]) -> str:
    first, last = results[0].day, results[-1].day
    title = f"Validation of {first}" if first == last else f"Validation of {first} to {last}"
    numbers = ("rows_read", "rows_kept", "rows_duplicate", "rows_quarantined")
    head = "".join(f'<th class="n">{name.removeprefix("rows_")}</th>' for name in numbers)
    body = [
        '<p><a href="../../index.html">all runs</a></p>',
        f"<table><tr><th>day</th><th>verdict</th>{head}<th>findings</th></tr>",
    ]
    for one in results:
        cells = "".join(f'<td class="n">{one.statistics[name]:,}</td>' for name in numbers)
        state = verdict(one.success, mild=bool(one.warnings or one.drift))
        body.append(f"<tr><td>{one.day}</td><td>{state}</td>{cells}<td>{_findings(one)}</td></tr>")
    body += ["</table>", "<h2>Suites</h2>", "<table><tr><th>suite</th><th>run</th><th></th></tr>"]
    for path, success in pages:
        _, suite, run, *_ = path.parts
        day = re.search(r"-(\d{4}-\d\d-\d\d)$", path.stem)
        body.append(
            f'<tr><td><a href="{quote(str(path))}">{escape(suite)}</a></td>'
            f"<td>{day[1] if day else escape(run)}</td>"
            f"<td>{verdict(success or suite == DRIFT.name, mild=not success)}</td></tr>"
        )
    return page(title, [*body, "</table>"])


def _findings(result: DayResult) -> str:
    listed = [
        f'<li class="{kind}">{escape(sentence.removeprefix(f"{result.day}: "))}</li>'
        for kind, sentences in (
            ("bad", result.failed),
            ("mild", result.warnings),
            ("mild", result.drift),
        )
        for sentence in sentences
    ]
    if len(listed) > SENTENCES:
        listed = [*listed[:SENTENCES], f"<li>and {len(listed) - SENTENCES} more</li>"]
    return f"<ul>{''.join(listed)}</ul>" if listed else ""
