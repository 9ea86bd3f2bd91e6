"""Where each kind of object lies in the bucket: every prefix and fixed key, named once.

Prefixes are folders, without the slash at their end.
"""

from __future__ import annotations

DROPS_PREFIX = "drops"
"""`drops/<source>/…`: what the sources send, as they sent it."""
SOURCES_PREFIX = "sources"
"""`sources/<name>.yaml`: the mappings, which say how drops are read."""
TABLES_PREFIX = "tables"
"""`tables/<name>/`: the Delta tables."""
IDENTITIES_PREFIX = "identities"
"""Delta tables that lead from pseudonyms back to people, for fewer readers than the others."""
BARE_KEY = f"{IDENTITIES_PREFIX}/bare.json"
"""The identities whose ids are hashed as they are: the bucket's first, or all from before."""
TABLE_PREFIXES = (TABLES_PREFIX, IDENTITIES_PREFIX)
"""Whatever has Delta tables below it."""
CUTOFFS_KEY = "sequences/cutoffs.json"
"""The two instants that all stages after the sequences go by."""
VOCABULARY_PREFIX = "tokens/vocabulary"
"""`<version>.json` for each vocabulary, and a pointer to the newest."""
SHARDS_PREFIX = "tokens/shards"
"""Versioned folders of token shards."""
EXAMPLES_PREFIX = "examples"
"""`<task>.parquet`: the labelled examples of a task; `<task>.json`: what they were made from."""
MODELS_PREFIX = "models"
"""`<task>/<version>/`: each version of a task's model, and the encoder's beside them."""
ENCODER_PREFIX = f"{MODELS_PREFIX}/encoder"
"""Versioned folders of encoders."""
LADDER_KEY = f"{ENCODER_PREFIX}/ladder.json"
"""Which of them are the rungs of the ladder: encoders as of earlier instants."""
STATES_PREFIX = "states"
"""`<table>.json`: what became of a published table in the run that made it last."""
OUTCOMES_KEY = "outcomes/state.json"
"""What is known about each published snapshot whose label windows end."""
SITE_PREFIX = "site"
"""Pages; the folder of that name below `home()` is what `seqline ui` serves."""
DOCS_PREFIX = f"{SITE_PREFIX}/data_docs"
"""`<run>/`: the Data Docs of a cleaning run, and an index of all runs."""
RECEIPTS_PREFIX = "receipts/erasure"
"""A receipt for each erasure."""

MARKER = "_SUCCESS"
"""Object that says that its folder of drops is complete."""
ARRIVED_AT = "seqline-arrived-at"
"""Metadata of a drop that was rewritten: when its first version arrived (ISO, UTC)."""


def source_of(key: str) -> tuple[str, str]:
    """Split a drop's key into the source's name and the path below it."""
    name, _, path = key[len(DROPS_PREFIX) + 1 :].partition("/")
    return name, path


def is_hidden(path: str) -> bool:
    """Tell whether a path is no drop: a marker, or work in progress (`_temporary/`, `.git/`)."""
    return path.endswith("/") or any(part.startswith(("_", ".")) for part in path.split("/"))


def champion_key(task: str) -> str:
    """Key of the pointer to the version of a task that is published."""
    return f"{MODELS_PREFIX}/{task}/champion.json"


def challenger_key(task: str) -> str:
    """Key of the pointer to the version of a task that was judged last."""
    return f"{MODELS_PREFIX}/{task}/challenger.json"


def model_prefix(task: str, version: str) -> str:
    """Folder of one version of a task's model."""
    return f"{MODELS_PREFIX}/{task}/{version}"
