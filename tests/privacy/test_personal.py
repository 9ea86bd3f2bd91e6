"""Personal data by its form: what is masked, and what only looks like it."""

from __future__ import annotations

import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq_ml.privacy.personal import found_in_label, masked, sign

CARDS = ("4111111111111111", "5555 5555 5555 4444", "3782-822463-10005", "6011000990139424")


def mask(text: str | None) -> str | None:
    return masked(pl.Series("t", [text], dtype=pl.String))[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to anna.b+shop@mail.example.co.uk, please", "write to [email], please"),
        ("jürgen@müller.de", "[email]"),
        ("call +49 171 1234567 or +491711234567!", "call [phone] or [phone]!"),
        ("0049 (171) 123 45 67", "[phone]"),
        ("(212) 555-0123, 212-555-0123, 212.555.0123", "[phone], [phone], [phone]"),
        ("0171 1234567, 0171/1234567, 020 7946 0958", "[phone], [phone], [phone]"),
        ("06 12 34 56 78", "[phone]"),
        (f"paid with {CARDS[0]}.", "paid with [card]."),
        (f"{CARDS[1]} / {CARDS[2]} / {CARDS[3]}", "[card] / [card] / [card]"),
        (None, None),
        ("", ""),
    ],
)
def test_personal_data_in_free_text_is_named_and_gone(text, expected):
    assert mask(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "ordered on 2024-05-01 10:00:00, came 2024-05-03T09:30:00.123456Z",
        "01.05.2024, 01/05/2024, 5/1/2024 10:30",
        "1.234,50 EUR or 1,234.50 USD, 12 x 19.99, 100 000 000",
        "item 1000085429, 51111085200 and A-1234-5678-90",
        "EAN 4006381333931, 4012345678901, UPC 012345678905, GTIN 10614141000415",
        "ISBN 978-3-16-148410-0 and 3-16-148410-0",
        "4111111111111112 has a wrong check digit",
        "rated 10/10 @ home, 5@3, me@home",
        "72d76fde-8bb3-4e00-8c23-a032dfed738c",
        "sizes 36 38 40 42 44 46 48",
        "2053013555631882655",
    ],
)
def test_what_only_looks_like_personal_data_stays(text):
    assert mask(text) == text


def labelled(*values: str | None) -> list[bool]:
    return found_in_label(pl.Series(values, dtype=pl.String)).to_list()


def test_labels_with_an_address_or_a_card_number_are_found():
    labels = ["tea", "x bob@example.com", None, "a@b", *CARDS, "order 4111111111111111"]
    assert labelled(*labels) == [False, True, False, False, True, True, True, True, False]


def test_numbers_of_the_source_are_no_cards_only_because_some_pass_the_check():
    chance = random.Random(1)
    ids = [str(4 * 10**15 + chance.randrange(10**15)) for _ in range(300)]
    assert not any(labelled(*ids))
    assert not any(labelled(*(str(n) for n in range(10**18, 10**18 + 300))))
    eans = [n + check for n in ("400638133393", "401234567890") for check in "0123456789"]
    assert not any(labelled(*(ean for ean in eans if ean in ("4006381333931", "4012345678901"))))


def test_ids_that_machines_count_out_are_never_taken_for_cards():
    labels = pl.Series(["4111111111111111", "x bob@example.com"])
    assert found_in_label(labels, cards=False).to_list() == [False, True]


def luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


@settings(max_examples=100, deadline=None)
@given(st.from_regex(r"4[0-9]{15}|37[0-9]{13}|5[1-5][0-9]{14}", fullmatch=True))
def test_the_check_digit_decides(number):
    assert (mask(f"no. {number}") == "no. [card]") == luhn(number)
    assert labelled(number) == [luhn(number)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from(["a@b.de", CARDS[0], "+49 171 1234567", "tea", " ", "@", "1"]),
            max_size=4,
        ),
        min_size=1,
    )
)
def test_the_cheap_sign_never_misses_and_masking_is_done_in_one_pass(parts):
    texts = pl.Series("t", ["".join(part) for part in parts])
    hidden = masked(texts)
    assert masked(hidden).equals(hidden)
    frame = texts.to_frame()
    if not frame.select(sign(pl.col("t"), free=True)).item():
        assert hidden.equals(texts)
    if not frame.select(sign(pl.col("t"), free=False)).item():
        assert not found_in_label(texts).any()
