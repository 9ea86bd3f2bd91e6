"""The report, the model card and their figures: everything said, readable, nobody named."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import polars as pl
import pytest

from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.report import report_page
from seq_ml.metrics.calibration import reliability
from seq_ml.metrics.estimate import Estimate
from seq_ml.metrics.metric import Metric
from seq_ml.pages.figures import (
    BASELINE,
    MODEL,
    Row,
    Series,
    alone,
    bars,
    curves,
    intervals,
    lying_bars,
    number,
    ticks,
)
from seq_ml.pages.page import Page, Section, html, markdown
from seq_ml.registry.model_card import code_version
from seq_ml.registry.versions import save_model
from seq_ml.tasks.judged import Backtest, Fold
from seq_ml.tasks.registered import load_tasks
from tests.evaluation.test_backtest import AS_OF, WEEK, Toy, toy_examples

NOBODY = Estimate(float("nan"), float("nan"), float("nan"))


@pytest.fixture(scope="module")
def result() -> Backtest:
    found = backtest(Toy(), toy_examples(), as_of=AS_OF, seed=1)
    better, worse = Estimate(0.3, 0.27, 0.33), Estimate(-0.02, -0.05, 0.01)
    fold = Fold(
        AS_OF - WEEK, "trees", "by_noise", "trees", better, worse, better, 150, "no encoder"
    )
    lost = replace(fold, as_of=AS_OF - 2 * WEEK, published="by_noise", improvement=worse)
    alone_ = replace(lost, as_of=AS_OF - 3 * WEEK, model=None, model_value=NOBODY, improvement=None)
    return replace(found, walk_forward=(fold, lost, alone_), pooled=better)


class Counts(Toy):
    """Labels are amounts and predictions have several columns."""

    primary_metric = "error"

    def candidates(self):
        return [Guess("mean", is_baseline=True), Guess("double", is_baseline=False)]

    def metrics(self):
        return [
            Metric("error", False, lambda e, p: float(np.abs(p[:, 0] - e["label"]).mean())),
        ]


class Guess:
    """Predicts a column."""

    description = "A guess."

    def __init__(self, name: str, *, is_baseline: bool) -> None:
        self.name, self.is_baseline = name, is_baseline

    def fit(self, examples):
        self.mean = float(examples["label"].mean())

    def predict(self, examples):
        near = examples["near"].to_numpy() if not self.is_baseline else None
        first = np.full(examples.height, self.mean) if near is None else near
        return np.column_stack([first, first + 1])

    def state(self):
        return {"mean": self.mean}

    def restore(self, state):
        self.mean = state["mean"]


def counted() -> Backtest:
    rng = np.random.default_rng(0)
    examples = toy_examples()
    amount = rng.integers(0, 400, examples.height).astype(float)
    examples = examples.with_columns(
        label=pl.Series(amount),
        near=pl.Series(np.maximum(0, amount + rng.normal(0, 9, len(amount)))),
    )
    return backtest(Counts(), examples, as_of=AS_OF, seed=1)


def svgs(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


# --- the report -----------------------------------------------------------------------------------


def test_the_report_says_all_of_it_in_both_forms(result):
    section = Section(
        "Ablation", "With and without x.", (("what", "roc_auc"), ("without x", "0.5"))
    )
    made = report_page(result, Toy(), [section], {"encoder": "e1"})
    text, page = markdown(made), html(made)
    for said in (
        result.verdict.replace("'", "&#x27;"),
        "by_noise (baseline, chosen)",
        str(result.improvement.signed()),
        "left out",
        "stacked: there is no sequence_p",
        "2024-01-29",
        "It is a toy.",
        "With and without x.",
        "without x",
        "e1",
        "flagged = predicted above the mean",
        "a model would have been published in 1 of 3",
        "no encoder",
    ):
        assert said in page, said
        assert said.replace("&#x27;", "'") in text, said
    assert "nan" not in (text + page).lower()


def test_the_page_needs_nothing_else(result):
    page = html(report_page(result, Toy()))
    assert "Toy &lt;task&gt;" in page
    assert not re.search(r"<script|<link|<img|src=|@import|url\(", page)
    outside = set(re.findall(r"https?://[^\"' <]+", page))
    assert outside == {"http://www.w3.org/2000/svg"}, "a name, not an address"
    assert 'name="viewport"' in page
    assert "prefers-color-scheme:dark" in page
    assert page.index("The model wins") < page.index("<h2>"), "the verdict comes first"


def test_every_figure_can_be_read_aloud(result):
    figures = svgs(html(report_page(result, Toy())))
    assert len(figures) == 6
    for figure in figures:
        root = ET.fromstring(figure)
        assert root.get("role") == "img"
        tags = {child.tag.partition("}")[2]: child.text for child in root}
        assert tags["title"]
        assert re.search(r"\d", tags["desc"]), "the numbers are in the description"


def test_every_table_has_as_many_cells_as_its_header(result):
    page = report_page(result, Toy(), [], {"a": 1})
    for section in (*page.sections, *page.appendix):
        assert len({len(row) for row in section.rows}) <= 1, section.title


def test_nobody_is_named(result):
    page = report_page(result, Toy())
    found = html(page) + markdown(page)
    assert not re.search(r"\bu\d{3}\b", found)


def test_examples_are_the_best_and_the_worst_and_always_the_same(result):
    def examples_of(found: Backtest) -> tuple[tuple[str, ...], ...]:
        page = report_page(found, Toy())
        return next(s for s in page.sections if s.title == "Examples").rows

    rows = examples_of(result)
    assert rows[0] == ("what", "origin", "predicted", "happened", "group")
    kinds = [row[0] for row in rows[1:]]
    assert kinds == ["found"] * 3 + ["false alarm"] * 3 + ["missed"] * 3
    assert [row[3] for row in rows[1:]] == ["yes"] * 3 + ["no"] * 3 + ["yes"] * 3
    again = backtest(Toy(), toy_examples().reverse(), as_of=AS_OF, seed=1)
    assert examples_of(again) == rows


def test_a_baseline_that_wins_is_said_to_be_one():
    weak = backtest(Toy(), toy_examples(signal=0.0), as_of=AS_OF, seed=1)
    page = report_page(weak, Toy())
    assert page.headline == "The simple method wins"
    assert not page.good
    assert any(name.startswith("Best model") for name, _ in page.facts)


def test_counts_get_a_forecast_plot_and_no_list():
    found = counted()
    page = report_page(found, Counts())
    titles = [section.title for section in page.sections]
    assert "Do the numbers hold?" in titles
    assert "What the list finds" not in titles
    rows = next(s for s in page.sections if s.title == "Examples").rows
    assert {row[0] for row in rows[1:]} == {
        "close, among the largest",
        "far too high",
        "far too low",
    }
    assert "nan" not in html(page).lower()


def test_scores_that_are_no_probabilities_are_not_called_calibrated(result):
    wild = {name: p * 3 for name, p in result.predictions.items()}
    page = report_page(replace(result, predictions=wild), Toy())
    assert "Do the numbers hold?" not in [section.title for section in page.sections]


# --- the model card -------------------------------------------------------------------------------


def test_the_card_says_what_it_is_for_where_it_comes_from_and_the_way_back(objects, result):
    section = Section("Ablation", "With and without x.")
    saved = save_model(objects, Toy(), result, {"encoder": "e1"}, [section])
    card, version = saved.card, saved.name
    assert objects.get(f"models/toy/{version}/model_card.md").decode() == card
    assert objects.get(f"models/toy/{version}/report.html").decode() == saved.html
    for said in (
        f"# Model card: toy {version}",
        "Fills the table churn_predictions",
        "Not as a statement about one person",
        result.verdict,
        "by_noise (baseline, chosen)",
        "group = up",
        "Reliability of",
        "## Windows",
        "It is a toy.",
        "With and without x.",
        "| encoder | e1 |",
        f"| code | {code_version()} |",
        "rollback(objects, task)",
    ):
        assert said in card, said


def test_the_version_of_the_code_is_its_content():
    assert re.fullmatch(r"\d+\.\d+\.\d+ \([0-9a-f]{12}\)", code_version())


# --- pages and figures ----------------------------------------------------------------------------


def test_in_wide_tables_intervals_stand_below_and_long_names_may_break():
    row = ("a_b", "0.25 [0.24, 0.26]", "0.25 [unit]")
    narrow = Section("n", rows=(("x_y", "p", "q"), row))
    wide = Section("w", rows=(("x_y", *"pqrst"), (*row, "a_" * 20, "", "")))
    page = Page("e", "t", "h", "v", good=True, facts=(("f_g", "h_i"),), sections=(narrow,))
    said = html(page)
    assert '<td class="number">0.25 [0.24, 0.26]</td>' in said
    assert "x_<wbr>y" in said
    assert "h_<wbr>i" in said
    said = html(replace(page, sections=(wide,)))
    assert "0.25 <small>[0.24, 0.26]</small>" in said
    assert "a_<wbr>a_<wbr>" in said
    assert "<small>" not in markdown(replace(page, sections=(wide,)))


def test_every_candidate_of_every_task_is_said_in_words(result):
    mute = {
        (task.name, model.name)
        for task in load_tasks().values()
        for model in task.candidates()
        if not model.description.endswith(".")
    }
    assert not mute, "say in a sentence what these candidates are, where they are made"
    said = {row[0]: row[-1] for row in report_page(result, Toy()).sections[0].rows}
    assert said["by_noise (baseline, chosen)"] == "Nothing but noise."
    assert said["trees"] == "Boosted trees on all features (LightGBM)."


def test_slices_of_one_column_are_named_alike(result):
    part = result.slices[0]
    named = [replace(part, column="history", value=value) for value in ("none", "many orders " * 3)]
    page = report_page(replace(result, slices=tuple(named)), Toy())
    section = next(s for s in page.sections if s.title.startswith("Where it is better"))
    assert ">none<" in section.figures[0]
    assert "history = none" not in section.figures[0]
    assert section.rows[1][0] == "history = none", "the table has room for both"


def test_a_page_keeps_markup_in_cells_as_text():
    section = Section("a < b", "x & y\n\n- one\n- <two>", (("h|1",), ("<b>",)), (curve(),))
    page = Page("e", "t", "head", "v", good=True, facts=(("f", "<1>"),), sections=(section,))
    assert "<b>&lt;b&gt;" not in html(page)
    assert "<td>&lt;b&gt;</td>" in html(page)
    assert "<li>&lt;two&gt;</li>" in html(page)
    assert "| h\\|1 |" in markdown(page)
    assert "<svg" not in markdown(page)


def curve() -> str:
    return curves(
        "c", "x", "y", [Series("m", MODEL, [(0.0, 0.0), (0.4, 0.3)], [(0, 0.1), (0.2, 0.4)])]
    )


@pytest.mark.parametrize(
    "figure",
    [
        curve(),
        curves("nothing", "x", "y", []),
        curves("amounts", "x", "y", [Series("m", MODEL, [(0, 0), (1200, 900)])], percent=False),
        curves("one point", "x", "y", [Series("m", MODEL, [(0.0, 0.0)], [(0.0, 0.0)])]),
        intervals("i", [Row("a", Estimate(1, 0.5, 2), MODEL), Row("b", NOBODY, BASELINE)]),
        intervals("equal", [Row("a", Estimate(1, 1, 1))], zero=True),
        intervals("no rows", []),
        bars("b", "x", "y", ["1", "2"], [("m", MODEL, [1.0, float("nan")])], reference=1.0),
        bars("zero", "x", "y", ["1"], [("m", MODEL, [0.0])]),
        bars("below", "x", "y", ["1", "2"], [("m", MODEL, [-0.5, 1.0])]),
        bars("all below", "x", "y", ["1"], [("m", MODEL, [-3.0])]),
        bars("many", "x", "y", [f"2024-{i}" for i in range(99)], [("m", MODEL, [1.0] * 99)]),
        lying_bars("lying", ["a", "b"], [2.0, -1.0], {0}),
        lying_bars("nothing", [], []),
        bars("long", "x", "y", ["1"], [("n" * 30, MODEL, [1.0]), ("o" * 30, BASELINE, [2.0])]),
    ],
    ids=[
        "curve",
        "none",
        "amounts",
        "point",
        "intervals",
        "equal",
        "norows",
        "bars",
        "zero",
        "below",
        "allbelow",
        "many",
        "lying",
        "nobars",
        "names",
    ],
)
def test_every_figure_is_whole_and_inside_its_frame(figure):
    root = ET.fromstring(alone(figure))
    _, _, width, height = (float(part) for part in root.get("viewBox").split())
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            if (value := element.get(name)) is not None:
                assert 0 <= float(value) <= width, (element.tag, value)
        for name in ("y", "y1", "y2", "cy"):
            if (value := element.get(name)) is not None:
                assert 0 <= float(value) <= height, (element.tag, value)


def rectangles(figure: str) -> list[dict[str, float]]:
    """Bars of a figure, in the order of their labels."""
    found = [e for e in ET.fromstring(figure).iter() if "bar" in e.get("class", "").split()]
    return [{name: float(e.get(name, "nan")) for name in ("x", "y", "height")} for e in found]


def test_negative_bars_hang_below_zero():
    up, down, more = rectangles(
        bars("b", "x", "y", ["1", "2", "3"], [("m", MODEL, [1.0, -0.5, -1.0])])
    )
    zero = up["y"] + up["height"]
    assert down["y"] == more["y"] == pytest.approx(zero), "they begin where the others end"
    assert more["height"] == pytest.approx(up["height"], abs=0.2)
    assert down["height"] == pytest.approx(up["height"] / 2, abs=0.2)
    (alone_,) = rectangles(bars("b", "x", "y", ["1"], [("m", MODEL, [-3.0])]))
    assert alone_["height"] > 100, "without a positive one zero is at the top"


def test_long_names_stand_below_each_other():
    figure = bars("b", "x", "y", ["1"], [("n" * 30, MODEL, [1.0]), ("o" * 30, BASELINE, [2.0])])
    texts = {e.text: e for e in ET.fromstring(figure).iter() if e.text}
    assert float(texts["n" * 30].get("y")) < float(texts["o" * 30].get("y"))


def test_a_metric_whose_best_value_is_in_its_description_is_not_called_higher_or_lower():
    class Biased(Toy):
        def metrics(self):
            bias = Metric("bias", False, lambda *_: 0.0, description="Mean error; 0 is best.")
            return [*super().metrics(), bias]

    task = Biased()
    page = report_page(backtest(task, toy_examples(), as_of=AS_OF, seed=1), task)
    rows = {row[0]: row for s in page.sections if s.title == "All metrics" for row in s.rows}
    assert rows["bias"][3] == "see right"
    assert rows["brier"][3] == "lower"


def test_numbers_are_written_as_people_write_them():
    found = [number(v) for v in (0.0, 0.01234, 1.0, 12345.6, -3.14159, float("nan"))]
    assert found == ["0", "0.0123", "1", "12,346", "-3.14", "–"]
    assert ticks(0, 1) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert ticks(0.74, 0.88) == pytest.approx([0.75, 0.8, 0.85])


def test_reliability_has_intervals_of_the_right_width():
    label, p = np.repeat([0.0, 1.0], 50), np.full(100, 0.5)
    one = reliability(label, p, bins=1)[0]
    assert (one.low, one.high) == pytest.approx((0.4038, 0.5962), abs=1e-4), "Wilson 1927"
    sure = reliability(np.ones(20), np.ones(20), bins=1)[0]
    assert sure.low < 1 == sure.high
    amounts = np.arange(100.0)
    many = reliability(amounts, amounts, bins=1)[0]
    assert many.high - many.observed == pytest.approx(1.96 * amounts.std(ddof=1) / 10, rel=1e-3)
