"""Recommendations: scorers against their definition, no look ahead, labels by hand, the table."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from seq_ml.business import Business, Recommendations
from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.leakage import known_before
from seq_ml.metrics.list_quality import LIST_QUALITY
from seq_ml.schema import EVENTS, ITEMS, RECOMMENDATIONS, STAMP
from seq_ml.storage.contracts import check_key, conform
from seq_ml.tasks import data as task_data_module
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.recommendations import known as known_module
from seq_ml.tasks.recommendations import report
from seq_ml.tasks.recommendations import task as task_module
from seq_ml.tasks.recommendations.candidates import (
    ENCODER_FEATURES,
    FEATURES,
    ITEM_FEATURES,
    OWN_FEATURES,
    USER_FEATURES,
    Setting,
    candidate_features,
    fit,
)
from seq_ml.tasks.recommendations.task import RecommendationTask
from seq_ml.tasks.task import NotEnoughHistoryError, check_examples
from tests.data import AS_OF, journey

ORIGIN = datetime(2017, 6, 1, tzinfo=UTC)
KEYS = ["origin", "user_id", "item_id"]


class FakeEncoder:
    """Scores by item position; remembers what it was asked."""

    version = "fake"
    fitted_before = ORIGIN

    def __init__(self, items: list[str]) -> None:
        self.items = items
        self.origins: list[datetime] = []

    def item_scores(self, events, as_of, user_ids):
        self.origins.append(as_of)
        row = np.linspace(0, 3, len(self.items), dtype=np.float32)
        return self.items, np.tile(row, (len(user_ids), 1))


def task_data(events: pl.DataFrame | None = None, terms: Recommendations | None = None, **more):
    frames = journey(households=60)
    return TaskData(
        (frames["clean_events"] if events is None else events).lazy(),
        more.pop("items", frames["items"]),
        frames["campaigns"],
        frames["campaign_items"],
        frames["promotions"].lazy(),
        Business(timezone="America/New_York", recommendations=terms or Recommendations()),
        **more,
    )


def purchases(*rows: tuple[str, str, datetime]) -> pl.DataFrame:
    """clean_events of (user, item, time)."""
    return pl.DataFrame(
        [
            {
                **dict.fromkeys(EVENTS.names),
                "event_id": f"e{n}",
                "user_id": user,
                "item_id": item,
                "event_time": time,
                "event_type": "purchase",
                "quantity": 1.0,
                "unit_price": 1.0,
                "event_date": time.date(),
            }
            for n, (user, item, time) in enumerate(rows)
        ],
        schema=EVENTS.polars_schema(),
    )


def catalogue(*items: str, other: tuple[str, ...] = ()) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                **dict.fromkeys(ITEMS.names),
                "item_id": item,
                "title": f"title {item}",
                "category": "food",
                "is_merchandise": item not in other,
                "valid_from": datetime(2016, 1, 1, tzinfo=UTC),
            }
            for item in (*items, *other)
        ],
        schema=ITEMS.polars_schema(),
    )


@pytest.fixture(scope="module")
def examples() -> pl.DataFrame:
    return RecommendationTask().examples(task_data(), AS_OF)


@pytest.fixture(scope="module")
def judged(examples):
    return backtest(RecommendationTask(), examples, as_of=AS_OF, seed=7)


def test_habits_of_items_and_categories_by_hand():
    rows = [
        ("u", "a", 60), ("u", "a", 40), ("u", "a", 5),  # had it before, bought it again
        ("v", "a", 60), ("v", "b", 3),  # had it, came again without it; is a new buyer of b
        ("w", "a", 60),  # did not come at all: says nothing about the item
    ]  # fmt: skip
    frame = purchases(*((u, i, ORIGIN - timedelta(days=d)) for u, i, d in rows))
    frame = frame.with_columns(day=pl.col("event_time").dt.date())
    setting = Setting(repeats=True, popular=5, seed=0)
    fitted = fit(frame, ["u", "v", "w"], catalogue("a", "b"), ORIGIN, setting)
    found = candidate_features(fitted, frame, None)
    user = {row["item_id"]: row for row in found.filter(pl.col("user_id") == "v").to_dicts()}
    usual = 1 / 2  # of all owners who came again
    assert user["a"]["item_bought_again"] == pytest.approx((1 + 5 * usual) / (2 + 5))
    assert user["b"]["item_bought_again"] == pytest.approx(usual)
    assert [user[item]["item_new_buyers"] for item in "ab"] == [0, 1]
    assert user["a"]["item_new_share"] == 0
    assert user["b"]["item_new_share"] == pytest.approx(1 / 2)
    assert user["a"]["item_per_buyer"] == pytest.approx(5 / 3)
    assert user["a"]["item_interval"] == pytest.approx(55 / 2)
    assert user["b"]["category_due"] == pytest.approx(3 / (57 / 1 + 1))
    (once,) = found.filter(pl.col("user_id") == "w", pl.col("item_id") == "a").to_dicts()
    assert once["category_due"] is None  # bought once: no interval yet


def test_labels_and_relevant_items_by_hand():
    day = timedelta(days=1)
    horizon = 30 * day
    test = AS_OF - horizon
    rows = [
        (user, item, AS_OF - back * horizon - 5 * day)
        for user in ("u", "v")
        for item in ("a", "b")
        for back in (0, 1, 2, 3)
    ]
    rows += [
        ("u", "a", test),  # first instant of the window
        ("u", "new", test + day),  # bought for the first time by anyone: relevant, no candidate
        ("u", "fuel", test + day),  # no merchandise
        ("v", "b", test - timedelta(seconds=1)),  # before it
    ]
    items = catalogue("a", "b", "new", other=("fuel",))
    found = RecommendationTask().examples(task_data(purchases(*rows), items=items), AS_OF)
    found = found.filter(pl.col("split") == "test").sort("user_id", "item_id")
    assert found.select("user_id", "item_id", "label", "n_relevant", "n_relevant_novel").rows() == [
        ("u", "a", 1, 3, 1),
        ("u", "b", 1, 3, 1),  # bought five days before as_of
        ("v", "a", 1, 2, 0),
        ("v", "b", 1, 2, 0),
    ]


def test_examples_keep_the_temporal_rule(examples):
    check_examples(examples, RecommendationTask(), AS_OF)
    assert set(examples["split"]) == {"fit", "validation", "test"}
    assert examples.schema["own_count"] == pl.Float32


def test_features_do_not_change_when_the_future_does(examples):
    origin = AS_OF - timedelta(days=60)  # validation
    events = journey(households=60)["clean_events"]
    later = pl.col("event_time") >= origin
    changed = events.filter(~later | (pl.col("event_id").hash(1) % 3 == 0)).with_columns(
        item_id=pl.when(later).then(pl.lit("995242")).otherwise("item_id")
    )
    again = RecommendationTask().examples(task_data(changed), AS_OF)
    columns = [*KEYS, *FEATURES]
    kept = pl.col("split").is_in(["fit", "validation"])
    assert again.filter(kept).select(columns).equals(examples.filter(kept).select(columns))


def test_examples_are_the_same_in_any_order_of_the_events(examples):
    events = journey(households=60)["clean_events"].sample(fraction=1, shuffle=True, seed=1)
    again = RecommendationTask().examples(task_data(events), AS_OF)
    assert again.equals(examples)


def test_the_report_judges_baselines_and_ranker(judged, examples):
    by_name = {c.name: c for c in judged.candidates}
    own = by_name["own_frequency_decayed"].test["ndcg_at_10"].value
    popular = by_name["popularity_28d"].test["ndcg_at_10"].value
    assert own > popular > 0
    assert by_name["ranker_with_encoder"].left_out
    assert judged.model == "ranker"
    buyers = examples.filter(pl.col("split") == "test", pl.col("n_relevant") > 0)
    metric = RecommendationTask().metrics()[0]
    values = metric.function(judged.test, judged.predictions["ranker"])
    assert values.height == buyers["user_id"].n_unique()


def test_probabilities_hold_in_the_top_ten(judged):
    ranker = next(c for c in judged.candidates if c.name == "ranker").test
    assert -1 < ranker["calibration_intercept"].value < 1
    assert ranker["ece"].low <= ranker["ece"].value < 0.12


def test_the_encoder_adds_candidates_and_a_candidate_model():
    items = journey(households=60)["items"].filter("is_merchandise")["item_id"].to_list()
    encoder = FakeEncoder(items[:300])
    found = RecommendationTask().examples(task_data(encoder=encoder), AS_OF)
    days = [(AS_OF - origin).days for origin in encoder.origins]
    assert days == [90, 60, 30]
    assert found["encoder"].drop_nulls().len()
    assert (found["encoder"].drop_nulls() <= 0).all()  # log-probabilities
    model = RecommendationTask().candidates()[-1]
    assert set(ENCODER_FEATURES) <= set(model.features)
    model.fit(found.filter(pl.col("split") == "fit"))


@pytest.mark.parametrize("encoder", [False, True], ids=["without encoder", "with encoder"])
@pytest.mark.parametrize(("repeats", "then"), [*product([True, False], repeat=2)])
def test_a_round_holds_two_origins_of_the_one_before(encoder, repeats, then, monkeypatch):
    """Whether what people had is offered may be decided otherwise than in the earlier round."""
    items = journey(households=60)["items"].filter("is_merchandise")["item_id"].to_list()
    as_of, task, made = AS_OF - timedelta(days=30), RecommendationTask(), []
    later = task.examples(
        task_data(
            terms=Recommendations(allow_repeats=repeats),
            encoder=FakeEncoder(items[:300]) if encoder else None,
        ),
        AS_OF,
    )
    past = known_before(task_data(terms=Recommendations(allow_repeats=then)), as_of, AS_OF)
    expected = task.examples(past, as_of)

    def counted(*of):
        made.append(of)
        return read_known(*of)

    read_known = task_module.read_known
    monkeypatch.setattr(task_module, "read_known", counted)
    assert_frame_equal(task.earlier_examples(past, as_of, later), expected, check_exact=True)
    # Ranks count what is not offered, too: where the encoder named some they are not known again.
    assert len(made) == (1 if repeats or not (then or encoder) else 3)


@pytest.mark.slow
def test_state_survives_json_bit_for_bit(examples):
    fit = examples.filter(pl.col("split") == "fit")
    fresh = {m.name: m for m in RecommendationTask().candidates()}
    for model in RecommendationTask().candidates()[:-1]:
        model.fit(fit)
        other = fresh[model.name]
        other.restore(json.loads(json.dumps(model.state())))
        np.testing.assert_array_equal(other.predict(fit), model.predict(fit))


def test_rows_conform_and_cover_every_user(judged):
    newcomer = purchases(("newcomer", "x", AS_OF - timedelta(days=1))).with_columns(
        event_type=pl.lit("ad_impression"), item_id=pl.lit(None, dtype=pl.String)
    )
    events = pl.concat([journey(households=60)["clean_events"], newcomer])
    denied = "1082185"  # bananas: in most lists
    data = task_data(events, Recommendations(per_user=12, deny_items=(denied,)))
    task = RecommendationTask()
    serving = task.serving(data, AS_OF)
    rows = task.rows(data, AS_OF, serving, Champion(judged.published, "v1"))
    stamps = {c.name: pl.lit("x") for c in STAMP if c.name not in rows.columns and c.dtype == "str"}
    times = {"as_of": pl.lit(AS_OF), "created_at": pl.lit(AS_OF)}
    table = conform(rows.with_columns(**stamps, **times), RECOMMENDATIONS)
    check_key(table, RECOMMENDATIONS)

    assert set(table["user_id"]) == set(events["user_id"])
    assert table.group_by("user_id").len()["len"].unique().to_list() == [12]
    assert table.group_by("user_id").agg(pl.col("item_id").n_unique())["item_id"].min() == 12
    assert denied not in table["item_id"]
    other = journey(households=60)["items"].filter(~pl.col("is_merchandise"))["item_id"]
    assert not table["item_id"].is_in(other.implode()).any()
    ordered = table.sort("user_id", "rank")
    falling = ordered.with_columns(step=pl.col("score").diff().over("user_id"))["step"].drop_nulls()
    assert (falling <= 0).all()

    fallback = table.filter(pl.col("user_id") == "newcomer")
    assert fallback["is_fallback"].all()
    assert set(fallback["rec_type"]) == {"fallback"}
    assert set(fallback["source"]) == {"popular"}
    known = table.filter(pl.col("user_id") != "newcomer")
    assert not known["is_fallback"].any()
    assert set(known["source"]) == {judged.published.name}
    again = known.filter(pl.col("rec_type") == "buy_again")
    assert (again["reason_items"].list.first() == again["item_id"]).all()
    together = known.filter(pl.col("rec_type") == "bought_together")
    assert together["reason_items"].list.len().min() >= 1
    bought = events.filter(pl.col("event_type") == "purchase").select("user_id", "item_id")
    behind = together.explode("reason_items").select("user_id", item_id="reason_items")
    assert behind.join(bought.unique(), on=["user_id", "item_id"], how="anti").is_empty()


def test_without_repeats_nothing_owned_is_recommended():
    data = task_data(terms=Recommendations(allow_repeats=False))
    task = RecommendationTask()
    found = task.examples(data, AS_OF)
    assert (found["own_count"] == 0).all()
    assert (found["n_relevant"] == found["n_relevant_novel"]).all()


@pytest.mark.parametrize("encoder", [False, True], ids=["without encoder", "with encoder"])
def test_serving_a_sample_gives_the_rows_of_the_whole(encoder):
    frames = journey(households=60)
    items = frames["items"].filter("is_merchandise")["item_id"].to_list()
    data = task_data(encoder=FakeEncoder(items[:300]) if encoder else None)
    every = RecommendationTask().serving(data, AS_OF).examples
    users = every["user_id"].unique().sort()
    units = pl.concat([users.sample(9, seed=3), pl.Series(["nobody"])])
    found = RecommendationTask().serving(data, AS_OF, units).examples
    assert found["user_id"].n_unique() == 9
    expected = every.filter(pl.col("user_id").is_in(units.implode()))
    assert_frame_equal(found, expected, rel_tol=1e-5)
    assert found["encoder"].is_null().all() is not encoder
    nobody = RecommendationTask().serving(data, AS_OF, pl.Series(["nobody"])).examples
    assert nobody.is_empty()
    assert nobody.columns == every.columns


def test_a_short_history_is_refused_in_words():
    events = journey(households=60)["clean_events"]
    events = events.filter(pl.col("event_time") >= AS_OF - timedelta(days=40))
    with pytest.raises(NotEnoughHistoryError, match="60 days before 2018-01-01"):
        RecommendationTask().examples(task_data(events), AS_OF)


def test_serving_without_any_purchase_gives_no_candidates():
    data = task_data(journey(households=60)["clean_events"].head(0))
    assert RecommendationTask().serving(data, AS_OF).examples.is_empty()


def rows_of(*rows: tuple[str, int, str, float | None]) -> pl.DataFrame:
    """Published rows as of ORIGIN: (user, rank, item, p_purchase)."""
    names = ["user_id", "rank", "item_id", "p_purchase"]
    return pl.DataFrame(list(rows), schema=names, orient="row").with_columns(
        as_of=pl.lit(ORIGIN), horizon_days=pl.lit(30, dtype=pl.Int32)
    )


def test_outcomes_say_what_was_bought_in_the_window_and_nothing_before_it_closed():
    day = timedelta(days=1)
    events = purchases(
        ("u", "a", ORIGIN),  # the first instant counts
        ("u", "a", ORIGIN + day),
        ("u", "b", ORIGIN + 30 * day),  # the first instant after the window does not
        ("v", "c", ORIGIN - day),  # nor does the past
        ("v", "fuel", ORIGIN + day),
    )
    items = catalogue("a", "b", "c", "d", other=("fuel",))
    data = task_data(events, items=items)
    published = rows_of(
        ("u", 1, "a", 0.9), ("u", 2, "b", 0.5), ("v", 1, "c", 0.4), ("w", 1, "d", None)
    )
    task = RecommendationTask()
    found = task.outcomes(data, published, ORIGIN + 31 * day)
    assert found.select("user_id", "rank", "predicted", "realised").rows() == [
        ("u", 1, 0.9, 1.0),
        ("u", 2, 0.5, 0.0),
        ("v", 1, 0.4, 0.0),
    ]  # the last row is popular and promises nothing
    assert found["target"].unique().to_list() == ["p_purchase"]
    assert found["window_end"].unique().to_list() == [ORIGIN + 30 * day]
    assert task.outcomes(data, published, ORIGIN + 29 * day).is_empty()


def test_half_of_the_rows_are_new_and_ranked_as_the_model_ranks_new_items(judged):
    data = task_data(terms=Recommendations(per_user=10))
    task = RecommendationTask()
    serving = task.serving(data, AS_OF)
    rows = task.rows(data, AS_OF, serving, Champion(judged.published, "v1"))
    score = judged.published.predict(serving.examples)
    scored = serving.examples.with_columns(score=pl.Series(score))
    new = scored.filter(pl.col("own_count") == 0, pl.col("user_days") > 0)
    best = new.sort("user_id", "score", "item_id", descending=[False, True, False])
    best = best.group_by("user_id", maintain_order=True).agg(pl.col("item_id").head(5))
    shown = rows.filter(~pl.col("is_fallback"), pl.col("rec_type") != "buy_again")
    shown = shown.sort("user_id", "rank").group_by("user_id", maintain_order=True)
    shown = shown.agg(pl.col("item_id").head(5))
    assert shown.equals(best)


@pytest.mark.parametrize("encoder", [False, True], ids=["without encoder", "with encoder"])
def test_the_report_tests_reasons_and_judges_lists_baskets_and_company(examples, judged, encoder):
    data = task_data()
    if encoder:
        items = journey(households=60)["items"].filter("is_merchandise")["item_id"].to_list()
        data = task_data(encoder=FakeEncoder(items[:300]))
    sections = {s.title: s for s in RecommendationTask().sections(data, judged)}
    assert list(sections) == [
        "What is new, what is gone, what comes again",
        "Are the reasons true?",
        "Do the probabilities hold?",
        "What the lists are like",
        "Head, middle, tail and promotions",
        "The next basket",
        "Items beside an item",
    ]
    for section in sections.values():
        assert len({len(row) for row in section.rows}) == 1
        assert not any("nan" in cell for row in section.rows for cell in row[:1])
    bands = sections["Head, middle, tail and promotions"].rows[0]
    assert [band.split(":")[0] for band in bands[1:]] == [
        "head", "mid", "tail", "promoted", "not promoted",
    ]  # fmt: skip
    lists = [row[0] for row in sections["What the lists are like"].rows[1:]]
    assert lists[0] == judged.published.name
    assert set(lists) == set(judged.predictions)
    assert sections["Are the reasons true?"].text.startswith("They are.")


def test_no_sentence_of_the_task_speaks_of_purchases():
    """A play, a rating or a booking is none: candidates, metrics and limits fit any business."""
    task = RecommendationTask()
    said = [task.title, *task.limits, *(c.description for c in task.candidates())]
    said += [metric.description for metric in task.metrics()] + [*LIST_QUALITY.values()]
    assert [
        s for s in said if re.search(r"\b(bought|buy(s|ers?|ing)?|purchased?s?)\b", s, re.I)
    ] == []


@pytest.fixture
def by_few(monkeypatch) -> TaskData:
    """Data in shards of some twelve users, whose pseudonyms tell the shard."""
    monkeypatch.setattr(task_data_module, "USERS_A_SHARD", 12)
    events = journey(households=60)["clean_events"]
    names = events.select("user_id").unique().sort("user_id").with_row_index("n")
    names = names.with_columns(
        new=pl.col("n").map_elements(
            lambda n: f"{(n * 2_654_435_761) % 2**32:08x}{'0' * 24}", return_dtype=pl.String
        )
    )
    events = events.with_columns(pl.col("user_id").replace_strict(names["user_id"], names["new"]))
    newcomer = purchases(("f" * 32, "x", AS_OF - timedelta(days=1))).with_columns(
        event_type=pl.lit("ad_impression"), item_id=pl.lit(None, dtype=pl.String)
    )
    return task_data(pl.concat([events, newcomer]))


@pytest.mark.parametrize("repeats", [True, False])
def test_rows_of_shards_are_those_of_everybody_at_once(by_few, judged, repeats, monkeypatch):
    terms = Recommendations(allow_repeats=repeats)
    by_few = replace(by_few, business=replace_terms(by_few.business, terms))
    task, champion = RecommendationTask(), Champion(judged.published, "v1")
    monkeypatch.setattr(known_module, "REFERENCE_USERS", 10_000)
    shards = list(by_few.shards())
    assert len(shards) > 4
    parts = [task.rows(shard, AS_OF, task.serving(shard, AS_OF), champion) for shard in shards]
    assert len(by_few.kept) > 1
    monkeypatch.setattr(task_data_module, "USERS_A_SHARD", 10_000)
    whole = replace(by_few, cut=0)
    every = task.rows(whole, AS_OF, task.serving(whole, AS_OF), champion)
    key = ["user_id", "rank"]
    assert_frame_equal(pl.concat(parts).sort(key), every.sort(key), rel_tol=1e-4)


def test_of_everybody_all_is_counted_whoever_the_scorers_are_fitted_to(by_few, monkeypatch):
    task = RecommendationTask()
    shard = next(by_few.shards())
    monkeypatch.setattr(known_module, "REFERENCE_USERS", 12)
    sample = task.serving(shard, AS_OF)
    monkeypatch.setattr(known_module, "REFERENCE_USERS", 10_000)
    every = task.serving(next(replace(by_few).shards()), AS_OF)
    assert every.read.learnt_from is None
    assert 0 < sample.read.learnt_from < 60
    assert f"told from {sample.read.learnt_from} users" in report._of_some(sample.read)
    assert report._of_some(every.read) == ""
    assert not set(sample.read.users) & set(sample.read.fitted.history.users)
    key = "item_id"
    for told in (lambda known: known.fitted.items.drop("item"), lambda known: known.sold):
        one, other = (told(serving.read).sort(key) for serving in (sample, every))
        assert_frame_equal(one, other, rel_tol=1e-6)
    assert sample.read.range_.gone.equals(every.read.range_.gone)
    assert sample.read.young.equals(every.read.young)
    own = ["user_id", "item_id", *OWN_FEATURES[:-1], *USER_FEATURES, *ITEM_FEATURES]
    pair = pl.col("own_count") > 0
    both = [serving.examples.filter(pair).select(own) for serving in (sample, every)]
    both = [one.join(other, on=own[:2], how="semi") for one, other in (both, both[::-1])]
    assert_frame_equal(*both, rel_tol=1e-6)
    assert sample.examples["knn"].is_not_null().any()
    assert sample.examples["user_id"].unique().len() == every.examples["user_id"].unique().len()


def test_of_a_sample_all_that_is_sold_may_be_shown_in_the_report(by_few, monkeypatch):
    """Lists of some name what only others bought."""
    monkeypatch.setattr(known_module, "REFERENCE_USERS", 24)
    monkeypatch.setattr(task_module, "EXAMPLE_USERS", 12)
    task = RecommendationTask()
    few = backtest(task, task.examples(by_few, AS_OF), as_of=AS_OF, seed=7)
    assert few.test["user_id"].n_unique() < 30
    sections = {section.title: section for section in task.sections(by_few, few)}
    assert "told from" in sections["What is new, what is gone, what comes again"].text
    assert len(sections["What the lists are like"].rows) > 1


def replace_terms(business: Business, terms: Recommendations) -> Business:
    return business.model_copy(update={"recommendations": terms})
