"""What providers can do, as data. `fit` reads it to check, complete and price a request, `catalogue` to find a model.

Adapters hold no `if` for what they cannot do. A value passes only when it is in the model's data; nothing is coerced.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from rushes.video import JSON, Config, Kind, Role

OptionType = Literal["string", "integer", "number", "boolean", "array", "object"]
DoubtClass = Literal["A", "B", "C", "D", "E"]
"""What a provider lets us learn about a send whose answer was lost: A server-side idempotency key, B an id of ours that
can be looked up, C a list that shows a mark of ours, D a callback, E nothing."""

CancelKind = Literal["no", "stops", "destroys"]
"""no: it cannot be cancelled. stops: a finished take survives a late cancel. destroys: it does not, so poll first."""


class PollSchedule(Struct, frozen=True, gc=False, omit_defaults=True):
    """When to ask again: the time since the start, times `growth`, between the two bounds."""

    min_s: float = 2.0
    max_s: float = 30.0
    growth: float = 0.1

    def interval_s(self, elapsed_s: float) -> float:
        """Seconds until the next poll of a job that had been running for `elapsed_s` at the last one."""
        return min(self.max_s, max(self.min_s, elapsed_s * self.growth))


class Terms(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """What holds for one send, pinned in its intent: capabilities may change under a running job, these may not."""

    doubt: DoubtClass
    cancel: CancelKind = "no"
    poll: PollSchedule = PollSchedule()
    key_ttl_s: float = 0.0  # class A: how long the provider remembers the key
    settle_s: float = 60.0  # class B, C: after this, not found means not there
    looks_s: tuple[float, ...] = (1.0, 5.0, 20.0, 60.0)  # class B, C: when to look, after the doubt
    link_ttl_s: float = 3600.0  # how long a result's address works
    gone_grace_s: float = 60.0  # a 404 this soon after the accept says nothing
    total_s: float = 3600.0  # after this the job is parked, not failed


class Token(Struct, frozen=True):
    """What is said in the place of a key, and until when (seconds since 1970)."""

    value: str
    until: float


Mint = Callable[[Mapping[str, str], float], Generator[Any, Any, Token]]
"""A flow that makes a token out of a key's parts, by the names of their variables, and the time."""


class Auth(Struct, frozen=True, kw_only=True):
    """Where the key comes from and where it goes. The value itself is known to `http` alone."""

    env: tuple[str, ...]  # the provider's own name first; one of two parts is "ITS_ID+ITS_SECRET"
    files: frozenset[str] = frozenset()  # of these variables: those that name a file with the key in it
    header: str = "Authorization"
    prefix: str = "Bearer "
    mint: Mint | None = None  # where not the key itself is said


class Setting(Struct, frozen=True, kw_only=True):
    """What else a provider must be told, and is no secret: a project, a region."""

    env: tuple[str, ...]  # the first of these variables that is set
    default: str = ""
    needed: bool = True  # the provider cannot be used without it
    value: str = ""  # as it was found


class Service(Struct, frozen=True):
    """Another address of the same provider, where its key may be said too."""

    url: str
    env: str = ""  # the environment variable that points it elsewhere


class Webhook(Struct, frozen=True, kw_only=True):
    """That a provider calls back where it is given an address, and how it signs what it says."""

    env: str  # the variable with the secret; several, with blanks between them, while one replaces another
    scheme: Literal["standard", "openrouter"] = "standard"  # see `signatures`


class Option(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One provider option: its type in JSON and, where they are known, its words or its range."""

    type: OptionType
    values: tuple[str | int | float, ...] = ()
    least: float | None = None
    most: float | None = None


class Shaped(Option, frozen=True, gc=False):
    """An option whose value has a shape of its own."""

    shape: Any = None  # a type that msgspec can convert to
    examples: tuple[JSON, ...] = ()  # two values: requests are made of them to try the option


def seconds(first: int, last: int) -> tuple[float, ...]:
    """The whole seconds from the first to the last, both included: durations as a model has them."""
    return tuple(float(second) for second in range(first, last + 1))


BOOLEAN: Final = Option("boolean")
STRING: Final = Option("string")


class Rate(Struct, frozen=True, forbid_unknown_fields=True):
    """A price under conditions: fields of the request, `operation`, or a role that is there (True) or not (False).

    Options count as fields do; one that is not there is False.
    """

    when: Mapping[str, JSON]
    micro_usd: int


class Price(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One dated price. An estimate is the worst case of one send."""

    per: Literal["second", "clip"]
    micro_usd: int  # where none of the rates applies: the dearest
    rates: tuple[Rate, ...] = ()  # the first that applies
    per_input: Mapping[Role, int] = {}  # beside it, for every input in the role
    minimum_units: float = 0.0
    source: str
    as_of: str  # YYYY-MM-DD


class Only(Struct, frozen=True):
    """What one wish leaves of another: with `where`, `field` has one of these values. None is its absence.

    Both are roles, fields, options or scenes. `where` counts where it is there and not false.
    """

    where: str
    field: str
    among: tuple[JSON, ...]
    when: tuple[JSON, ...] = ()  # of `where`: those that count; empty: as said above


class Media(Struct, frozen=True, kw_only=True):
    """What files of one kind a model takes."""

    types: tuple[str, ...]  # media types; an image of another type is re-encoded as the first that can be written
    most: int | None = None  # files of the kind, whatever their roles
    max_bytes: int | None = None
    sizes: tuple[str, ...] = ()  # of images, as w×h with an x: no others; empty: any
    own: str = ""  # the name of a provider: takes of its jobs, and no other files
    own_model: bool = False  # and of those the same model's alone, where the handle says which that was
    least_s: float = 0.0
    most_s: float | None = None
    total_s: float | None = None  # of all of them together


class Model(Struct, frozen=True, kw_only=True):
    """What a model takes, for these operations. Empty tuples mean: the field is not for it.

    Where one model's operations differ, it has several rows, with the same id.
    """

    id: str
    operations: tuple[str, ...]
    aliases: tuple[str, ...] = ()  # other names that mean this model
    durations_s: tuple[float, ...] = ()
    aspect_ratios: tuple[str, ...] = ()
    resolutions: tuple[str, ...] = ()
    sizes: Mapping[tuple[str, str], str] = {}  # (lines, ratio) → w×h, where arithmetic does not make it; empty: unknown
    frame_rates: tuple[float, ...] = ()
    roles: Mapping[Role, int] = {}  # how many inputs of each role it takes
    max_inputs: int | None = None  # of all roles together
    general: Role = "first_frame"  # what an image in the role `general` is for it
    media: Mapping[Kind, Media] = {}
    fields: frozenset[str] = frozenset()  # other Config fields that it honours
    options: Mapping[str, Option] = {}  # provider options by name
    only: tuple[Only, ...] = ()
    defaults: Config = Config()
    prompt: Literal["required", "optional", "none"] = "required"
    max_prompt_chars: int | None = None  # in UTF-16 units, as most providers count
    max_negative_chars: int | None = None  # of a negative prompt, the same way
    max_text_chars: int = 0  # of the words of a lip-sync, the same way; 0: it takes an audio alone
    scenes: Mapping[str, int] = {}  # its effects by name, and how many images each is done to
    draws_seed: bool = True  # the wire takes a seed: an absent one is drawn by us and recorded
    max_seed: int = 2**31 - 1
    max_guidance: float | None = None  # of guidance_scale, which begins at 0
    wire: Mapping[str, str] = {}
    """Our fields and roles → theirs, where one is simply told as the other; options, where they have another place.
    Dots lead into objects: settings.duration."""
    words: Mapping[str, Mapping[Any, JSON]] = {}  # by field: our values → theirs, where they have another word
    price: Price | None = None
    free: bool = False


class Retirement(Struct, frozen=True):
    """A model that its provider has switched off, or will, on a day (YYYY-MM-DD)."""

    on: str
    replacement: str = ""  # another model's id
    provider: str = ""  # whose, where it is another provider's


class Capabilities(Struct, frozen=True, kw_only=True):
    """One provider's data."""

    base_url: str
    base_url_env: str  # the environment variable that points it elsewhere (an emulator, a gateway)
    models: tuple[Model, ...]  # one that makes a clip from words comes first, where there is one
    aliases: tuple[str, ...] = ()  # other names that mean this provider
    elder: str = ""  # the provider that does what no model here does, where a caller names this one without a model
    retired: Mapping[str, Retirement] = {}  # by model id, of models above or of others
    auth: Auth | None = None
    settings: Mapping[str, Setting] = {}
    services: Mapping[str, Service] = {}
    terms: Terms = Terms(doubt="E")
    webhook: Webhook | None = None
    new_options: bool = False  # options that settings add to a model go out, under their own names
    keyed_results: bool = False  # its own host hands out no result without the key: it is said at once
    submits_at_once: int = 8  # this and the next three: of one credential
    submit_interval_s: float = 0.0  # the least time between two submits: a rate limit
    calls_at_once: int = 64  # polls, look-ups, cancels and uploads
    fetches_at_once: int = 8  # downloads of finished takes
    docs_url: str = ""
