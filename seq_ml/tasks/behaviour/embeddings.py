"""The encoder's vectors of users as a column of examples; the encoder saw no later event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from seq_ml.tasks.data import TaskData

EMBEDDING = "embedding"
"""Column with the encoder's vectors, pl.Array(f32, dim); null where none was computed."""


def with_embeddings(
    examples: pl.DataFrame, data: TaskData, origins: Iterable[datetime]
) -> pl.DataFrame:
    """Add the encoder's vectors at the given origins as the column `embedding`, else null.

    Like the features, the vectors come from the window before the origin, and only users of
    `examples` are scored. Does nothing without an encoder. Raises ValueError when the encoder was
    fitted on events after the first test origin (without a split: after the first origin).
    """
    if data.encoder is None:
        return examples
    judged = examples.filter(split="test") if "split" in examples.columns else examples
    first: Any = judged["origin"].min()
    if first is not None and data.encoder.fitted_before > first:
        raise ValueError(
            f"The encoder {data.encoder.version} was fitted on events up to "
            f"{data.encoder.fitted_before}, after the test origin {first}: train it on an earlier "
            "cut-off."
        )
    parts = []
    for origin in sorted(set(origins)):
        wanted = examples.filter(origin=origin).select("user_id").unique()
        events = data.events_before(origin, days=data.periods.window_days).join(
            wanted.lazy(), on="user_id", how="semi"
        )
        users, vectors = data.encoder.user_embeddings(events, origin)
        parts.append(
            pl.DataFrame(
                {"user_id": users, EMBEDDING: vectors},
                schema={"user_id": pl.String, EMBEDDING: pl.Array(pl.Float32, vectors.shape[1])},
            ).with_columns(origin=pl.lit(origin, dtype=examples.schema["origin"]))
        )
    return examples.join(
        pl.concat(parts), on=["origin", "user_id"], how="left", maintain_order="left"
    )
