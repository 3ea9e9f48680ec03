"""The group `job`: very many jobs in flight, what each of them costs, and how many a second there can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from bench import crowd, hot, rates
from bench.figures import Figure, Knobs

FIGURES: Final[dict[str, Callable[[Knobs], Iterator[Figure]]]] = {
    "job.million": partial(crowd.in_flight_jobs, name="job.million", jobs=1_000_000),
    "job.100k": partial(crowd.in_flight_jobs, name="job.100k", jobs=100_000),
    "job.passivated_bytes": hot.passivated_bytes,
    "job.idle_bytes": hot.idle_bytes,
    "job.poll_cpu_us": hot.poll_cpu,
    "job.ask": hot.ask,
    "job.rate.vs_eventsourcing": rates.vs_eventsourcing,
    "job.rate.vs_dbos": rates.vs_dbos,
    "job.recovery.vs_dbos": rates.recovery,
}
