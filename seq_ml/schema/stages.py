"""Tables between the drops and what is published: ledger, quarantine, sequences, embeddings."""

from __future__ import annotations

from seq_ml.schema.contract import Column, Table

# --- what cleaning did with the rows of a day -----------------------------------------------------

_COUNTED = (
    Column("rows_read", "i64", "Staged rows.", minimum=0),
    Column("rows_kept", "i64", "Rows published.", minimum=0),
    Column("rows_duplicate", "i64", "Rows dropped as re-sent.", minimum=0),
    Column("rows_quarantined", "i64", "Rows set aside with a reason.", minimum=0),
)

COUNTS = Table(
    "clean_counts",
    "What cleaning did with the rows of each file and day.",
    (
        Column("event_date", "date", "Day under which the rows are filed (UTC)."),
        Column("source_file", "str", "Object key of the drop."),
        *_COUNTED,
    ),
    key=("event_date", "source_file"),
    partition_by="event_date",
)

RULE_COUNTS = Table(
    "rule_counts",
    "How often each named rule decided about a row, or changed one.",
    (
        Column("event_date", "date", "Day under which the rows are filed (UTC)."),
        Column("rule", "str", "Name of the rule."),
        Column("column", "str", "Column that it looked at.", nullable=True),
        Column("rows", "i64", "Rows.", minimum=1),
    ),
    key=("event_date", "rule", "column"),
)

DRIFT = Table(
    "day_drift",
    "What was found on a day beside what is usual: the four weeks before it.",
    (
        Column("event_date", "date", "Day (UTC)."),
        Column(
            "metric",
            "str",
            "What was measured.",
            allowed=("volume", "type_share", "null_share", "mean_price", "new", "vanished"),
        ),
        Column("column", "str", "Column of clean_events."),
        Column("value", "str", "Value of that column, or the event type.", True),
        Column("found", "f64", "What was found."),
        Column("usual_low", "f64", "Lower end of what is usual."),
        Column("usual_high", "f64", "Upper end of what is usual."),
        Column("usual", "f64", "The middle of what is usual."),
        Column("rows", "f64", "Rows of the day that the number rests on."),
    ),
    key=("event_date", "metric", "column", "value"),
)

VALIDATIONS = Table(
    "validations",
    "The verdict on every day that was validated, in every run.",
    (
        Column("run_id", "str", "Run; the folder of its Data Docs."),
        Column("recorded_at", "datetime", "When the verdict was recorded (UTC)."),
        Column("event_date", "date", "Day (UTC)."),
        Column("success", "bool", "Whether its expectations held."),
        *_COUNTED,
        Column("expectations", "i64", "Expectations evaluated.", minimum=0),
        Column("failed", "list[str]", "What did not hold."),
        Column("warnings", "list[str]", "Expectations of severity warning that did not hold."),
        Column("drift", "list[str]", "What was unusual beside the four weeks before."),
        Column("page", "str", "Data Docs page, relative to their folder."),
    ),
    key=("run_id", "event_date"),
)

DAYS = Table(
    "clean_days",
    "What cleaning claims about each day, beside what DuckDB finds in the tables.",
    (
        Column("event_date", "date", "Day (UTC)."),
        *_COUNTED,
        Column(
            "rows_unaccounted",
            "i64",
            "Σ over files |read − kept − duplicates − quarantined|.",
            minimum=0,
            maximum=0,
        ),
        Column("rows_in_clean_events", "i64", "Rows of the day in clean_events."),
        Column("rows_in_quarantine", "i64", "Rows of the day in quarantined_events."),
        Column("rows_of_another_day", "i64", "Events of another UTC day.", minimum=0, maximum=0),
        Column(
            "repeated_in_clean_events", "i64", "Rows that share their key.", minimum=0, maximum=0
        ),
        Column(
            "repeated_in_quarantined_events",
            "i64",
            "Rows that share their key.",
            minimum=0,
            maximum=0,
        ),
        Column(
            "repeated_in_clean_counts", "i64", "Rows that share their key.", minimum=0, maximum=0
        ),
    ),
    key=("event_date",),
    partition_by="event_date",
)

# --- what happened to a drop ----------------------------------------------------------------------

DROP_LEDGER = Table(
    "drop_ledger",
    "Every object ever dropped: rows read = kept + duplicates + quarantined, once it is clean.",
    (
        Column("key", "str", "Object key in the bucket."),
        Column("etag", "str", "Content tag of the object; a corrected re-upload has a new one."),
        Column("size", "i64", "Bytes."),
        Column("landed_at", "datetime", "Last modification of the object (UTC)."),
        Column("source", "str", "Name of the source mapping.", True),
        Column("table", "str", "Input table that the rows belong to.", True),
        Column(
            "status",
            "str",
            "started → ingested → clean; or refused, with the reason.",
            allowed=("started", "ingested", "clean", "refused", "deleted"),
        ),
        Column("reason", "str", "Why a file was refused and what to do.", True),
        Column("mapping", "str", "Version of the mapping's entry that read the file.", True),
        Column("rows_read", "i64", "Records in the file (a row may carry several).", minimum=0),
        Column("rows_kept", "i64", "Rows published.", True, minimum=0),
        Column("rows_duplicate", "i64", "Rows dropped as re-sent.", True, minimum=0),
        Column("rows_quarantined", "i64", "Rows set aside with a reason.", True, minimum=0),
        Column("partitions", "list[str]", "Days (events) or weeks (promotions) touched."),
        Column("recorded_at", "datetime", "When this ledger row was written (UTC)."),
    ),
    key=("key",),
)

CLEANING_COUNTS = Table(
    "cleaning_counts",
    "When, and by which rules, each partition was last cleaned, and what of each file it kept.",
    (
        Column("table", "str", "Input table."),
        Column("partition", "str", "Day (events) or week (promotions); empty where there is none."),
        Column("source_file", "str", "Object key of the drop; empty for the partition as a whole."),
        *_COUNTED,
        Column("version", "str", "Version of the cleaning rules."),
        Column("cleaned_at", "datetime", "Until when the rows that it saw were staged (UTC)."),
    ),
    key=("table", "partition", "source_file"),
)

REOPENED = Table(
    "reopened_partitions",
    "Partitions to be cleaned again for a reason that no drop tells.",
    (
        Column("table", "str", "Input table."),
        Column("partition", "str", "Day or week; empty where there is none."),
        Column("reason", "str", "Why it is cleaned again."),
        Column("reopened_at", "datetime", "When that was found out (UTC)."),
    ),
    key=("table", "partition", "reason", "reopened_at"),
)

STALE = Table(
    "stale_partitions",
    "Partitions that wait to be cleaned, and why; made when it is asked for.",
    (
        Column("partition", "str", "Day or week; empty where there is none."),
        Column("waiting_since", "datetime", "Since when it waits for this reason (UTC)."),
        Column("reason", "str", "Why it waits."),
    ),
    key=("partition", "reason"),
)

QUARANTINED = Table(
    "quarantined_events",
    "Every rejected row, with the rule that rejected it, the file, the row and the value.",
    (
        Column("table", "str", "Input table that the row was meant for."),
        Column("source_file", "str", "Object key of the drop."),
        Column("row_number", "i64", "Row in the file from 1, without the header.", minimum=1),
        Column("part", "i32", "Which of the events of that row, from 0.", minimum=0),
        Column("rule", "str", "Name of the rule."),
        Column("column", "str", "Offending column of the contract.", True),
        Column("value", "str", "Value as found.", True),
        Column("event_date", "date", "UTC day of the event; the day of arrival if it has none."),
    ),
    key=("source_file", "row_number", "part"),
    partition_by="event_date",
)

DAY_PROFILES = Table(
    "day_profiles",
    "What a day of clean_events looked like, in sums: what later days are compared with.",
    (
        Column("event_date", "date", "Day (UTC)."),
        Column(
            "metric",
            "str",
            "rows: with that value; nulls: without a value; priced: with a price above 0; "
            "log_price: sum of the natural logarithms of those prices.",
            allowed=("rows", "nulls", "priced", "log_price"),
        ),
        Column("column", "str", "Column of clean_events that the number is about."),
        Column(
            "value",
            "str",
            "Value of that column (rows), else the event type that the number is about.",
        ),
        Column("number", "f64", "The count or the sum."),
    ),
    key=("event_date", "metric", "column", "value"),
    partition_by="event_date",
)

UPKEEP = Table(
    "upkeep_report",
    "What an upkeep did, or would do.",
    (
        Column("target", "str", "Table or folder."),
        Column("action", "str", "What is done to it."),
        Column("files_before", "i64", "Files before."),
        Column("files_after", "i64", "Files afterwards."),
        Column("bytes_before", "i64", "Bytes before."),
        Column("bytes_after", "i64", "Bytes afterwards; an estimate where files are merged."),
        Column("outcome", "str", "Whether it was done, or why it was left."),
    ),
    key=("target", "action"),
)

# --- who people are -------------------------------------------------------------------------------

USER_IDS = Table(
    "user_ids",
    "The way back from pseudonyms.",
    (
        Column("user_id", "str", "Pseudonym."),
        Column("source_user_id", "str", "The source's own id."),
        Column("identity", "str", "Whose ids these are; null: the bucket's first identity.", True),
    ),
    key=("user_id",),
)

ERASED = Table(
    "erased",
    "Who was erased and stays out.",
    (
        Column("user_hash", "str", "Keyed hash of whose id it is and the id, of no other use."),
        Column("receipt", "str", "Object key of the erasure's receipt."),
        Column("erased_at", "datetime", "When the erasure began (UTC)."),
        Column(
            "scope",
            "str",
            "Whose id it is: an identity's, a source's, everybody's; null from before it was told "
            "apart, then an identity's and a source's.",
            nullable=True,
            allowed=("identity", "source", "everybody"),
        ),
    ),
    key=("user_hash", "receipt", "scope"),
)

# --- sequences and embeddings ---------------------------------------------------------------------

_LISTS = (
    Column("item_ids", "list[str]", "Items, null where the event has none."),
    Column("event_types", "list[str]", "Behaviour types."),
    Column("event_times", "list[datetime]", "Instants (UTC), ascending."),
    Column("quantities", "list[f64]", "Units."),
    Column("unit_prices", "list[f64]", "Currency units for one unit."),
)

USER_SEQUENCES = Table(
    "user_sequences",
    "Each user's behaviour as daily segments: all behaviour types of one UTC day in one sequence, "
    "ordered by (event_time, event_id). A segment depends on its day alone, and on its rates.",
    (
        Column("user_id", "str", "User."),
        Column("shard", "i32", "Shard: first 32 bits of the pseudonym modulo the shard count."),
        Column("segment_date", "date", "UTC day of the events; the partition."),
        Column("source", "str", "Made from: shard count, files of the day, money of the day."),
        Column("length", "i64", "Number of events in the lists.", minimum=1),
        *_LISTS,
    ),
    key=("user_id", "segment_date"),
    partition_by="segment_date",
)

SEQUENCE_SNAPSHOT = Table(
    "sequence_snapshot",
    "Each user's newest events before `as_of`, oldest first: what is read from the segments.",
    (
        Column("user_id", "str", "User."),
        Column("shard", "i32", "Shard: first 32 bits of the pseudonym modulo the shard count."),
        Column("as_of", "datetime", "Cut-off: events strictly before it."),
        *_LISTS,
        Column("length", "i64", "Number of events in the lists.", minimum=1),
        Column("total_events", "i64", "Events of the user before `as_of`, before truncation."),
    ),
    key=("user_id", "as_of"),
)

ITEM_EMBEDDINGS = Table(
    "item_embeddings",
    "The encoder's vector of each item in the vocabulary.",
    (
        Column("item_id", "str", "Item."),
        Column("embedding", "list[f32]", "Vector of fixed length."),
        Column("model_version", "str", "Encoder version."),
    ),
    key=("item_id",),
)

USER_EMBEDDINGS = Table(
    "user_embeddings",
    "The encoder's vector of each user at `as_of`.",
    (
        Column("user_id", "str", "User."),
        Column("as_of", "datetime", "Cut-off: events strictly before it."),
        Column("embedding", "list[f32]", "Vector of fixed length."),
        Column("model_version", "str", "Encoder version."),
    ),
    key=("user_id", "as_of"),
)

SEQUENCE_PREDICTIONS = Table(
    "sequence_predictions",
    "What the sequence model foresees of each user from an origin on, said by the newest rung of "
    "the ladder that was cut by then.",
    (
        Column("origin", "datetime", "Instant from which it looks ahead (UTC)."),
        Column("user_id", "str", "User with an event before the origin."),
        Column("rung", "str", "Encoder version."),
        Column("rung_cut", "datetime", "It read and was asked nothing from here on."),
        Column("silence_days", "i32", "Days that p_silence speaks of.", minimum=1),
        Column(
            "p_silence", "f32", "Probability of no conversion within them.", minimum=0, maximum=1
        ),
        Column("wait_p50", "f32", "Median days until the next; null beyond half a year.", True),
        *(
            Column(f"{name}_{days}d", "f32", f"Expected {what} in {days} days.", minimum=0)
            for name, what in (("orders", "visits with a conversion"), ("lines", "conversions"))
            for days in (28, 84)
        ),
        *(
            column
            for days in (28, 84)
            for column in (
                Column(
                    f"p_no_spend_{days}d",
                    "f32",
                    f"Probability of no spend in {days} days; null without prices.",
                    True,
                    minimum=0,
                    maximum=1,
                ),
                Column(f"spend_mu_{days}d", "f32", "Mean of the logarithm of spend, if any.", True),
                Column(f"spend_sigma_{days}d", "f32", "Its standard deviation.", True, minimum=0),
            )
        ),
    ),
    key=("origin", "user_id"),
)
