"""Identities and keys."""

from __future__ import annotations

import uuid

from rushes.units import fresh_job_id, keyed_job_id, spread, submission_key


def test_a_fresh_id_is_a_version_7_uuid_and_sorts_by_time() -> None:
    ids = [fresh_job_id(1_700_000_000.0 + second, 2**74 - 1) for second in range(3)]
    parsed = uuid.UUID(ids[0].removeprefix("job_"))
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert ids == sorted(ids)
    assert all(len(one) == 36 and "-" not in one for one in ids)


def test_an_idempotency_key_names_one_job_for_each_tenant() -> None:
    names = {keyed_job_id(tenant, key, earlier) for tenant in "ab" for key in "kl" for earlier in (0, 1)}
    assert len(names) == 8
    assert keyed_job_id("a", "k", 0) == keyed_job_id("a", "k", 0)
    assert all(name.startswith("job_") and name == name.lower() and "=" not in name for name in names)


def test_a_submission_key_is_the_same_for_every_send_of_an_attempt() -> None:
    assert submission_key("job_1", 1) == "job_1-1"


def test_jitter_replays() -> None:
    assert spread("job_1", 1, 2) == spread("job_1", 1, 2)
    assert 0 <= min(spread("job", n) for n in range(100)) < max(spread("job", n) for n in range(100)) < 1
