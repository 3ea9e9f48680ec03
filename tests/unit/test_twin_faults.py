"""Faults and ledgers, the same for every twin: each is asked by its real adapter, without a socket."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import sha256

import msgspec
import pytest

from rushes.adapters.base import (
    Ask,
    Broken,
    Done,
    Failed,
    Inline,
    Keep,
    Outcome,
    Part,
    Request,
    Response,
    Unfinished,
    Vanished,
    play,
    retry_after_s,
)
from rushes.emulators.base import shipped_clip
from rushes.emulators.faults import (
    Cut,
    Drop,
    DuplicateId,
    ExpiredUrl,
    FailedJob,
    Faults,
    Hang,
    LineRule,
    Moderated,
    NoAnswer,
    NotFound,
    RateLimit,
    ServerError,
    StatusWord,
    TwinRule,
)
from rushes.emulators.faulty import Emulator, FaultyTwin
from rushes.emulators.ledger import symbolic
from rushes.faults import BadRequest, Fault
from rushes.main import installed_adapters, installed_emulators
from rushes.testing.orders import plainest
from rushes.testing.wires import informed, on_the_wire
from rushes.units import AssetRef, Handle
from rushes.video import Target

ADAPTERS, EMULATORS = installed_adapters(), installed_emulators()
LATER = 1_000.0 + 200.0  # every twin is done by then
HOST = "http://127.0.0.1:8000"
every_twin = pytest.mark.parametrize("name", EMULATORS)


class Wire:
    """A provider's adapter, its twin below a path, and a time."""

    def __init__(self, name: str = "runway", *rules: LineRule | TwinRule) -> None:
        self.adapter, self.now = informed(ADAPTERS[name]), 1_000.0
        self.model = self.adapter.capabilities.models[0]
        self.target = Target(provider=name, model=self.model.id, credential="KEY")
        twin = EMULATORS[name](clip=b"0123456789")
        self.emulator = Emulator([twin])
        self.faulty, self.base = self.emulator.twins[name], f"{HOST}/{name}{twin.base_path}"
        self.faulty.set(Faults(rules))

    def __call__(self, ask: Ask) -> Response:
        assert isinstance(ask, Request)
        body, about = on_the_wire(ask.body)
        auth = self.adapter.capabilities.auth
        headers = {**ask.headers, **about, **({auth.header: f"{auth.prefix}k"} if auth else {})}
        url = ask.url if "://" in ask.url else f"{self.base}/{ask.url.lstrip('/')}"
        try:
            return self.emulator.handle(msgspec.structs.replace(ask, url=url, headers=headers, body=body), self.now)
        except NoAnswer as error:
            raise Failed(Fault("no_answer", str(error), retryable=True), certain=False) from error

    def submit(self) -> Handle:
        spec = plainest(self.adapter.capabilities)[0].spec
        return play(self.adapter.submit(spec, self.target, {}, "job_1-1"), self)

    def status(self, handle: Handle, at: float = LATER) -> Outcome:
        self.now = at
        return play(self.adapter.status(handle, self.target), self)

    def download(self, handle: Handle, **headers: str) -> Response:
        """The clip, as the adapter asks for it."""
        outcome = self.status(handle)
        assert isinstance(outcome, Done)
        ask = next(self.adapter.download(outcome.outputs[0], handle, self.target))
        assert isinstance(ask, Keep)
        if ask.request is not None:  # the clip stands in an answer
            reply = self(ask.request)
            node = msgspec.json.decode(reply.body)
            for step in ask.place:
                node = node[step]
            return msgspec.structs.replace(reply, body=b64decode(node))
        reply = self(Request(method="GET", url=ask.url, headers={**ask.headers, **headers}))
        while "location" in reply.headers:
            reply = self(Request(method="GET", url=reply.headers["location"], headers=headers))
        return reply

    def set(self, body: object, path: str = "/_rushes/faults") -> Response:
        given = body if isinstance(body, dict) else [Part("", msgspec.json.encode(body))]
        return self.emulator.handle(Request(method="PUT", url=HOST + path, body=given), 0.0)

    @property
    def told(self) -> list[tuple[int, str]]:
        return [(line.status, line.fault) for line in self.faulty.twin.ledger.requests]


def able(name: str, rule: TwinRule) -> TwinRule:
    """The fault, where the twin can do it; else the test is skipped."""
    if rule.do not in EMULATORS[name].can:
        pytest.skip(f"its twin cannot do {rule.do!r}")
    return rule


def moderated(wire: Wire) -> str:
    """The word for how a job ended that was refused, at once or later."""
    try:
        outcome = wire.status(wire.submit())
    except Failed as failed:
        return failed.fault.code
    return outcome.fault.code if isinstance(outcome, Broken) else type(outcome).__name__


# ── What the twin itself can do ──


@every_twin
def test_control_without_a_fault_a_job_is_done_and_its_clip_is_fetched(name: str) -> None:
    wire = Wire(name)
    assert wire.download(wire.submit()).status == 200
    assert len(wire.faulty.twin.charges) == 1
    assert {fault for _, fault in wire.told} == {""}


@every_twin
def test_moderation_and_failure_come_without_a_word_in_the_prompt(name: str) -> None:
    assert moderated(Wire(name)) == "Done"
    for rule, code in ((Moderated(), "moderated"), (FailedJob(), "generation_failed")):
        if rule.do in EMULATORS[name].can:
            assert moderated(Wire(name, rule)) == code


@every_twin
def test_a_word_that_nobody_knows_is_unfinished(name: str) -> None:
    wire = Wire(name, able(name, StatusWord(word="dreaming", times=1)))
    handle = wire.submit()
    outcome = wire.status(handle)
    assert isinstance(outcome, Unfinished)
    assert outcome.stage == "dreaming"
    assert isinstance(wire.status(handle), Done)


@every_twin
def test_only_the_word_that_it_names_is_renamed(name: str) -> None:
    wire = Wire(name, able(name, StatusWord(word="dreaming", was="no word of theirs", times=1)))
    handle = wire.submit()
    done = wire.status(handle)
    assert isinstance(done, Done)
    assert wire.status(handle) == done


def test_of_a_renamed_word_the_rest_of_the_answer_stays() -> None:
    wire = Wire("runway", StatusWord(word="DONE", was="SUCCEEDED", times=2))
    handle = wire.submit()
    assert wire.status(handle) == Unfinished(None, stage="DONE")
    ask = next(wire.adapter.status(handle, wire.target))
    renamed, as_it_is = (msgspec.json.decode(wire(ask).body) for _ in range(2))
    assert renamed == as_it_is | {"status": "DONE"}
    assert as_it_is["output"]


@every_twin
def test_a_job_is_not_found_just_after_its_submit(name: str) -> None:
    wire = Wire(name, NotFound(looks=2))
    handle = wire.submit()
    assert [type(wire.status(handle)) for _ in range(3)] == [Vanished, Vanished, Done]


@every_twin
def test_an_address_expires_once(name: str) -> None:
    wire = Wire(name, able(name, ExpiredUrl(times=1)))
    handle = wire.submit()
    first = wire.download(handle).status
    assert (first in (403, 404, 410), wire.download(handle).status) == (True, 200)


@every_twin
def test_our_own_id_is_taken_or_the_twin_says_that_it_has_none(name: str) -> None:
    if "duplicate_id" in EMULATORS[name].can:
        assert moderated(Wire(name, DuplicateId())) == "conflict"
        return
    with pytest.raises(BadRequest, match="cannot do 'duplicate_id'") as refused:
        Wire(name, DuplicateId())
    assert refused.value.field == "rules[0].do"


@every_twin
def test_a_backward_word_is_told_as_it_is(name: str) -> None:
    """A job that runs is in the queue again, and the adapter does not mind."""
    wire = Wire(name)
    handle = wire.submit()
    outcome = wire.status(handle, 1_000.0)
    assert isinstance(outcome, Unfinished)
    wire.faulty.set(Faults((able(name, StatusWord(word=outcome.stage or "none")),)))
    again = wire.status(handle)
    assert isinstance(again, Unfinished)
    assert again.stage == outcome.stage


# ── What goes wrong on any wire ──


@every_twin
def test_too_many_requests_are_said_in_the_providers_words(name: str) -> None:
    wire = Wire(name, RateLimit(on="submit", retry_after=7, times=1))
    with pytest.raises(Failed) as failed:
        wire.submit()
    fault = failed.value.fault
    assert (failed.value.certain, fault.code, fault.retry_after_s) == (True, "rate_limited", 7.0)
    assert wire.faulty.twin.charges == []
    wire.submit()
    assert wire.told[0] == (429, "rate_limit")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (2.5, "2.5"),
        ("http-date", "Thu, 01 Jan 1970 00:17:10 GMT"),
        ("garbage", "soon"),
        ("absent", None),
        ("huge", "100000000000"),
    ],
)
def test_every_kind_of_retry_after(given: float, says: str | None) -> None:
    wire = Wire("openrouter", RateLimit(retry_after=given))
    assert wire(Request(method="GET", url="/videos/x")).headers.get("retry-after") == says


@pytest.mark.parametrize(
    ("rule", "charges", "told"),
    [
        (ServerError(), 0, (500, "error")),
        (ServerError(status=503, after_accept=True), 1, (503, "error")),
        (Drop(), 0, (0, "drop")),
        (Drop(after_work=True), 1, (0, "drop")),
        (Cut(byte=9), 1, (200, "cut_at")),
        (Hang(), 1, (0, "hang")),
        (Hang(seconds=5.0), 1, (200, "hang")),
    ],
)
def test_a_submit_is_in_doubt_and_only_the_ledger_knows_better(
    rule: LineRule, charges: int, told: tuple[int, str]
) -> None:
    wire = Wire("runway", rule)
    with pytest.raises(Failed) as failed:
        wire.submit()
    assert failed.value.certain is False
    assert (len(wire.faulty.twin.charges), wire.told) == (charges, [told])


def test_what_is_raised_without_a_socket_says_what_would_have_come() -> None:
    wire = Wire("xai", Cut(byte=4))
    request = Request(method="GET", url=f"{HOST}/xai/v1/videos/none")
    with pytest.raises(NoAnswer) as cut:
        wire.emulator.handle(request, 0.0)
    assert cut.value.reply is not None
    assert (cut.value.how, cut.value.reply.status, cut.value.byte) == ("cut_at", 404, 4)
    wire.faulty.set(Faults((Hang(seconds=2.0),)))
    with pytest.raises(NoAnswer) as late:
        wire.emulator.handle(request, 0.0)
    assert (late.value.how, late.value.seconds, late.value.reply) == ("hang", 2.0, cut.value.reply)


# ── Where and how often ──


def struck(*rules: LineRule | TwinRule, count: int = 6) -> list[int]:
    """Which of so many equal requests, from 1, were struck."""
    wire = Wire("runway", *rules)
    statuses = [wire(Request(method="GET", url="/v1/tasks/none")).status for _ in range(count)]
    return [number for number, status in enumerate(statuses, 1) if status == 500]


def test_a_rule_strikes_the_nth_or_every_or_so_many_times() -> None:
    assert struck(ServerError()) == [1, 2, 3, 4, 5, 6]
    assert struck(ServerError(nth=3)) == [3]
    assert struck(ServerError(every=2)) == [2, 4, 6]
    assert struck(ServerError(every=2, times=2)) == [2, 4]


def test_a_rule_strikes_a_flow_or_a_method_and_path() -> None:
    assert struck(ServerError(on="status"), count=1) == [1]
    assert struck(ServerError(on="GET /v1/tasks/*"), count=1) == [1]
    assert struck(ServerError(on="* /v1/*"), count=1) == [1]
    for on in ("submit", "DELETE /v1/tasks/*", "GET /tasks/*"):
        assert struck(ServerError(on=on), count=1) == []


def test_the_first_rule_of_the_wire_that_is_due_strikes_alone() -> None:
    wire = Wire("runway", ServerError(nth=2), RateLimit(times=2))
    assert [wire(Request(method="GET", url="/v1/tasks/a")).status for _ in range(4)] == [429, 500, 429, 400]


def test_kling_finds_by_our_id_and_looks_by_its_own() -> None:
    wire = Wire("kling", ServerError(on="find"))
    assert isinstance(wire.status(wire.submit()), Done)
    with pytest.raises(Failed):
        play(wire.adapter.find(wire.target, "job_1-1", 0.0), wire)


def test_setting_rules_anew_counts_anew() -> None:
    wire = Wire("runway", ServerError(nth=1))
    for _ in range(2):
        assert wire(Request(method="GET", url="/v1/tasks/a")).status == 500
        wire.faulty.set(wire.faulty.faults)


# ── What cannot be set ──


@pytest.mark.parametrize(
    ("rules", "field", "says"),
    [
        ({"rule": []}, "rule", "no field 'rule'"),
        ({"rules": [{"do": "drop", "byte": 1}]}, "rules[0].byte", "no field"),
        ({"rules": [{"do": "explode"}]}, "rules[0].do", "explode"),
        ({"rules": [{"on": "submit"}]}, "rules[0].do", "missing"),
        ({"rules": [{"do": "cut_at"}]}, "rules[0].byte", "missing"),
        ({"rules": [{"do": "rate_limit", "retry_after": "later"}]}, "rules[0].retry_after", "later"),
        ({"rules": [{"do": "error", "status": 200}]}, "rules[0].status", "400"),
        ({"rules": [{"do": "hang", "seconds": -1}]}, "rules[0].seconds", "0"),
        ({"rules": [{"do": "drop"}, {"do": "drop", "on": "download/"}]}, "rules[1].on", "METHOD /PATH"),
        ({"rules": [{"do": "moderated", "on": "status"}]}, "rules[0].on", "submit only"),
        ({"rules": [{"do": "drop", "nth": 2, "every": 2}]}, "rules[0].nth", "leave"),
        ({"rules": [{"do": "drop", "nth": 2, "times": 2}]}, "rules[0].nth", "leave"),
        ([], "", "object"),
    ],
)
def test_a_wrong_rule_is_named_and_the_old_ones_stay(rules: object, field: str, says: str) -> None:
    wire = Wire("runway", ServerError())
    reply = wire.set(rules)
    error = msgspec.json.decode(reply.body)["error"]
    assert (reply.status, error["field"]) == (400, field)
    assert says in error["detail"]
    assert wire.faulty.faults == Faults((ServerError(),))


def test_rules_of_python_are_looked_at_like_others() -> None:
    with pytest.raises(BadRequest) as refused:
        Wire("runway", ServerError(status=200))
    assert refused.value.field == "rules[0].status"


def test_rules_are_set_for_all_or_for_none() -> None:
    emulator = Emulator([EMULATORS[name](clip=b"") for name in ("kling", "xai")])

    def put(path: str, body: Mapping[str, object]) -> int:
        return emulator.handle(Request(method="PUT", url=HOST + path, body=body), 0.0).status

    taken = {"rules": [{"do": "duplicate_id"}]}
    assert put("/_rushes/faults", taken) == 400
    assert [faulty.faults.rules for faulty in emulator.twins.values()] == [(), ()]
    assert put("/kling/_rushes/faults", taken) == 200
    assert [faulty.faults.rules for faulty in emulator.twins.values()] == [(DuplicateId(),), ()]
    assert put("/_rushes/faults", {}) == 200
    assert [faulty.faults.rules for faulty in emulator.twins.values()] == [(), ()]


def test_rules_come_back_as_they_were_set() -> None:
    wire = Wire()
    rules = {"rules": [{"do": "rate_limit", "on": "submit", "retry_after": "huge", "times": 2}]}
    assert msgspec.json.decode(wire.set(rules).body) == {"runway": rules}
    shown = wire.emulator.handle(Request(method="GET", url=f"{HOST}/runway/_rushes/faults"), 0.0)
    assert msgspec.json.decode(shown.body) == {"runway": rules}


# ── The ledger ──


def test_a_file_stands_as_its_size_and_sha256_whichever_way_it_came() -> None:
    digest = sha256(b"pixel" * 300).hexdigest()
    told = {"size_bytes": 1_500, "sha256": digest}
    asset, text = AssetRef("inputs/p", digest, 1_500, "image/png"), b64encode(b"pixel" * 300).decode()
    for form, sent in (("data-uri", f"data:image/png;base64,{text}"), ("base64", text), ("bytes", b"pixel" * 300)):
        wanted = {"a": [{"file": form, **told}], "prompt": "a lake"}
        assert symbolic({"a": [sent], "prompt": "a lake"}) == wanted
        assert symbolic({"a": [Inline(asset, form)], "prompt": "a lake"}) == wanted  # type: ignore[arg-type]
    part = {"name": "file", "filename": "a.png", "media_type": "image/png", "content": {"file": "bytes", **told}}
    assert symbolic([Part("file", b"pixel" * 300, "a.png", "image/png")]) == [part]


def test_keys_and_the_transports_headers_are_not_kept() -> None:
    wire = Wire("runway")
    headers = {"X-Runway-Version": "2024-11-06", "X-Api-Key": "secret-word", "Host": "a", "Idempotency-Key": "i"}
    wire(Request(method="GET", url="/v1/tasks/a", headers={**headers, "Authorization": "Bearer secret-word"}))
    (line,) = wire.faulty.twin.ledger.requests
    assert line.headers == {
        "x-runway-version": "2024-11-06",
        "x-api-key": "…",
        "idempotency-key": "i",
        "authorization": "Bearer …",
    }


def test_a_ledger_of_many_is_in_the_order_of_time_and_each_has_its_own() -> None:
    emulator = Emulator([EMULATORS[name](clip=b"") for name in ("kling", "runway")])
    for at, name in ((3.0, "kling"), (1.0, "runway"), (2.0, "kling")):
        emulator.handle(Request(method="GET", url=f"{HOST}/{name}/nothing", query={"q": "1"}), at)

    def read(path: str) -> list[tuple[str, float, str]]:
        reply = emulator.handle(Request(method="GET", url=HOST + path), 9.0)
        ledger = msgspec.json.decode(reply.body)
        assert set(ledger) == {"requests", "charges"}
        return [(line["provider"], line["at"], line["path"]) for line in ledger["requests"]]

    assert read("/_rushes/ledger") == [
        ("runway", 1.0, "/nothing"),
        ("kling", 2.0, "/nothing"),
        ("kling", 3.0, "/nothing"),
    ]
    assert read("/runway/_rushes/ledger") == [("runway", 1.0, "/nothing")]


def test_an_address_below_no_name_lists_the_names() -> None:
    for path in ("/", "/luma/x", "/_rushes", "/runway/_rushes/nothing"):
        reply = Wire().emulator.handle(Request(method="GET", url=HOST + path), 0.0)
        assert (reply.status, b"error" in reply.body) == (404, True)


@every_twin
def test_a_charge_names_the_job_the_unit_and_what_it_was_for(name: str) -> None:
    wire = Wire(name)
    handle = wire.submit()
    (charge,) = wire.faulty.twin.ledger.charges
    assert (charge.provider, charge.job, charge.at) == (name, handle.id, 1_000.0)
    assert (charge.amount > 0) != wire.model.free
    assert charge.micro_usd is None or (charge.micro_usd > 0) != wire.model.free
    assert all((charge.unit, charge.why))


# ── What every twin is ──


@every_twin
def test_a_twin_is_named_as_its_adapter_and_says_what_it_can(name: str) -> None:
    words = {rule.__struct_config__.tag for rule in TwinRule.__args__}
    assert EMULATORS[name].can <= words
    assert EMULATORS[name].name == name
    assert ADAPTERS[name].capabilities.base_url_env


@every_twin
def test_a_result_comes_in_parts(name: str) -> None:
    wire = Wire(name)
    part = wire.download(wire.submit(), Range="bytes=3-5")
    if name == "veo":  # whose clip stands in an answer, which has no parts
        assert (part.status, part.body) == (200, b"0123456789")
        return
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"345", "bytes 3-5/10")


def test_the_clip_that_is_shipped_is_an_mp4() -> None:
    clip = shipped_clip()
    assert (clip[4:8], len(clip) < 20_000) == (b"ftyp", True)


def test_a_faulty_twin_without_rules_is_the_twin_itself() -> None:
    twins = [EMULATORS["xai"](clip=b"", seed=4) for _ in range(2)]
    request = Request(method="GET", url=f"{HOST}/v1/videos/none")
    assert FaultyTwin(twins[0]).handle(request, 0.0) == twins[1].handle(request, 0.0)


def test_an_absent_retry_after_is_no_wait() -> None:
    wire = Wire("xai", RateLimit(retry_after="absent"))
    assert retry_after_s(wire(Request(method="GET", url="/videos/x"))) is None
