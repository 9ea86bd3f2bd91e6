"""Behaviours of a business's own: where they are named, and where names contradict each other."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from seq_assets.cli.app import app
from seq_ml.business import Business
from seq_ml.ingest.mapping.bucket import load_sources
from seq_ml.roles import STANDARD, undeclared

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


@pytest.mark.parametrize("more", ["", "flies: []"], ids=["twice", "key"])
def test_a_mapping_that_is_broken_elsewhere_still_names_its_behaviours(objects, more) -> None:
    """Else all days would be cleaned anew, and its events taken out of them."""
    web = f"name: web\nbehaviours: {{play: browse}}\n{FILES}\n"
    objects.put("sources/web.yaml", web.encode())
    before = load_sources(objects).business
    objects.put("sources/web.yaml" if more else "sources/web2.yaml", f"{web}{more}".encode())
    sources = load_sources(objects)
    assert [*sources.broken] == ["web"]
    assert sources.business == before
    assert before is not None
    assert before.roles["play"] == "browse"


@pytest.mark.parametrize("said", [b"behaviours: {play: [", b"name: web\nbehaviours: {play: brows}"])
def test_nothing_is_cleaned_while_behaviours_cannot_be_read(objects, said) -> None:
    objects.put("sources/web.yaml", said)
    sources = load_sources(objects)
    assert sources.business is None
    assert sources.unclear == "Behaviours are named by web, whose mapping cannot be read: mend it."


def test_an_undeclared_behaviour_is_one_sentence_that_names_the_nearest() -> None:
    known = Business(behaviours={"trial_started": "intent"}).roles
    assert undeclared("trial_start", known) == (
        "'trial_start' is no behaviour that Seqline knows (is it trial_started?): give it a role "
        "under `behaviours:` in the mapping, like `behaviours: {trial_start: other}`, or translate "
        "it with `values`."
    )
    assert undeclared("xyz", known).startswith("'xyz' is no behaviour that Seqline knows: give it")


def test_a_check_says_what_undeclared_behaviours_cost(tmp_path) -> None:
    mapping, sample = tmp_path / "web.yaml", tmp_path / "a.csv"
    mapping.write_text(f"name: web\nbehaviours: {{play: browse}}\n{FILES}")
    kinds = ["play", "skip", "veiw", "skip", "view"]
    lines = [f"u{n},{kind},2024-05-0{n + 1} 10:00" for n, kind in enumerate(kinds)]
    sample.write_text("\n".join(["u,e,t", *lines]))
    said = CliRunner().invoke(app, ["sources", "check", str(mapping), "--sample", str(sample)])
    assert said.exit_code == 0, said.output
    text = " ".join(said.output.split())
    assert "2 sound, 3 rejected" in text
    assert "2 rows: 'skip' is no behaviour that Seqline knows" in text
    assert "1 rows: 'veiw' is no behaviour that Seqline knows (is it view?)" in text
