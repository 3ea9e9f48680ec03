"""The log: an embedded event store. It knows streams, versions, positions and bytes, and nothing of videos."""
