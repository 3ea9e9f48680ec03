"""Both stores keep the contract."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rushes.eventstore.base import EventStore
from rushes.eventstore.memory import MemoryStore
from rushes.eventstore.sqlite import SqliteStore
from rushes.eventstore.transactions import SHARDS
from rushes.testing.eventstore import EventStoreContract


class TestMemory(EventStoreContract):
    @pytest.fixture
    def store(self) -> EventStore:
        return MemoryStore()

    async def outdate(self, store: EventStore, stream: int) -> None:
        assert isinstance(store, MemoryStore)
        store.fences[stream] = 5


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
