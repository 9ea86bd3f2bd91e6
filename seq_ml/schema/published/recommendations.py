"""Contracts of `recommendations`, `item_to_item` and `next_baskets`."""

from __future__ import annotations

from seq_ml.schema.contract import Column, Table
from seq_ml.schema.published.stamp import STAMP

RECOMMENDATIONS = Table(
    "recommendations",
    "What each user will want within the horizon, best first.",
    (
        Column("user_id", "str", "User."),
        Column(
            "rank",
            "i32",
            "1 = best. Half of the rows are kept for items new for the user; what nobody bought "
            "yet stands at even distances.",
            minimum=1,
        ),
        Column(
            "rec_type",
            "str",
            "Why it is in the list; all but buy_again are new for the user.",
            allowed=("for_you", "buy_again", "new", "bought_together", "fallback"),
        ),
        Column("item_id", "str", "Item recommended: one variant of a product at most."),
        Column("score", "f32", "Comparable within one user's list only."),
        Column(
            "p_purchase",
            "f32",
            "Probability of a conversion within horizon_days, of any variant of the product, or a "
            "score where rests_on says so: its level was off beyond chance in the window that "
            "judged it; null for fallback rows and for what nobody bought yet.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column("horizon_days", "i32", "Days after `as_of` that p_purchase speaks of."),
        Column("reason", "str", "One sentence."),
        Column("reason_items", "list[str]", "Items of the user's past behind it, strongest first."),
        Column("is_fallback", "bool", "True when nothing personal was known: it is popular."),
        Column(
            "in_stock",
            "bool",
            "False: none left, but ordered. Null: never counted. What is gone or discontinued is "
            "not shown.",
            True,
        ),
        Column(
            "rests_on",
            "str",
            "Days of history and ahead, closed windows learnt from and judged on, and the method; "
            "or what was counted, where nothing could be judged or nothing personal is known; "
            "null in rows of an earlier release.",
            True,
        ),
        *STAMP,
    ),
    key=("user_id", "rank", "as_of"),
)

ITEM_TO_ITEM = Table(
    "item_to_item",
    "What goes into the same basket as an item, and what its buyers take instead of it.",
    (
        Column("item_id", "str", "Item."),
        Column(
            "kind",
            "str",
            "bought_together: in the same basket. alternative: of the same category.",
            allowed=("bought_together", "alternative"),
        ),
        Column("rank", "i32", "1 = best, within item and kind.", minimum=1),
        Column("other_item_id", "str", "The other item."),
        Column(
            "score",
            "f64",
            "Share of the item's baskets (alternative: buyers) that have the other one too.",
            minimum=0,
            maximum=1,
        ),
        Column("both", "i64", "Baskets (alternative: buyers) with both items.", minimum=0),
        Column("lift", "f64", "`both` over what chance would give.", minimum=0),
        Column(
            "rests_on",
            "str",
            "Days of history that were counted; null in rows of an earlier release.",
            True,
        ),
        *STAMP,
    ),
    key=("item_id", "kind", "rank", "as_of"),
)

NEXT_BASKETS = Table(
    "next_baskets",
    "What the next basket of each user will hold, how many items, and on which day.",
    (
        Column("user_id", "str", "User."),
        Column("position", "i32", "1 = surest; no item comes twice.", minimum=1),
        Column("item_id", "str", "Item."),
        Column("score", "f32", "Falls with the position; comparable within one user only."),
        Column(
            "p_purchase",
            "f32",
            "That of the recommendation; null where it has none.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column("in_basket", "bool", "Among the first expected_size; null without an order.", True),
        Column(
            "expected_size",
            "i32",
            "Distinct items, judged in the report of the recommendations; null without an order.",
            True,
        ),
        Column(
            "expected_date",
            "date",
            "Business day of it, if it comes within the horizon of the recommendations: as likely "
            "before as after, judged in the same report; null without an order in the window that "
            "features read.",
            True,
        ),
        Column(
            "rests_on",
            "str",
            "That of the recommendation; null in rows of an earlier release.",
            True,
        ),
        *STAMP,
    ),
    key=("user_id", "position", "as_of"),
)
