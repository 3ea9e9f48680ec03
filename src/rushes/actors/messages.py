"""Commands, events and phases: every word a job can hear, say and be. Pure.

Commands are imperative and come from users; *reports* are commands too, come from our own effects and carry the
(attempt, send) they are about. Events are past tense and never change once released: a new meaning is a new version.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from msgspec import Struct

from rushes.adapters.base import CancelAnswer, Output, Prepared
from rushes.adapters.capabilities import Terms
from rushes.faults import Fault
from rushes.units import AssetRef, Billed, Handle, Money
from rushes.video import Batch, Probe, Take, TakeKind, Target, VideoSpec

Need = Literal["prompt", "prepare", "reserve"]
ParkReason = Literal["in_doubt", "detached", "gone", "credential"]


# ── Events ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Event(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Something that happened to one job. Its type in the log is the dotted name in `TYPES`."""


class JobRequested(Event, frozen=True, kw_only=True):
    spec: VideoSpec
    route: tuple[Target, ...]  # the first target, then the fallbacks
    needs: tuple[Need, ...] = ()
    start_by: float  # not sent by then: failed, unbilled
    body_sha256: str = ""  # of the request under an idempotency key, with media by content: compared under the key
    sent_sha256: str = ""  # of the same as it was sent, with media by address: known without fetching anything
    idempotency_key: str = ""
    parent: str = ""  # the job this one retries or forks
    asked: str = ""  # the model as the caller wrote it, where that is an alias
    at_least_once: int = 0  # new attempts allowed while an earlier one is in doubt
    batch: Batch | None = None


class PromptWritten(Event, frozen=True, kw_only=True):
    prompt: str


class InputsPrepared(Event, frozen=True, kw_only=True):
    attempt: int
    prepared: Prepared


class BudgetReserved(Event, frozen=True, kw_only=True):
    attempt: int
    amount: Money


class SubmissionStarted(Event, frozen=True, kw_only=True):
    """The intent: on disk before the provider hears a word."""

    attempt: int
    send: int
    incarnation: str  # of the system that asks: 63 random bits as hex digits
    target: Target
    key: str
    key_until: float
    body_sha256: str
    max_cost: Money | None = None
    terms: Terms


class SubmissionAccepted(Event, frozen=True, kw_only=True):
    attempt: int
    send: int
    handle: Handle
    deadline: float


class SubmissionRefused(Event, frozen=True, kw_only=True):
    """The provider certainly did not take it."""

    attempt: int
    send: int
    fault: Fault
    retry_at: float | None = None  # None: not again at this target


class SubmissionDoubted(Event, frozen=True, kw_only=True):
    """Sent, perhaps; taken, perhaps. Only evidence ends this."""

    attempt: int
    send: int
    fault: Fault


class AttemptOpened(Event, frozen=True, kw_only=True):
    attempt: int
    target: Target
    needs: tuple[Need, ...] = ()
    not_before: float = 0.0
    start_by: float


class AttemptFailed(Event, frozen=True, kw_only=True):
    """Failed at the provider, unbilled, and worth another attempt."""

    attempt: int
    fault: Fault


class ProgressReported(Event, frozen=True, kw_only=True):
    attempt: int
    percent: int


class CancelRequested(Event, frozen=True, kw_only=True):
    by: str = "user"
    discard: bool = False


class CancelAnswered(Event, frozen=True, kw_only=True):
    attempt: int
    answer: CancelAnswer


class GenerationFinished(Event, frozen=True, kw_only=True):
    attempt: int
    outputs: tuple[Output, ...]
    filtered: int = 0
    cost: Money | None = None
    metadata: dict[str, str] = {}


class LinksRefreshed(Event, frozen=True, kw_only=True):
    attempt: int
    outputs: tuple[Output, ...]


class TakeStored(Event, frozen=True, kw_only=True):
    index: int
    kind: TakeKind = "video"
    asset: AssetRef
    probe: Probe = Probe()


class TakeLost(Event, frozen=True, kw_only=True):
    index: int
    fault: Fault


class JobParked(Event, frozen=True, kw_only=True):
    """Nothing more happens by itself; a person or a late answer can wake it."""

    reason: ParkReason
    billed: Billed


class JobResumed(Event, frozen=True, kw_only=True):
    attempt: int
    handle: Handle
    deadline: float
    collecting: bool = False  # by hand, to fetch what was paid: no other attempt follows by itself


class JobSucceeded(Event, frozen=True, kw_only=True):
    missing: int = 0  # takes that were made and could not be fetched


class JobFailed(Event, frozen=True, kw_only=True):
    fault: Fault
    billed: Billed


class JobCancelled(Event, frozen=True, kw_only=True):
    billed: Billed
    by: str = "user"


class JobHidden(Event, frozen=True, kw_only=True):
    """It has ended, and is no longer shown where clips can be deleted."""


TYPES: Final[dict[type[Event], str]] = {
    JobRequested: "job.requested",
    PromptWritten: "prompt.written",
    InputsPrepared: "inputs.prepared",
    BudgetReserved: "budget.reserved",
    SubmissionStarted: "submission.started",
    SubmissionAccepted: "submission.accepted",
    SubmissionRefused: "submission.refused",
    SubmissionDoubted: "submission.doubted",
    AttemptOpened: "attempt.opened",
    AttemptFailed: "attempt.failed",
    ProgressReported: "progress.reported",
    CancelRequested: "cancel.requested",
    CancelAnswered: "cancel.answered",
    GenerationFinished: "generation.finished",
    LinksRefreshed: "links.refreshed",
    TakeStored: "take.stored",
    TakeLost: "take.lost",
    JobParked: "job.parked",
    JobResumed: "job.resumed",
    JobSucceeded: "job.succeeded",
    JobFailed: "job.failed",
    JobCancelled: "job.cancelled",
    JobHidden: "job.hidden",
}


# ── Commands of users ─────────────────────────────────────────────────────────────────────────────────────────────────


class Command(Struct, frozen=True, gc=False, kw_only=True):
    """Something a job is asked to do, or told."""

    exchanges: tuple[int, ...] = ()  # with a provider, that this is told from: their ids in the flight record


class Generate(Command, frozen=True, kw_only=True):
    request: JobRequested


class Poll(Command, frozen=True, kw_only=True):
    """Ask the provider now, if the minimum interval allows; the state answers either way."""


class Cancel(Command, frozen=True, kw_only=True):
    by: str = "user"
    discard: bool = False  # where it cannot be stopped, drop its takes


class Collect(Command, frozen=True, kw_only=True):
    """Fetch what was paid; never spends. `handle` where the job itself has none."""

    handle: Handle | None = None


class Resubmit(Command, frozen=True, kw_only=True):
    """Open a new attempt of a parked job. It may be paid twice, and is refused unless that is accepted."""

    target: Target | None = None
    accept_cost: bool = False


class GiveUp(Command, frozen=True, kw_only=True):
    by: str = "user"


class Hide(Command, frozen=True, kw_only=True):
    """Show an ended job no longer where clips can be deleted."""


# ── Reports of our own effects ────────────────────────────────────────────────────────────────────────────────────────


class Wake(Command, frozen=True, kw_only=True):
    """Time has passed."""


class RecordPrompt(Command, frozen=True, kw_only=True):
    attempt: int
    prompt: str


class RecordPrepared(Command, frozen=True, kw_only=True):
    attempt: int
    prepared: Prepared


class RecordReserved(Command, frozen=True, kw_only=True):
    attempt: int
    amount: Money


class RecordDenied(Command, frozen=True, kw_only=True):
    """A need of this attempt cannot be met: nothing was sent."""

    attempt: int
    fault: Fault


class GrantPermit(Command, frozen=True, kw_only=True):
    """The lane lets this send go; with what the intent must pin."""

    attempt: int
    incarnation: str  # of the system that asks: 63 random bits as hex digits
    key: str
    body_sha256: str
    max_cost: Money | None
    terms: Terms


class RecordAccepted(Command, frozen=True, kw_only=True):
    """The provider has it: an answer, a look-up or a callback says so."""

    attempt: int
    send: int
    handle: Handle


class RecordRefused(Command, frozen=True, kw_only=True):
    """It was certainly not taken. `retry_at`: the same target may be tried again then."""

    attempt: int
    send: int
    fault: Fault
    retry_at: float | None = None


class RecordDoubt(Command, frozen=True, kw_only=True):
    """Nobody can say whether it was taken."""

    attempt: int
    send: int
    fault: Fault


class RecordAbsent(Command, frozen=True, kw_only=True):
    """Looked up by our id at `looked_at`, and not there: the time of the evidence, not of its telling."""

    attempt: int
    send: int
    looked_at: float


class RecordProgress(Command, frozen=True, kw_only=True):
    attempt: int
    percent: int | None
    wait_s: float = 0.0


class RecordFinished(Command, frozen=True, kw_only=True):
    attempt: int
    outputs: tuple[Output, ...]
    filtered: int = 0
    cost: Money | None = None
    metadata: dict[str, str] = {}


class RecordBroken(Command, frozen=True, kw_only=True):
    attempt: int
    fault: Fault
    billed: Billed


class RecordStopped(Command, frozen=True, kw_only=True):
    """Cancelled, says the provider."""

    attempt: int
    billed: Billed


class RecordVanished(Command, frozen=True, kw_only=True):
    attempt: int


class RecordCancel(Command, frozen=True, kw_only=True):
    attempt: int
    answer: CancelAnswer


class RecordLinks(Command, frozen=True, kw_only=True):
    attempt: int
    outputs: tuple[Output, ...]


class RecordStored(Command, frozen=True, kw_only=True):
    attempt: int
    take: Take


class RecordLost(Command, frozen=True, kw_only=True):
    attempt: int
    index: int
    fault: Fault


class RecordTrouble(Command, frozen=True, kw_only=True):
    """An effect came to nothing, and says nothing about the job: it will be owed again."""

    fault: Fault


# ── Phases ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Phase(Struct, frozen=True, gc=False, kw_only=True):
    """What is true of a job now. Each phase holds only what is true in it."""


class Facts(Struct, frozen=True, gc=False, kw_only=True):
    """What stays true of a job from its first event on."""

    requested: JobRequested
    at: float  # of its first event
    prompt: str  # what providers are sent

    @property
    def spec(self) -> VideoSpec:
        """What the caller wanted."""
        return self.requested.spec


class Cancelling(Struct, frozen=True, gc=False, kw_only=True):
    """A cancel that was asked for."""

    by: str
    discard: bool
    answer: CancelAnswer | None = None


class New(Phase, frozen=True, kw_only=True):
    """Nothing has happened."""


class Queued(Phase, frozen=True, kw_only=True):
    """Wanted, and not with a provider."""

    facts: Facts
    attempt: int
    sends: int  # intents written in this attempt
    target: Target
    needs: tuple[Need, ...]
    not_before: float
    start_by: float
    prompt_written: bool = False
    prepared: Prepared | None = None
    reserved: Money | None = None
    doubts: int = 0  # earlier attempts that were left in doubt, and may have been paid
    ever_sent: bool = False
    refused: Fault | None = None  # why the last send came back


class Sent(Phase, frozen=True, kw_only=True):
    """There is an intent. `queued` is where a refusal goes back to."""

    queued: Queued
    started: SubmissionStarted
    cancel: Cancelling | None = None

    @property
    def facts(self) -> Facts:
        """What stays true."""
        return self.queued.facts

    @property
    def attempt(self) -> int:
        """The attempt that the intent belongs to."""
        return self.started.attempt

    @property
    def target(self) -> Target:
        """Where it went."""
        return self.started.target


class Submitting(Sent, frozen=True, kw_only=True):
    """An intent is on disk; what became of it is not."""


class InDoubt(Sent, frozen=True, kw_only=True):
    """A send whose outcome is not known."""

    since: float


class Running(Sent, frozen=True, kw_only=True):
    """The provider has it."""

    handle: Handle
    accepted_at: float
    deadline: float
    percent: int | None = None
    collecting: bool = False  # nothing may be sent for it again


class Storing(Sent, frozen=True, kw_only=True):
    """Made and paid; the files are not all ours yet."""

    handle: Handle
    finished: GenerationFinished
    outputs: tuple[Output, ...]
    refreshes: int = 0  # in a row, of addresses that were refused at once
    links_at: float = 0.0  # when the addresses were given
    stored: tuple[Take, ...] = ()
    lost: tuple[int, ...] = ()


class Parked(Sent, frozen=True, kw_only=True):
    """Waits for a person, a callback or an audit."""

    reason: ParkReason
    billed: Billed
    handle: Handle | None = None


class Ended(Phase, frozen=True, kw_only=True):
    """Nothing will ever happen again."""

    facts: Facts
    attempt: int
    target: Target
    billed: Billed
    ever_sent: bool  # False: its idempotency key may be used for a new job
    hidden: bool = False  # where clips can be deleted, it was


class Succeeded(Ended, frozen=True, kw_only=True):
    """There is a video, and maybe more takes."""

    takes: tuple[Take, ...]
    cost: Money | None
    metadata: dict[str, str]
    missing: int
    handle: Handle  # some providers take their own clips as inputs by it


class Failed(Ended, frozen=True, kw_only=True):
    """There is no video, and `fault` says why."""

    fault: Fault


class Cancelled(Ended, frozen=True, kw_only=True):
    """Stopped because somebody asked."""

    by: str


Job: TypeAlias = New | Queued | Submitting | InDoubt | Running | Storing | Parked | Succeeded | Failed | Cancelled


# ── Effects: what the outside world still owes us ─────────────────────────────────────────────────────────────────────


class Effect(Struct, frozen=True, gc=False, kw_only=True):
    """One thing to do. Equal effects are the same effect: keep it running."""


class WritePrompt(Effect, frozen=True, kw_only=True):
    attempt: int


class Prepare(Effect, frozen=True, kw_only=True):
    attempt: int


class Reserve(Effect, frozen=True, kw_only=True):
    attempt: int


class AskPermit(Effect, frozen=True, kw_only=True):
    attempt: int
    send: int
    not_before: float
    start_by: float


class Send(Effect, frozen=True, kw_only=True):
    attempt: int
    send: int


class DeclareDoubt(Effect, frozen=True, kw_only=True):
    attempt: int
    send: int


class SendAgain(Effect, frozen=True, kw_only=True):
    """Class A: the same bytes under the same key."""

    attempt: int
    send: int
    since: float
    until: float


class Look(Effect, frozen=True, kw_only=True):
    """Classes B and C: is it there?"""

    attempt: int
    send: int
    since: float
    until: float


class AwaitCallback(Effect, frozen=True, kw_only=True):
    """Class D."""

    attempt: int
    send: int
    until: float


class Ask(Effect, frozen=True, kw_only=True):
    """Poll the provider."""

    attempt: int
    accepted_at: float
    deadline: float


class CancelRemote(Effect, frozen=True, kw_only=True):
    attempt: int
    poll_first: bool


class Store(Effect, frozen=True, kw_only=True):
    """Fetch take `index`."""

    attempt: int
    index: int
    refreshes: int
    beside: bool = False  # it is a picture: the video, which is kept, does not wait for it without end


Owed: TypeAlias = (
    WritePrompt
    | Prepare
    | Reserve
    | AskPermit
    | Send
    | DeclareDoubt
    | SendAgain
    | Look
    | AwaitCallback
    | Ask
    | CancelRemote
    | Store
)
