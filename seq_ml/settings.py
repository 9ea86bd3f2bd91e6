"""Settings of one deployment: environment variables first, then the files under `SEQLINE_HOME`.

`SEQLINE_HOME` (default `.seqline` beside the code) holds what belongs to this machine alone: the
embedded server's data, generated secrets (mode 600) and local working copies. Everything else
lives in the bucket.
"""

from __future__ import annotations

import os
import secrets
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

SETTINGS_FILE = "settings.env"


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

    model_config = SettingsConfigDict(env_prefix="SEQLINE_", extra="forbid")

    bucket: str = Field("seqline", description="Bucket of drops, tables and models.", min_length=3)
    first_day: date = Field(
        date(2015, 1, 1), description="Earliest day of events; older ones are quarantined."
    )
    pseudonym_key: SecretStr = Field(
        SecretStr(""), description="Key of the user pseudonyms; generated when empty."
    )
    preset: Literal["tiny", "small", "base"] = Field(
        "small", description="Size of the encoder: tiny (tests), small (CPU), base (one GPU)."
    )
    shards: int = Field(16, ge=1, le=4096, description="User shards, the unit of parallelism.")
    stable_seconds: int = Field(
        60, ge=0, description="A dropped file without _SUCCESS is ready when unchanged this long."
    )
    ingest_batch_mb: int = Field(
        256, ge=1, description="Raw megabytes read at once; bounds the memory of ingest."
    )
    nightly_cron: str = Field("0 2 * * *", description="When the nightly retraining starts.")
    tables_cron: str = Field("0 6 * * *", description="When the daily tables are refreshed.")
    timezone: str = Field("UTC", description="Time zone of the two cron expressions.")
    site_url: str = Field(
        "http://127.0.0.1:3001", description="Where `seqline ui` serves reports and Data Docs."
    )
    failure_webhook: str = Field("", description="URL that gets a JSON post for each failed run.")
    seed: int = Field(7, description="Seed of everything random.")


def load_settings() -> Settings:
    """Read the settings; a pseudonym key is generated once and kept with mode 600.

    Raises pydantic's ValidationError for a value of the wrong kind and for an unknown key in the
    settings file.
    """
    path = home() / SETTINGS_FILE
    if not os.environ.get("SEQLINE_PSEUDONYM_KEY") and not _has_key(path):
        remember(SEQLINE_PSEUDONYM_KEY=secrets.token_hex(32))
    return Settings(_env_file=path if path.exists() else None)  # type: ignore[call-arg]


def remember(**values: str) -> None:
    """Keep settings for later processes in the settings file (mode 600); given keys replace old."""
    path = home() / SETTINGS_FILE
    kept = {}
    if path.exists():
        kept = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    kept.update(values)
    write_private(path, "".join(f"{key}={value}\n" for key, value in kept.items()))


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


def _has_key(path: Path) -> bool:
    return path.exists() and "SEQLINE_PSEUDONYM_KEY=" in path.read_text()
