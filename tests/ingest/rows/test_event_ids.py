"""Event ids: the same content has the same id, whatever the batch."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ingest.mapping.mapped import canonical


def test_event_ids_repeat_for_what_is_sent_again():
    """Equal rows of a file have equal ids too: the clean stage numbers them."""
    columns = {"item_id": "i", "quantity": "n"}
    first = canonical({"i": ["a", "b", "a", "a"], "n": [1, 1, 1, 2]}, columns)["event_id"]
    assert first[0] == first[2]
    assert first.n_unique() == 3
    assert first.str.contains("^[0-9a-f]{32}$").all()
    again = canonical({"i": ["b", "c", "a"], "n": [1.0, 5, 1]}, columns)["event_id"]
    assert (again[0], again[2]) == (first[1], first[0])
    assert canonical({"i": ["", "a"], "n": [1, 1]}, columns)["event_id"][1] == first[0]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.text("a\x00\x1e\x1f0", max_size=4)] * 2), min_size=2, unique=True)
)
def test_different_contents_have_different_ids(rows):
    """Also where a text holds the characters that stand between the values."""
    frame = {"a": [a for a, _ in rows], "b": [b for _, b in rows]}
    columns = {"item_id": "a", "session_id": {"column": "b", "values": {"0": ""}}}
    found = canonical(frame, columns)
    distinct = found.select("item_id", "session_id").unique().height
    assert found["event_id"].n_unique() == distinct


def test_ids_do_not_depend_on_the_batch():
    """A column that is empty in one batch and not in another changes nothing for the others."""
    columns = {"item_id": "i", "text": "t"}
    alone = canonical({"i": ["a"], "t": [None]}, columns)["event_id"][0]
    assert canonical({"i": ["a", "b"], "t": [None, "x\x1f"]}, columns)["event_id"][0] == alone


def test_ids_of_the_source_count_within_the_source():
    given = canonical({"id": ["1", "1", "", None]}, {"event_id": "id"})["event_id"]
    assert given.to_list() == ["shop:1", "shop:1", None, None]
