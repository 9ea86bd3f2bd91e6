"""Tiny trained encoders and the tasks that they are tuned to; made once a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seq_ml.encoder.finetuning.examples import binary_examples, item_examples
from seq_ml.encoder.finetuning.training import Task, fine_tune
from tests.data import journey
from tests.encoder.finetuning.tiny import FIT, SETTINGS, TEST, VALIDATION, labels, trained_encoder

if TYPE_CHECKING:
    from seq_ml.encoder.finetuning.tuned import FineTuned
    from seq_ml.encoder.scoring.encoder import Encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Encoder:
    return trained_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def quiet(encoder) -> Task:
    tokens = encoder.tokens(journey()["clean_events"].lazy(), TEST)
    parts = (binary_examples(tokens, labels(origins)) for origins in (FIT, [VALIDATION]))
    return Task("quiet", *parts)


@pytest.fixture(scope="module")
def items(encoder) -> Task:
    tokens = encoder.tokens(journey()["clean_events"].lazy(), TEST)
    bought = 1 + encoder.vocabulary.behaviours.index("purchase")
    parts = (
        item_examples(tokens, origins, days=30, behaviour=bought) for origins in (FIT, [VALIDATION])
    )
    return Task("items", *parts)


@pytest.fixture(scope="module")
def tuned(encoder, quiet) -> dict[str, FineTuned]:
    return {name: fine_tune(encoder, [quiet], given) for name, given in SETTINGS.items()}
