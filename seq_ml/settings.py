"""Settings of one deployment: environment variables first, then the files under `SEQLINE_HOME`.

`SEQLINE_HOME` (default `.seqline` beside the code) holds what belongs to this machine alone: the
embedded server's data, generated secrets (mode 600) and local working copies. Everything else
lives in the bucket.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS_FILE = "settings.env"
PSEUDONYM_KEY = "SEQLINE_PSEUDONYM_KEY"
THREADS = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
"""Environment of a process that computes, read when it starts: OpenMP's idle threads that spin take
the core that another one needs, and OpenBLAS pays its threads on large matrices alone, which we do
not have (two of them took 12 times the CPU-seconds of one on matrices of 300)."""
FIRST_DAY = date(1990, 1, 1)
"""Old enough for the logs of any shop: with Dagster a day costs 5 microseconds of a listing."""


def project_root() -> Path:
    """Return the checkout's root, or the working directory when installed as a plain package."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "workspace.yaml").exists() else Path.cwd()


def home() -> Path:
    """Return `SEQLINE_HOME`, the folder of this machine's own state."""
    configured = os.environ.get("SEQLINE_HOME")
    return Path(configured).expanduser().resolve() if configured else project_root() / ".seqline"


class Settings(BaseSettings):
    """What an operator may set; each field is the environment variable `SEQLINE_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix="SEQLINE_", extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    bucket: str = Field("seqline", description="Bucket of drops, tables and models.", min_length=3)
    first_day: date = Field(
        FIRST_DAY, description="Earliest day of events; older ones are quarantined."
    )
    pseudonym_key: SecretStr = Field(
        SecretStr(""), description="Key of the user pseudonyms, hex; generated when empty."
    )
    preset: str = Field(
        "small", description="Size of the encoder: tiny (tests), small (CPU), base (one GPU)."
    )
    shards: int = Field(16, ge=1, le=4096, description="User shards, the unit of parallelism.")
    stable_seconds: int = Field(
        60, ge=0, description="A dropped file without _SUCCESS is ready when unchanged this long."
    )
    ingest_batch_mb: int = Field(
        256, ge=1, description="Raw megabytes read at once; bounds the memory of ingest."
    )
    rungs: int = Field(
        10,
        ge=1,
        description="Encoders as of earlier instants, 28 days apart, that the first training makes "
        "where the history is long enough: what tasks are judged by.",
    )
    full_retrain_days: int = Field(
        7,
        ge=0,
        description="A training continues from the encoder before it, but starts from scratch when "
        "the last that did so is so many days of data ago. 0: always from scratch.",
    )
    nightly_cron: str = Field("0 2 * * *", description="When the nightly retraining starts.")
    tables_cron: str = Field("0 6 * * *", description="When the daily tables are refreshed.")
    upkeep_cron: str = Field(
        "30 4 * * *", description="When small files are merged and old files are deleted."
    )
    history_days: int = Field(
        30, ge=1, le=30, description="Older versions of tables and unused artefacts are deleted."
    )
    docs_days: int = Field(90, ge=1, description="Older Data Docs are deleted.")
    quarantine_days: int = Field(
        0, ge=0, description="Older rows in quarantine are deleted; 0 keeps them."
    )
    timezone: str = Field("UTC", description="Time zone of the cron expressions.")
    site_url: str = Field(
        "http://127.0.0.1:3001", description="Where `seqline ui` serves reports and Data Docs."
    )
    failure_webhook: str = Field("", description="URL that gets a JSON post for each failed run.")
    seed: int = Field(7, description="Seed of everything random.")

    @field_validator("pseudonym_key")
    @classmethod
    def _usable_key(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value()
        if text and not (32 <= len(text) <= 128 and _is_hex(text)):
            raise ValueError("write 32 to 128 hex digits, like `openssl rand -hex 32` makes them")
        return key


def load_settings() -> Settings:
    """Read the settings; a pseudonym key is generated once and kept with mode 600.

    Raises pydantic's ValidationError for a value of the wrong kind and for an unknown key in the
    settings file.
    """
    path = home() / SETTINGS_FILE
    if not os.environ.get(PSEUDONYM_KEY):
        with _locked(path):  # of two processes that start together, one makes the key
            kept = _read(path)
            if not kept.get(PSEUDONYM_KEY):
                _write(path, {**kept, PSEUDONYM_KEY: secrets.token_hex(32)})
    return Settings(_env_file=path if path.exists() else None)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, in one atomic step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def _write(path: Path, values: dict[str, str]) -> None:
    write_private(path, "".join(f"{key}={value}\n" for key, value in values.items()))


def _is_hex(text: str) -> bool:
    try:
        return bool(bytes.fromhex(text))
    except ValueError:
        return False
