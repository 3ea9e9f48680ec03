"""A job begins once: a key names its job, so asking twice finds it."""

from __future__ import annotations

import hashlib
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.actors.job import phase_word
from rushes.actors.messages import Job
from rushes.actors.system import Snapshot, System
from rushes.actors.words import billed_word
from rushes.faults import BadRequest, CommandRejected, Conflict, NotFound, bad
from rushes.studio.asking import asked, asked_again, request_of
from rushes.studio.doors import Parts
from rushes.units import fresh_job_id, keyed_job_id
from rushes.video import MAX_KEY, VideoRequest, checked

Ready: TypeAlias = m.JobRequested | Snapshot
"""What a request begins, or the job that it began before under its key."""

_UNENDED: Final = "Job {0} is {1} and has not ended: wait for it, or cancel it; a retry would be a second, paid job."
_UNDECIDED: Final = (
    "Job {0} is parked, and the provider may still make and bill it: a retry would be a second, paid job beside it. "
    "Decide first: `collect` fetches it, `resubmit` sends it again, `give-up` ends it."
)


async def ready(parts: Parts, request: VideoRequest, key: str, tenant: str) -> Ready:
    """A request once it was looked at. Raises BadRequest.

    One that was sent before under its key is known by its own bytes: nothing that it names is fetched again.
    """
    request = checked(request)
    if not key:
        return await asked(parts, request, tenant)
    sent = digest_of(request)
    if (known := await _sent_before(parts.system, sent, key, tenant)) is not None:
        return known
    try:
        requested = await asked(parts, request, tenant)
    except BadRequest:
        if (known := await _sent_before(parts.system, sent, key, tenant)) is not None:
            return known  # its twin was luckier with the same address
        raise
    files = [[given.role, given.asset.sha256] for given in requested.spec.inputs]
    content = digest_of([replace(request, inputs=()), files])
    return replace(requested, idempotency_key=key, sent_sha256=sent, body_sha256=content)


async def ready_again(parts: Parts, old: Snapshot, key: str, tenant: str) -> Ready:
    """A job that has ended, once more. Raises CommandRejected where it has not, or BadRequest."""
    _refuse_unended(old)
    digest = digest_of(["retry", old.name])
    if key and (known := await _sent_before(parts.system, digest, key, tenant)) is not None:
        return known
    requested = asked_again(parts, old)
    return replace(requested, idempotency_key=key, sent_sha256=digest, body_sha256=digest) if key else requested


async def begun(parts: Parts, one: Ready, key: str, tenant: str) -> tuple[Snapshot, bool]:
    """The job, which is durable now; True beside it says that it had begun before.

    Raises Conflict where the key stands for another request.
    """
    if isinstance(one, Snapshot):
        return one, True
    if not key:
        name = fresh_job_id(parts.clock.now(), parts.rng.getrandbits(74))
        return await parts.system.generate(name, tenant, one, fresh=True)
    earlier = 0
    while True:
        snapshot, existed = await parts.system.generate(keyed_job_id(tenant, key, earlier), tenant, one)
        if not (existed and _gives_its_key_back(snapshot.job)):
            break
        earlier += 1
    if existed:
        refuse_another(snapshot, one, key)
    return snapshot, existed


async def under(system: System, key: str, tenant: str) -> Snapshot | None:
    """The job that a key stands for. Raises BadRequest where that is no key."""
    check_key(key)
    earlier = 0
    while True:
        try:
            snapshot = await system.look(keyed_job_id(tenant, key, earlier))
        except NotFound:
            return None
        if not _gives_its_key_back(snapshot.job):
            return snapshot
        earlier += 1


def refuse_another(known: Snapshot, asked_for: m.JobRequested, key: str) -> None:
    """Raise Conflict where a key's job was asked for otherwise.

    Two requests are the same as they were sent, or where pictures count by what they hold, not where they lie.
    """
    first = request_of(known)
    if asked_for.sent_sha256 != first.sent_sha256 and asked_for.body_sha256 != first.body_sha256:
        raise Conflict(idempotency_key=key, job_id=known.name, billed=billed_word(known.job))


def check_key(key: str) -> None:
    """Raise BadRequest where a text is no idempotency key."""
    if len(key) > MAX_KEY or not key.isprintable() or not key.strip():
        raise bad("Idempotency-Key", f"An idempotency key is 1 to {MAX_KEY} printable characters, not all blank.")


def digest_of(what: object) -> str:
    """The same for whatever is the same once it is decoded: spelling and order in the JSON do not count."""
    return hashlib.sha256(msgspec.json.encode(what, order="deterministic")).hexdigest()


async def _sent_before(system: System, sent_sha256: str, key: str, tenant: str) -> Snapshot | None:
    """The job that exactly this began under the key. Raises BadRequest where that is no key."""
    snapshot = await under(system, key, tenant)
    if snapshot is None or request_of(snapshot).sent_sha256 != sent_sha256:
        return None
    if not isinstance(snapshot.job, m.Ended):
        return await system.ask(snapshot.name, m.Poll())  # it is taken up, if it was not
    return snapshot


def _gives_its_key_back(job: Job) -> bool:
    """It ended before anything was sent: the key may stand for a new job."""
    return isinstance(job, m.Ended) and not job.ever_sent


def _refuse_unended(snapshot: Snapshot) -> None:
    if not isinstance(job := snapshot.job, m.Ended):
        sentence = _UNDECIDED if isinstance(job, m.Parked) else _UNENDED
        detail = sentence.format(snapshot.name, phase_word(job).replace("_", " "))
        raise CommandRejected(detail, job_id=snapshot.name, billed=billed_word(job))
