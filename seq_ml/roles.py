"""What a behaviour means to a business: its role. Code asks for roles, not for behaviours' names.

A mapping may name behaviours of its own (`play`, `trial_started`) and gives each a role; those of
STANDARD have theirs. Which behaviours are the conversion, `Business.conversion` says.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Collection

Role = Literal[
    "browse",
    "search",
    "intent",
    "conversion",
    "return",
    "exposure",
    "response",
    "feedback",
    "service",
    "other",
]
"""browse: something was looked at. search: something was looked for. intent: a step towards the
conversion, or back from it. conversion: what the business lives by. return: it was undone, and
money went back. exposure: the business showed or sent something; response: somebody reacted to it.
feedback: an opinion. service: a contact with the business. other: everything else, only read by the
sequence model."""

ROLES: tuple[Role, ...] = get_args(Role)
CONVERSION: Role = "conversion"
OTHER: Role = "other"

STANDARD: dict[str, Role] = {
    "view": "browse",
    "search": "search",
    "click": "browse",
    "add_to_cart": "intent",
    "remove_from_cart": "intent",
    "wishlist": "intent",
    "purchase": "conversion",
    "refund": "return",
    "ad_impression": "exposure",
    "ad_click": "response",
    "coupon_redeem": "response",
    "rate": "feedback",
    "review": "feedback",
    "contact": "service",
}
"""The standard behaviours, in the order of their tokens, each with its role."""

MOST_BEHAVIOURS = 250
"""Names of behaviours that a business may have: a token has one byte for them."""

COUPON = "coupon_redeem"
"""The one behaviour that is asked for by name: coupons have columns of their own in the profiles,
and other responses to advertising say nothing about them."""

SALE = "purchase"
"""The conversion of a shop: goods change hands, whether their prices are logged or not."""

BROWSING: tuple[Role, ...] = ("browse", "search", "intent", "response")
"""Behaviour that a person does one by one and a scraper, or a click farm, in bulk: what cleaning
looks for double clicks and bots in. But for COUPON: they come by the basket.

Conversions and returns come as whole baskets with one time stamp, exposures are sent by the
business, and feedback is often imported in bulk: none of them shows a bot.
"""
COUNTED: tuple[Role, ...] = ("conversion", "return")
"""Behaviour of at least one unit: cleaning fills in the quantity."""


def undeclared(name: str, known: Collection[str]) -> str:
    """Say what to do about a behaviour that is none of the known ones."""
    near = get_close_matches(name, known, n=1)
    return (
        f"'{name}' is no behaviour that Seqline knows{f' (is it {near[0]}?)' if near else ''}: "
        f"give it a role under `behaviours:` in the mapping, like `behaviours: {{{name}: other}}`, "
        "or translate it with `values`."
    )
