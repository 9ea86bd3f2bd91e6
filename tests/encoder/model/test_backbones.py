"""Every backbone behind the one interface: padding without effect, no look ahead, both sides."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch

from seq_ml.encoder.config import PRESETS
from seq_ml.encoder.data.batches import collate, make_queries, mask_of
from seq_ml.encoder.data.moments import moments_at
from seq_ml.encoder.data.windows import Window
from seq_ml.encoder.model.behaviour import BehaviourModel
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.vocabulary import DAY, SPECIAL, Tokens, Vocabulary
from tests.data import AS_OF, journey

CUT = AS_OF - timedelta(days=91)
TINY = PRESETS["tiny"].model
BACKBONES = ["causal", "bidirectional", "lstm", "gru"]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    data = journey()
    return Vocabulary.fit([data["clean_events"].lazy()], data["items"], before=CUT, min_users=3)


@pytest.fixture(scope="module")
def tokens(vocabulary) -> Tokens:
    events = journey()["clean_events"].lazy()
    return vocabulary.encode(build_sequences(events, as_of=CUT, max_events=256, shards=1))


@pytest.fixture(params=BACKBONES)
def model(request, vocabulary) -> BehaviourModel:
    torch.manual_seed(0)
    config = replace(TINY, backbone=request.param, layers=2, heads=2)
    return BehaviourModel(config, vocabulary).eval()


def first_events(tokens: Tokens, row: int, length: int) -> Window:
    start = int(tokens.offset[row])
    return Window(tokens, row, start, start + length)


def longest(tokens: Tokens) -> list[int]:
    return [int(row) for row in np.argsort(tokens.lengths)[-2:]]


@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(model, tokens, causal):
    if causal and not model.backbone.causal:
        pytest.skip("reads both ways only")
    one, other = longest(tokens)
    short, long = first_events(tokens, one, 12), first_events(tokens, other, 60)
    with torch.no_grad():
        alone = model(collate([short]), causal=causal)[0]
        padded = model(collate([short, long]), causal=causal)[0, :12]
    torch.testing.assert_close(alone, padded, rtol=1e-5, atol=1e-5)


def test_an_event_sees_both_sides_only_when_it_may(model, tokens):
    events = collate([first_events(tokens, longest(tokens)[1], 40)])
    item = events.item.clone()
    item[0, 25:] = SPECIAL
    changed = replace(events, item=item)
    with torch.no_grad():
        moved = (model(changed, causal=False) - model(events, causal=False)).abs().amax(dim=2)[0]
        assert moved[:25].max() > 1e-4
        if model.backbone.causal:
            before, after = model(events, causal=True)[0], model(changed, causal=True)[0]
            torch.testing.assert_close(before[:25], after[:25], rtol=0, atol=0)
            assert (before[25:] - after[25:]).abs().max() > 1e-4


def test_a_user_vector_knows_nothing_of_later_events(model, tokens, vocabulary):
    row = longest(tokens)[1]
    window = first_events(tokens, row, 40)
    moment = int(tokens.time[window.start + 20]) + 1
    before = int(np.searchsorted(tokens.time[window.start : window.stop], moment))
    past = [first_events(tokens, row, before)]
    vectors = []
    for read, instant in (([window], moment), (past, moment), (past, moment + 5 * DAY)):
        ticks, moments = moments_at(past, np.array([instant]), most=64)
        queries = make_queries(past, moments, mask_of(vocabulary, ("purchase",)))
        with torch.no_grad():
            vectors.append(model.user_states(collate(read, ticks), queries))
    torch.testing.assert_close(vectors[0], vectors[1], rtol=1e-5, atol=1e-5)
    assert (vectors[2] - vectors[1]).abs().max() > 1e-5  # the time of the question counts


@pytest.mark.parametrize("positions", ["calendar", "baskets", "events"])
def test_only_positions_of_events_tell_the_order_inside_a_basket(positions, tokens, vocabulary):
    torch.manual_seed(0)
    config = replace(TINY, positions=positions)  # one layer: in deeper ones causality tells too
    model = BehaviourModel(config, vocabulary).eval()
    events = collate([first_events(tokens, longest(tokens)[0], 12)])
    same = {name: torch.zeros_like(getattr(events, name)) for name in ("step", "gap", "day")}
    one = replace(events, **same)
    order = torch.tensor([3, 1, 2, 0, *range(4, 12)])
    other = replace(one, **{name: getattr(one, name)[:, order] for name in vars(one)})
    with torch.no_grad():
        last = [model(each, causal=True)[0, -1] for each in (one, other)]
    assert torch.allclose(*last, atol=1e-6) == (positions != "events")
