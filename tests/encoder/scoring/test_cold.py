"""Cold items: what the catalogue says of an item that nobody bought decides its score."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from seq_ml import schema
from seq_ml.encoder.config import PRESETS
from seq_ml.encoder.data.texts import make_item_texts
from seq_ml.encoder.scoring.cold import PRIOR, cold_items
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.pretrain import pretrain
from seq_ml.language.text_model import SHIPPED
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.shards import write_shards
from seq_ml.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

    from seq_ml.encoder.scoring.catalogue import Own

CUT = datetime(2017, 6, 1, tzinfo=UTC)
GARDEN = (
    "hose shovel rake lawn mower hedge trimmer flower pot compost wheelbarrow seeds gnome fence"
)
BABY = "nappies bottle pacifier stroller crib rattle pram bib romper wipes teether onesie sling cot"
KINDS = ("00", "01")
"""Last byte of the pseudonyms of gardeners and of parents."""
PLANTED = {"new-garden": "garden watering can", "new-baby": "baby milk powder"}
TINY = PRESETS["tiny"]
CONFIG = replace(
    TINY,
    model=replace(TINY.model, text=True, id_dropout=0.5),
    training=replace(TINY.training, steps=40, queries=4, next_basket=1.0, masked_item=0.0),
)


def catalogue() -> pl.DataFrame:
    """Garden and baby items without a category, and two of them that nobody buys."""
    titles = {f"garden-{word}": f"garden {word}" for word in GARDEN.split()}
    titles |= {f"baby-{word}": f"baby {word}" for word in BABY.split()} | PLANTED
    rows = [
        {"item_id": item, "title": title, "is_merchandise": True} for item, title in titles.items()
    ]
    blank = dict.fromkeys(schema.ITEMS.names) | {"valid_from": CUT - timedelta(days=365)}
    return pl.DataFrame([blank | row for row in rows], schema=schema.ITEMS.polars_schema())


def pseudonym(user: int) -> str:
    return hashlib.blake2b(str(user).encode(), digest_size=15).hexdigest() + KINDS[user % 2]


def log() -> pl.DataFrame:
    """Forty users buy twenty things each: even ones for the garden, odd ones for a baby."""
    random = np.random.default_rng(0)
    kinds = [[f"garden-{w}" for w in GARDEN.split()], [f"baby-{w}" for w in BABY.split()]]
    rows = [
        {
            "event_id": f"{user}-{day}",
            "user_id": pseudonym(user),
            "event_type": "purchase",
            "item_id": str(random.choice(kinds[user % 2])),
            "event_time": CUT - timedelta(days=100 - 5 * day, hours=user),
            "quantity": 1.0,
            "unit_price": 1.0,
        }
        for user in range(40)
        for day in range(20)
    ]
    blank = dict.fromkeys(schema.EVENTS.names)
    frame = pl.DataFrame([blank | row for row in rows], schema=schema.EVENTS.polars_schema())
    return frame.with_columns(event_date=pl.col("event_time").dt.date())


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Encoder:
    folder = tmp_path_factory.mktemp("cold")
    events, items = log().lazy(), catalogue()
    words = Vocabulary.fit([events], items, before=CUT, min_users=CONFIG.min_users)
    sequences = build_sequences(events, as_of=CUT, max_events=CONFIG.max_events, shards=1)
    write_shards([sequences], words, folder / "shards")
    texts = make_item_texts(words, items, before=CUT, pretrained=SHIPPED)
    pretrain(folder / "shards", words, CONFIG, folder / "encoder", texts=texts)
    return Encoder.load(folder / "encoder")


def read(encoder: Encoder) -> tuple[list[str], torch.Tensor, Own]:
    """Everybody's vectors and own items."""
    sequences = encoder.sequences(log().lazy(), CUT)
    (found,) = encoder.read_users(sequences, CUT, encoder.catalogue())
    return found


def test_cold_items_are_those_without_a_token_that_were_known_in_time(encoder):
    items = catalogue()
    late = items.head(1).with_columns(item_id=pl.lit("late"), valid_from=pl.lit(CUT))
    silent = items.head(1).with_columns(item_id=pl.lit("silent"), title=None)
    found = cold_items(
        encoder, pl.concat([items, late, silent], how="vertical_relaxed"), before=CUT
    )
    assert found.item_ids == sorted(PLANTED)
    assert found.vectors.shape == (2, CONFIG.model.dim)
    assert found.bias.shape == (2,)
    assert found.near.shape == (len(encoder.vocabulary.item_tokens), 2)


def test_its_words_rank_an_unseen_item_for_who_buys_such_things(encoder):
    found = cold_items(encoder, catalogue(), before=CUT)
    assert found.item_ids == ["new-baby", "new-garden"]
    users, states, own = read(encoder)
    gardeners = np.array([user.endswith(KINDS[0]) for user in users])
    for items in (found, replace(found, near=None)):  # the vector alone knows it too
        baby, garden = items.scores(states, own).T
        assert ((garden > baby) == gardeners).mean() >= 0.95  # chance: 0.5


def test_a_new_item_gets_the_mean_of_what_reads_like_it(encoder):
    title = pl.when(pl.col("item_id") == "new-garden").then(pl.lit("garden rake"))
    twin = catalogue().with_columns(title=title.otherwise("title"))
    found = cold_items(encoder, twin, before=CUT)
    place = list(encoder.vocabulary.item_tokens).index("garden-rake")
    column = found.item_ids.index("new-garden")
    share = found.near[place, column]
    assert share == found.near[:, [column]].max()
    assert 1 / (1 + PRIOR) >= share > 0.5 / (1 + PRIOR)
    users, states, own = read(encoder)
    alone = replace(found, near=None).scores(states, own)[:, column]
    copied = found.scores(states, own)[:, column]
    again = np.zeros(len(users))
    again[own.user[own.place == place]] = own.score[own.place == place].exp()
    assert (copied >= np.logaddexp(alone, np.log(share * again + 1e-30)) - 1e-5).all()
    assert (copied > alone)[again > 0].all()


def test_new_items_compete_in_the_lists_with_filter_and_deny(encoder):
    found = cold_items(encoder, catalogue(), before=CUT)
    bias = found.bias + 100
    sure = replace(found, bias=bias)
    sequences = list(encoder.sequences(log().lazy(), CUT))
    for options in ({}, {"filter_seen": True}):
        (top,) = encoder.top_items(sequences, CUT, k=2, cold=sure, **options)
        assert all(set(items) == set(PLANTED) for items in top.item_ids)
        _, states, own = read(encoder)
        expected = np.sort(sure.scores(states, own), axis=1)[:, ::-1]
        np.testing.assert_allclose(top.scores, expected, rtol=1e-4)
    (top,) = encoder.top_items(sequences, CUT, k=3, cold=sure, deny=["new-baby"])
    assert all("new-baby" not in items for items in top.item_ids)


def test_an_unknown_category_says_no_more_than_none(encoder):
    items = catalogue()
    other = pl.when(pl.col("item_id") == "new-baby").then(pl.lit("unheard of"))
    same = items.with_columns(
        title=pl.when(pl.col("item_id").is_in(list(PLANTED)))
        .then(pl.lit("hose"))
        .otherwise("title"),
    )
    found = cold_items(encoder, same, before=CUT)
    np.testing.assert_array_equal(found.vectors[0], found.vectors[1])
    unheard = cold_items(encoder, same.with_columns(category=other), before=CUT)
    np.testing.assert_array_equal(found.bias, unheard.bias)
