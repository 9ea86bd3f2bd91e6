r"""Personal data in places where none belongs: found by its form, masked or refused.

Free text (reviews, search words, titles) keeps its words; e-mail addresses, phone numbers and card
numbers in it become `[email]`, `[phone]`, `[card]`. Columns of ids and labels must hold none: a row
with one is an error. What looks similar and is none stays: dates, prices, item numbers, EAN/GTIN.

A card number has a length and first digits that an issuer uses (ISO/IEC 7812) and a right check
digit (Luhn); a number of 13 or 14 digits with a right GTIN check digit is an article's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

EMAIL = r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+"
PHONE = "|".join(
    (
        r"\+[1-9]\d{0,2}(?:[ ()./-]{0,2}\d){6,12}\b",  # +49 171 1234567
        r"\b00[1-9]\d{0,2}[ ()/-]{1,2}\d(?:[ ()./-]{0,2}\d){5,11}\b",  # 0049 (171) 1234567
        r"\(0?\d{2,5}\)[ -]?\d{2,4}(?:[ -]?\d{2,4}){1,2}\b",  # (212) 555-0123
        r"\b\d{3}[-. ]\d{3}[-. ]\d{4}\b",  # 212-555-0123
        r"\b0[1-9]\d{1,3}[ /-]\d{3,4}(?:[ -]?\d{2,4}){1,2}\b",  # 0171 1234567
        r"\b0[1-9](?:[ .-]\d{2}){4}\b",  # 06 12 34 56 78
    )
)
CARD = r"\b\d(?:[ -]?\d){12,18}\b"
WHOLE_CARD = r"^\d(?:[ -]?\d){12,18}$"
HINT = r"@|\d[\d ()./-]{5,}\d"
"""Cheap to look for, and part of everything above."""


def sign(texts: pl.Expr, *, free: bool) -> pl.Expr:
    """Return whether any of the texts needs a closer look, as a free text or as a label."""
    if free:
        return texts.str.contains(HINT).any()
    return texts.str.contains("@", literal=True).any() | texts.str.contains(WHOLE_CARD).any()


def masked(texts: pl.Series) -> pl.Series:
    """Return free texts with personal data replaced by its kind in brackets."""
    hit = texts.str.contains(HINT)
    if not hit.any():
        return texts
    cards = _cards(texts.filter(hit).str.extract_all(CARD).explode().drop_nulls().unique())
    value = pl.col("text")
    if cards.len():
        value = value.str.replace_many(cards.to_list(), ["[card]"], leftmost=True)
    value = value.str.replace_all(EMAIL, "[email]").str.replace_all(PHONE, "[phone]")
    hidden = pl.DataFrame({"text": texts, "hit": hit}).select(
        pl.when("hit").then(value).otherwise(pl.col("text")).alias(texts.name)
    )
    return hidden.to_series()


def found_in_label(labels: pl.Series, *, cards: bool = True) -> pl.Series:
    """Return which ids or labels hold an e-mail address, or are a card number.

    One in ten numbers has a right check digit by chance. So where most of a column's numbers that
    could be cards have a wrong one, they are ids of the source's own scheme, and none counts.
    """
    personal = labels.str.contains(EMAIL).fill_null(value=False)
    if not cards:
        return personal
    numbers = labels.filter(labels.str.contains(WHOLE_CARD)).unique()
    shaped = numbers.filter(_by_digits(numbers, check=False))
    right = _cards(shaped)
    if right.len() * 2 > shaped.len():
        personal |= labels.is_in(right.implode()).fill_null(value=False)
    return personal


def _cards(candidates: pl.Series) -> pl.Series:
    """Return the candidates (13 to 19 digits, spaces, hyphens) that are card numbers."""
    return candidates.filter(_by_digits(candidates, check=True))


def _by_digits(candidates: pl.Series, *, check: bool) -> pl.Series:
    """Tell which candidates have an issuer's length and first digits, and a right check digit."""
    digits = candidates.str.replace_all("[ -]", "")
    lengths = digits.str.len_bytes().to_numpy()
    result = np.zeros(len(digits), dtype=bool)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        text = "".join(digits.gather(rows)).encode()
        table = np.frombuffer(text, dtype=np.uint8).reshape(len(rows), length).astype(np.int64) - 48
        fits = _of_an_issuer(table)
        if length in (13, 14):
            fits &= ~_gtin(table)
        if check:
            fits &= _luhn(table)
        result[rows] = fits
    return pl.Series(result, dtype=pl.Boolean)


def _of_an_issuer(table: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which rows of digits (n, length) begin as an issuer's cards of that length do.

    Visa, Mastercard, American Express, Diners Club, JCB, Discover, UnionPay, and Maestro, which has
    many beginnings, with 16 digits only.
    """
    length = table.shape[1]
    first: Any = table[:, 0]
    two: Any = first * 10 + table[:, 1]
    four: Any = two * 100 + table[:, 2] * 10 + table[:, 3]
    if length == 13:
        fits = first == 4
    elif length == 14:
        fits = (two == 36) | (two == 38) | ((four >= 3000) & (four < 3060))
    elif length == 15:
        fits = (two == 34) | (two == 37)
    elif length == 16:
        fits = (first == 4) | (two == 35) | (two == 50) | ((two >= 51) & (two <= 69))
        fits |= (four >= 2221) & (four <= 2720)
    else:
        fits = (two == 62) | (four == 6011)
    return np.asarray(fits)


def _luhn(table: NDArray[np.int64]) -> NDArray[np.bool_]:
    """ISO/IEC 7812-1, annex B: every second digit from the right, but the last, counts double."""
    digits = table[:, ::-1].copy()
    digits[:, 1::2] *= 2
    digits[digits > 9] -= 9
    return np.asarray(digits.sum(axis=1) % 10 == 0)


def _gtin(table: NDArray[np.int64]) -> NDArray[np.bool_]:
    """GS1: weights 3 and 1 from the right, the last digit makes the sum a multiple of ten."""
    weights = np.where(np.arange(table.shape[1]) % 2 == 1, 3, 1)
    return np.asarray((table[:, ::-1] * weights).sum(axis=1) % 10 == 0)
