"""Behaviours of a business's own: where they are named, and where names contradict each other."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from seq_ml.business import Business
from seq_ml.ingest.mapping.bucket import load_sources
from seq_ml.roles import STANDARD

FILES = "files: [{match: '*', table: events, columns: {user_id: u, event_type: e, event_time: t}}]"


def test_every_standard_behaviour_keeps_its_role() -> None:
    assert Business().roles == STANDARD
    assert Business().named("conversion") == ("purchase",)


def test_the_business_names_its_conversion() -> None:
    shop = Business(conversion="play", behaviours={"skip": "browse"})
    assert shop.named("conversion") == ("play",)
    assert shop.roles["purchase"] == "other"
    assert shop.roles["skip"] == "browse"


def test_an_own_conversion_stands_beside_the_purchase() -> None:
    assert Business(behaviours={"booking": "conversion"}).named("conversion") == (
        "purchase",
        "booking",
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"behaviours": {"view": "intent"}}, "'view' is a standard behaviour"),
        ({"behaviours": {"play": "browse"}, "conversion": "play"}, "let the two agree"),
        ({"behaviours": {"play": "conversion"}, "conversion": "purchase"}, "let the two agree"),
    ],
)
def test_roles_that_contradict_each_other_are_one_sentence(said: dict, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Business.model_validate(said)


def test_the_sources_share_their_behaviours(objects) -> None:
    objects.put("sources/web.yaml", f"name: web\nbehaviours: {{play: browse}}\n{FILES}".encode())
    app = f"name: app\nbehaviours: {{skip: other}}\nbusiness: {{conversion: like}}\n{FILES}"
    objects.put("sources/app.yaml", app.encode())
    business = load_sources(objects).business
    assert business is not None
    assert business.behaviours == {"skip": "other", "play": "browse"}
    assert business.named("conversion") == ("like",)


def test_a_role_that_two_sources_give_differently_is_one_sentence(objects) -> None:
    objects.put("sources/web.yaml", f"name: web\nbehaviours: {{play: browse}}\n{FILES}".encode())
    objects.put("sources/app.yaml", f"name: app\nbehaviours: {{play: intent}}\n{FILES}".encode())
    sources = load_sources(objects)
    assert sources.business is None
    assert sources.unclear.startswith(
        "'play' has the role intent in app and the role browse in web"
    )
