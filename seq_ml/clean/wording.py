"""Plain sentences about what an expectation demands and what Great Expectations found.

Reads the results' plain fields only and imports nothing of Great Expectations.
"""

from __future__ import annotations

from typing import Any


def claim(table: str, kind: str, kwargs: dict[str, Any]) -> str:
    """Say in words what an expectation demands."""
    subject = f"{table}.{kwargs['column']}" if "column" in kwargs else table
    mostly = f" in {kwargs['mostly']:.0%} of the rows" if kwargs.get("mostly", 1) != 1 else ""
    bounds = [
        f"{side} {_number(bound)}"
        for side, bound in (
            ("at least", kwargs.get("min_value")),
            ("at most", kwargs.get("max_value")),
        )
        if bound is not None
    ]
    words = {
        "expect_column_values_to_not_be_null": "must not be null",
        "expect_column_values_to_be_between": f"must be {' and '.join(bounds)}",
        "expect_column_values_to_be_unique": "must be unique",
        "expect_column_values_to_be_in_set": f"must be one of {_listed(kwargs.get('value_set'))}",
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
        return f"it cannot be evaluated, {_cause(result.exception_info)}"
    if "unexpected_count" in found:
        values = found.get("partial_unexpected_list") or [None]
        return broken_rows(found["unexpected_count"], values[0])
    return f"found {found.get('observed_value')}"


def broken_rows(count: int, value: Any) -> str:
    """Say how many rows break an expectation, with one of the values."""
    example = "" if value is None else f", for example {value}"
    return f"{count} {'row breaks' if count == 1 else 'rows break'} it{example}"


def _cause(info: Any) -> str:
    """Dig the message out of GX's exception info (one flat record, or one per metric)."""
    records = [info] if "exception_message" in info else list(info.values())
    messages = [str(one["exception_message"]) for one in records if one.get("exception_message")]
    return messages[0].strip().splitlines()[0].rstrip(".") if messages else "for no stated reason"
