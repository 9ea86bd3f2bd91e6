"""Plain sentences about what an expectation demands, what was found, and what is unusual.

Reads the results' plain fields only and imports nothing of Great Expectations.
"""

from __future__ import annotations

from typing import Any

LONGEST = 200
"""Characters of an observed value that a sentence quotes."""


def claim(table: str, kind: str, kwargs: dict[str, Any]) -> str:
    """Say in words what an expectation demands."""
    subject = f"{table}.{kwargs['column']}" if "column" in kwargs else table
    mostly = f" in {kwargs['mostly']:.0%} of the rows" if kwargs.get("mostly", 1) != 1 else ""
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if low is not None and low == high:
        bounds = f"exactly {_number(low)}"
    else:
        sides = (("at least", low), ("at most", high))
        bounds = " and ".join(f"{side} {_number(one)}" for side, one in sides if one is not None)
    words = {
        "expect_column_values_to_not_be_null": "must not be null",
        "expect_column_values_to_be_between": f"must be {bounds}",
        "expect_column_values_to_be_unique": "must be unique",
        "expect_column_values_to_be_in_set": f"must be one of {_listed(kwargs.get('value_set'))}",
        "expect_column_values_to_match_regex": f"must match {kwargs.get('regex')}",
        "expect_compound_columns_to_be_unique": (
            f"must have one row per {_listed(kwargs.get('column_list'))}"
        ),
        "expect_column_pair_values_to_be_equal": (
            f"must have {kwargs.get('column_A')} equal to {kwargs.get('column_B')}"
        ),
        "expect_table_columns_to_match_ordered_list": (
            f"must have exactly the columns {_listed(kwargs.get('column_list'))}"
        ),
    }
    if kind in words:
        return f"{subject} {words[kind]}{mostly}"
    terms = ", ".join(
        f"{name} {value}" for name, value in kwargs.items() if name not in {"column", "batch_id"}
    )
    return f"{subject} fails '{kind.replace('_', ' ')}' ({terms})"


def _number(bound: Any) -> str:
    return f"{bound:,g}" if isinstance(bound, float) and abs(bound) < 1e6 else f"{bound}"


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values or ())


def what_was_found(result: Any) -> str:
    """Say in words what GX found."""
    found = result.result
    if not found:
        cause = _cause(result.exception_info)
        return f"it cannot be evaluated, {cause}" if cause else "it does not hold"
    if found.get("observed_value") is None and "unexpected_count" in found:
        return broken_rows(found["unexpected_count"], None)
    observed = str(found.get("observed_value"))
    return f"found {observed if len(observed) <= LONGEST else observed[:LONGEST] + '…'}"


def broken_rows(count: int, value: Any) -> str:
    """Say how many rows break an expectation, with one of the values."""
    example = "" if value is None else f", for example {value}"
    return f"{count} {'row breaks' if count == 1 else 'rows break'} it{example}"


def _cause(info: Any) -> str:
    """Dig the message out of GX's exception info (one flat record, or one per metric)."""
    records = [info] if "exception_message" in info else list(info.values())
    messages = [str(one["exception_message"]) for one in records if one.get("exception_message")]
    return messages[0].strip().splitlines()[0].rstrip(".") if messages else ""


def drift_sentence(row: dict[str, Any]) -> str:
    """Say in words what is unusual: a row of seq_ml.schema.stages.DRIFT, by column name."""
    day, column, value = row["event_date"], row["column"], row["value"]
    found, low, high = row["found"], row["usual_low"], row["usual_high"]
    texts = {
        "volume": (
            f"{found:,.0f} events of the usual types; {low:,.0f} to {high:,.0f} are usual on a "
            f"{day:%A}"
        ),
        "type_share": f"{found:.1%} of the events are '{value}'; {low:.1%} to {high:.1%} are usual",
        "null_share": (
            f"{column} is missing in {found:.1%} of the events '{value}'; "
            f"{low:.1%} to {high:.1%} are usual"
        ),
        "mean_price": (
            f"the mean price (geometric) of the events '{value}' is {found:,.2f}; "
            f"{low:,.2f} to {high:,.2f} is usual"
        ),
        "new": f"{column} '{value}' is new, with {found:,.0f} events; no day before had it",
        "vanished": (
            f"{column} '{value}' is missing; every day before had it, usually in "
            f"{row['usual']:,.0f} events"
        ),
    }
    return f"{day}: {texts[row['metric']]}."
