"""Both stores keep the contract."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from odd_stores import Gappy, MemoryContract

from rushes.eventstore.base import EventStore
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.sqlite import SqliteStore
from rushes.eventstore.transactions import SHARDS
from rushes.testing.eventstore import EventStoreContract


class TestMemory(MemoryContract):
    @pytest.fixture
    def store(self) -> EventStore:
        return MemoryStore()


class TestSqlite(EventStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[EventStore]:
        store = await SqliteStore.open(tmp_path / "rushes.db")
        yield store
        await store.close()

    async def reopen(self, store: EventStore) -> EventStore:
        assert isinstance(store, SqliteStore)
        await store.close()
        return await SqliteStore.open(store.path)

    async def outdate(self, store: EventStore, stream: int) -> None:
        assert isinstance(store, SqliteStore)
        with sqlite3.connect(store.path) as stranger:
            stranger.execute("UPDATE shards SET fence = 5 WHERE id = ?", (stream % SHARDS,))
        stranger.close()

    async def damage(self, store: EventStore, stream: int, version: int) -> EventStore:
        assert isinstance(store, SqliteStore)
        await store.close()
        with sqlite3.connect(store.path) as stranger:
            (guard,) = stranger.execute("SELECT sql FROM sqlite_master WHERE name = 'events_never_change'").fetchone()
            stranger.execute("DROP TRIGGER events_never_change")
            where = "WHERE stream = ? AND version = ?"
            stranger.execute(f"UPDATE events SET data = 'rot' {where}", (stream, version))
            stranger.execute(guard)
        stranger.close()
        return await SqliteStore.open(store.path)


class TestGappy(MemoryContract):
    """Nothing in the contract, and nothing that the stores share, takes positions for a count."""

    @pytest.fixture
    def store(self) -> EventStore:
        return Gappy()
