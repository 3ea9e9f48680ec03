"""The contract of an adapter, as tests. It keeps every promise of Adapter, and of its own data, when this class passes:

    class TestAcme(AdapterContract):
        @pytest.fixture
        def pair(self):
            return Pair(Acme(), AcmeTwin)

For several adapters say `pairs = {"acme": Pair(Acme(), AcmeTwin), …}` in its place: then a check that says nothing
about one of them, as its data tell, is not made for it. With one it is skipped.

The twin is the provider as it runs here (`rushes.emulators.base.ProviderTwin`), made with `clip`, `key` and `seed`. The
requests are made from the adapter's data alone, so a model that is added to it is tested with it. Nothing here opens a
socket or waits: the jobs whose process dies run on the real system in virtual time.

It needs pytest. Say `pytest.register_assert_rewrite("rushes.testing.adapters")` in a conftest to see what the
assertions compared. What a twin cannot do (its `can`) is skipped, and said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial, wraps
from itertools import combinations, product
from typing import Any, ClassVar, Final, ParamSpec, TypeVar, cast

import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from rushes.actors import messages as m
from rushes.adapters.base import (
    CALLBACK,
    Broken,
    Done,
    Failed,
    Flow,
    Inline,
    Part,
    Request,
    Response,
    Unfinished,
    Vanished,
    body_digest,
)
from rushes.adapters.callbacks import Callbacks
from rushes.adapters.capabilities import Option
from rushes.adapters.catalogue import ModelSetting, with_settings
from rushes.adapters.fit import estimate, fit
from rushes.emulators.faults import (
    ExpiredUrl,
    FailedJob,
    Moderated,
    NotFound,
    RateLimit,
    ServerError,
    StatusWord,
    TwinRule,
)
from rushes.faults import BadRequest, Fault
from rushes.testing.answers import (
    GARBAGE,
    SECRETS,
    SERVER_ERRORS,
    always,
    broken_answers,
    json_changed,
    page,
    renamed,
    telling,
    with_unknown_fields,
)
from rushes.testing.crashes import POINTS, Point, live_through
from rushes.testing.orders import Order, plainest, refusals, richest, variants
from rushes.testing.wires import EPOCH_S, WRONG_KEY, Pair, Wire, with_own_clips
from rushes.units import AssetRef, Handle
from rushes.video import OPERATIONS

P = ParamSpec("P")
T = TypeVar("T")
Check = TypeVar("Check", bound=Callable[..., None])

DENIED: Final = frozenset({"invalid_input", "unsupported_feature", "not_found", "model_unknown"})
WAITS: Final[Mapping[Any, tuple[float, ...]]] = {  # Retry-After → what may be made of it, but for nothing
    0.0: (0.0,),
    7.0: (7.0,),
    86_400.0: (86_400.0,),
    "huge": (86_400.0,),
    "http-date": (30.0,),
    "garbage": (),
    "absent": (),
}
BAD_IDS: Final = ("", "../../account", "a/../../account", "a?b=cdefghij", "a#bcdefghijk", "a b c d e f g", "%2e%2e%2fa")
UNKNOWN_WORD: Final = "pondering"
NEW_VALUE: Final = "rushes-new-value"


def unless(lacks: Callable[[Pair], str]) -> Callable[[Check], Check]:
    """Decorate a check that says nothing about some adapters: `lacks` says why, by their data; it is empty for others.

    Of one adapter the check is skipped; of several (`pairs`) it is not made for these.
    """

    def decorate(check: Check) -> Check:
        @wraps(check)
        def checked(self: AdapterContract, pair: Pair, **more: Any) -> None:
            if reason := lacks(pair):
                pytest.skip(reason)
            check(self, pair, **more)

        vars(checked)["lacks"] = lacks
        return cast("Check", checked)

    return decorate


def why_not(check: Callable[..., object], pair: Pair) -> str:
    """Why a check says nothing about an adapter; empty where it does."""
    lacks: Callable[[Pair], str] | None = getattr(check, "lacks", None)
    return lacks(pair) if lacks else ""


def _keyless(pair: Pair) -> str:
    return "" if pair.adapter.capabilities.auth else "it asks for no key"


def _silent(pair: Pair) -> str:
    return "" if pair.adapter.capabilities.webhook else "it does not call back"


def _unstoppable(pair: Pair) -> str:
    return "it cannot be cancelled" if _cancel(pair) == "no" else ""


def _destroying(pair: Pair) -> str:
    return "it says that it does: so the system polls first" if _cancel(pair) == "destroys" else ""


def _cancel(pair: Pair) -> str:
    return Wire(pair).terms(_first(pair)).cancel


def _not_of(classes: str) -> Callable[[Pair], str]:
    return lambda pair: "" if _of_class(pair, classes) else f"it is not of class {' or '.join(classes)}"


class AdapterContract:
    """Everything that must be true of any adapter."""

    pairs: ClassVar[Mapping[str, Pair]] = {}

    @pytest.fixture
    def pair(self) -> Pair:
        """The adapter and its twin. Override this, or say `pairs`."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Of several pairs: make a check for those that it says something about; where there are none, skip it once."""
        if self.pairs and "pair" in metafunc.fixturenames:
            names = [name for name, pair in self.pairs.items() if not why_not(metafunc.function, pair)]
            names = names or [*self.pairs][:1]
            metafunc.parametrize("pair", [self.pairs[name] for name in names], ids=names)

    # ── The data ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def test_every_operation_of_every_model_can_be_asked_for(self, pair: Pair) -> None:
        data = pair.adapter.capabilities
        declared = [f"{model.id}, {name}" for model in data.models for name in model.operations]
        assert [order.about for order in plain_orders(pair)] == declared
        assert {name for model in data.models for name in model.operations} <= set(OPERATIONS.values())

    def test_the_data_hold_together(self, pair: Pair) -> None:
        data = pair.adapter.capabilities
        makes_from_words = ["text-to-video" in model.operations for model in data.models]
        assert makes_from_words[0] or not any(makes_from_words), "a model that makes clips from words comes first"
        names = [name for model in data.models for name in {model.id, *model.aliases}]
        owners = {name: {model.id for model in data.models if name in (model.id, *model.aliases)} for name in names}
        assert {name for name, ids in owners.items() if len(ids) > 1} == set(), "a name stands for two models"
        pairs = [(model.id, name) for model in data.models for name in model.operations]
        assert len(set(pairs)) == len(pairs), "two rows of one model do the same"
        known = {model.id for model in data.models}
        assert {gone.replacement for gone in data.retired.values() if not gone.provider} <= known | {""}
        assert data.base_url.startswith("https://") or data.auth is None, "a key goes over https"
        for model in data.models:
            if model.price is not None:
                assert model.price.source
                assert len(model.price.as_of) == len("2026-01-31")
                assert all(rate.micro_usd <= model.price.micro_usd for rate in model.price.rates), model.id

    def test_what_is_not_declared_is_refused_by_its_name(self, pair: Pair) -> None:
        wrong = [refusal for order in plain_orders(pair) for refusal in refusals(order)]
        assert wrong
        for refusal in wrong:
            with pytest.raises(BadRequest) as refused:
                fit(refusal.spec, [refusal.model])
            assert refusal.field in {fault.field for fault in refused.value.faults}, refusal.about

    # ── Whole lives ───────────────────────────────────────────────────────────────────────────────────────────────────

    def test_a_request_becomes_the_twins_clip(self, pair: Pair) -> None:
        for order in (*plain_orders(pair), *rich_orders(pair)):
            wire = Wire(pair)
            life = _life(wire, order)
            *before, done = life.outcomes
            assert isinstance(done, Done), f"{order.about}: {done}"
            assert before, f"{order.about}: done at once"
            assert {(asset.sha256, asset.media_type) for asset in life.kept} == {(_sha256(wire.clip), "video/mp4")}
            assert len(life.kept) == len(done.outputs)
            percents = [outcome.percent for outcome in before if isinstance(outcome, Unfinished) and outcome.percent]
            assert all(0 <= percent < 100 for percent in percents), order.about

    def test_each_declared_value_is_taken(self, pair: Pair) -> None:
        for order in every(pair):
            if not order.opaque:
                life = _life(Wire(pair), order)
                last = life.outcomes[-1]
                assert isinstance(last, Done), f"{order.about}: {last}"
                assert last.outputs[0].kind == "video", f"{order.about}: its video does not come first"
                for output, asset in zip(last.outputs, life.kept, strict=True):
                    assert output.kind == "video" or asset.media_type == output.media_type, f"{order.about}: {output}"

    def test_a_job_is_charged_once_and_no_more_than_was_estimated(self, pair: Pair) -> None:
        for order in every(pair):
            if order.opaque:
                continue
            wire = Wire(pair)
            _life(wire, order)
            assert len(wire.charges) == 1, f"{order.about}: {wire.charges}"
            (charge,), most = wire.charges, estimate(order.spec, order.model)
            files_vary = order.field.startswith("inputs.") and isinstance(order.value, str)
            if most is None or charge.micro_usd is None or files_vary:  # no twin can see how long these files are
                continue
            assert charge.micro_usd <= most.micro_usd, f"{order.about}: {charge.micro_usd} > {most.micro_usd}"

    def test_each_declared_wish_is_sent(self, pair: Pair) -> None:
        """Of two values of one wish each makes another request, and every file that is handed in goes out.

        A wish that is about the waiting alone (how often to ask, for how long) makes other terms instead, and one that
        is about what is fetched makes another handle.
        """
        for plain in plain_orders(pair):
            orders = varied(pair, plain)
            asked = {order.about: conversation(pair, order) for order in (plain, *orders)}
            said: dict[str, list[object]] = {about: [*map(body_digest, asks)] for about, asks in asked.items()}
            for order in (plain, *orders):
                wire = Wire(pair)
                said[order.about].append((wire.terms(order), pair.adapter.beside_id(order.spec, wire.target(order))))
            for order in (plain, *orders):
                sent = {asset.sha256 for ask in asked[order.about] for asset in _files(ask)}
                own = {given.asset.sha256 for given in order.spec.inputs if not given.made}
                assert own <= sent, f"{order.about}: a file stays here"
            for one, other in combinations(orders, 2):
                if one.field == other.field and _otherwise_equal(one, other):
                    assert said[one.about] != said[other.about], f"{one.about} and {other.value} are the same"
            for order in orders:
                alone = sum(one.field == order.field for one in orders) == 1
                if alone and order.field.startswith("provider_options."):
                    assert said[order.about] != said[plain.about], f"{order.about} is not sent"
            worded = replace(plain, spec=replace(plain.spec, prompt="another prompt"))
            if plain.spec.prompt:
                other_words = [*map(body_digest, conversation(pair, worded))]
                assert other_words != said[plain.about][:-1], f"{plain.about}: its prompt is not sent"

    def test_an_option_that_settings_add_goes_out_or_is_refused(self, pair: Pair) -> None:
        for plain in plain_orders(pair):
            if not pair.adapter.capabilities.new_options:
                with pytest.raises(BadRequest, match="none of the options"):
                    _with_new_option(pair, plain)
                continue
            try:
                asks = conversation(*_with_new_option(pair, plain))
            except BadRequest:  # by its maker: a marketplace passes on what it knows how to
                continue
            assert NEW_VALUE in [text for ask in asks for text in _texts(ask)], f"{plain.about}: it stays here"

    def test_unknown_fields_of_answers_are_ignored(self, pair: Pair) -> None:
        for order in plain_orders(pair):
            wire = Wire(pair)
            wire.rewrite = lambda reply: json_changed(reply, with_unknown_fields)
            assert _life(wire, order) == _life(Wire(pair), order)

    # ── Paid requests ─────────────────────────────────────────────────────────────────────────────────────────────────

    def test_a_submit_is_one_paid_request_and_nothing_after_it(self, pair: Pair) -> None:
        for order in plain_orders(pair):
            wire = Wire(pair)
            prepared = wire.prepare(order)
            assert wire.spent == [], f"{order.about}: prepare spends"
            before = len(wire.asked)
            wire.play(pair.adapter.submit(order.spec, wire.target(order), prepared, "job_1-1"))
            assert wire.spent == [before] == [len(wire.asked) - 1], f"{order.about}: it is not one paid request"
            paid = wire.asked[before]
            assert isinstance(paid, Request)
            assert paid.method == "POST", "anything else may be sent twice"

    def test_nothing_but_a_submit_spends(self, pair: Pair) -> None:
        for order in plain_orders(pair):
            wire = Wire(pair)
            life = _life(wire, order)
            target = wire.target(order)
            flows = (
                pair.adapter.cancel(life.handle, target),
                pair.adapter.find(target, "job_1-1", EPOCH_S),
            )
            for flow in flows:
                _tried(wire.play, flow)
            assert len(wire.spent) == 1, order.about

    def test_the_same_order_is_the_same_bytes(self, pair: Pair) -> None:
        """What the intent pins before it is sent is what is sent."""
        for order in plain_orders(pair):
            wire = Wire(pair)
            target, prepared = wire.target(order), wire.prepare(order)
            first, again = (next(pair.adapter.submit(order.spec, target, prepared, "job_1-1")) for _ in range(2))
            assert isinstance(first, Request)
            assert isinstance(again, Request)
            assert body_digest(first) == body_digest(again)

    def test_no_answer_leaves_a_send_in_doubt_with_a_fault_that_may_pass(self, pair: Pair) -> None:
        for status in SERVER_ERRORS:
            wire = Wire(pair, ServerError(on="submit", status=status, after_accept=True))
            failed = _submit_fails(wire)
            assert len(wire.charges) == 1
            assert not failed.certain, f"a {status} was charged, and is called certain"
            assert failed.fault.retryable, f"a {status} may pass"
            assert failed.fault.code in ("provider_unavailable", "bad_answer"), failed.fault

    def test_a_server_error_in_the_providers_own_words_is_in_doubt_too(self, pair: Pair) -> None:
        for status in (500, 502, 504):
            wire = Wire(pair, RateLimit(on="submit", retry_after="absent"))
            _on_submit(wire, partial(_changed, status=status))
            assert not _submit_fails(wire).certain, f"a {status} is called certain"

    def test_a_gateways_page_leaves_a_send_in_doubt(self, pair: Pair) -> None:
        for status in (400, 401, 403, 404, 409, 422):
            wire = Wire(pair)
            _on_submit(wire, always(page(status)))
            assert not _submit_fails(wire).certain, f"a page with {status} is called certain"

    def test_an_answer_without_sense_leaves_a_send_in_doubt(self, pair: Pair) -> None:
        for body in GARBAGE:
            wire = Wire(pair)
            _on_submit(wire, partial(_changed, body=body))
            failed = _submit_fails(wire)
            assert not failed.certain, f"{body[:20]!r} is called certain"
            assert failed.fault.code == "bad_answer"

    def test_an_answer_that_is_cut_anywhere_is_never_read_otherwise(self, pair: Pair) -> None:
        order = _first(pair)
        whole = Wire(pair)
        handle = whole.submit(order)
        body = whole.replies[-1].body
        for byte in range(len(body)):
            wire = Wire(pair)
            _on_submit(wire, partial(_changed, body=body[:byte]))
            outcome = _tried(wire.submit, order)
            assert outcome == handle or (isinstance(outcome, Failed) and not outcome.certain), f"cut at byte {byte}"

    @unless(_keyless)
    def test_a_wrong_key_is_refused_for_certain(self, pair: Pair) -> None:
        wire, order = Wire(pair, key=WRONG_KEY), _plain_words(pair)
        failed = _fails(wire.submit, order)
        assert (failed.fault.code, failed.certain, failed.fault.retryable) == ("authentication_failed", True, False)
        assert wire.charges == []
        for flow in _questions(wire, order, Wire(pair).submit(order)):
            failed = _fails(wire.play, flow)
            assert failed.fault.code == "authentication_failed"

    def test_a_body_that_the_provider_refuses_is_refused_for_certain(self, pair: Pair) -> None:
        wire, order = Wire(pair), _first(pair)
        _before_submit(wire, lambda request: replace(request, body={}))
        failed = _fails(wire.submit, order)
        assert failed.fault.code in DENIED, failed.fault
        assert (failed.certain, failed.fault.retryable) == (True, False)
        assert wire.charges == []

    @pytest.mark.parametrize("retry_after", WAITS)
    def test_a_limit_is_told_with_its_wait(self, pair: Pair, retry_after: Any) -> None:
        wire, order = Wire(pair, RateLimit(on="submit", retry_after=retry_after)), _first(pair)
        wire.rewrite = lambda reply: replace(reply, headers={"date": _DATE, **reply.headers})
        failed = _fails(wire.submit, order)
        assert (failed.fault.code, failed.certain, failed.fault.retryable) == ("rate_limited", True, True)
        assert wire.charges == []
        wait_s = failed.fault.retry_after_s
        assert wait_s is None or 0.0 <= wait_s <= 86_400.0
        assert not WAITS[retry_after] or wait_s in WAITS[retry_after], wait_s

    def test_an_id_that_could_lead_elsewhere_is_refused(self, pair: Pair) -> None:
        order = _first(pair)
        handle = Wire(pair).submit(order)
        for bad in BAD_IDS:
            wire = Wire(pair)
            _on_submit(wire, partial(json_changed, change=partial(renamed, old=handle.id, new=bad)))
            failed = _fails(wire.submit, order)
            assert not failed.certain, f"{bad!r}: it was paid all the same"
            wire = Wire(pair)
            for flow in _questions(wire, order, replace(handle, id=bad)):
                _fails(wire.play, flow)
            assert wire.asked == [], f"the handle {bad!r} was asked for"

    # ── Doubt ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("point", POINTS)
    def test_the_class_of_doubt_holds_when_the_answer_is_lost(self, pair: Pair, point: Point) -> None:
        for order, seed in product(plain_orders(pair), range(3)):
            wire = Wire(pair)
            doubt = wire.terms(order).doubt
            with capture_logs():
                ending = live_through(wire, order, point, seed)
            job, charged = ending.job, len(wire.charges)
            about = f"{order.about}, {point}, seed {seed}, class {doubt}: {type(job).__name__}, {charged} charges"
            assert ending.crashed == (point != "lost"), about
            assert charged <= 1, about
            if doubt in "AB" or (doubt == "C" and charged):
                assert isinstance(job, m.Succeeded), about
                assert (charged, job.billed) == (1, "yes" if wire.charges[0].amount else job.billed), about
            else:
                assert isinstance(job, m.Parked), about
                assert (job.reason, job.billed, len(wire.spent)) == ("in_doubt", "unknown", 1), about
                assert charged == (point != "before"), about

    @unless(_silent)
    @pytest.mark.parametrize("point", POINTS)
    def test_a_callback_stands_in_for_an_answer_that_was_lost(self, pair: Pair, point: Point) -> None:
        """Its address says which send it is about: what was paid is fetched, and nothing is sent twice."""
        callbacks = Callbacks("https://studio.example", b"k" * 32)
        for order in plain_orders(pair):
            wire = Wire(pair)
            with capture_logs():
                ending = live_through(wire, order, point, callbacks=callbacks)
            job, charged = ending.job, len(wire.charges)
            about = f"{order.about}, {point}: {type(job).__name__}, {charged} charges"
            assert charged <= 1, about
            assert isinstance(job, m.Succeeded if charged else m.Parked), about

    @unless(_silent)
    def test_a_callback_is_about_the_job_that_was_made(self, pair: Pair) -> None:
        order, wire, url = _first(pair), Wire(pair), "https://studio.example/v1/webhooks/x?mac=1"
        target, prepared = wire.target(order), wire.prepare(order)
        handle = wire.play(pair.adapter.submit(order.spec, target, {**prepared, CALLBACK: url}, "job_1-1"))
        wire.follow(order, handle)
        sent = wire.twin.due(wire.now)
        assert {delivery.url for delivery in sent} == {url}
        told = [pair.adapter.callback(delivery.body, target) for delivery in sent]
        assert [one and one.handle for one in told] == [handle] * len(sent)
        assert [one and one.final for one in told] == [False] * (len(sent) - 1) + [True]
        for garbage in (*GARBAGE, b'{"id": "../x", "status": "succeeded", "data": {"id": "../x", "status": "s"}}'):
            assert pair.adapter.callback(garbage, target) is None, garbage[:40]

    def test_a_look_finds_exactly_the_job_of_its_key(self, pair: Pair) -> None:
        """Once the jobs are over: some show no mark before there is a clip, and then it is the clip that bears it."""
        for order in plain_orders(pair):
            wire = Wire(pair)
            target, doubt = wire.target(order), wire.terms(order).doubt
            first, second = _two_jobs(wire, order, "job_1-1", "job_2-1")
            found = [
                wire.play(pair.adapter.find(target, key, EPOCH_S)) for key in ("job_1-1", "job_2-1", "job_3-1", "job_1")
            ]
            if doubt in "BC":
                assert _is_of(found[0], first, "job_1-1"), f"{order.about}: {found[0]}"
                assert _is_of(found[1], second, "job_2-1"), f"{order.about}: {found[1]}"
                assert found[2:] == [None, None], f"{order.about}: it finds another's"
                assert isinstance(wire.status(order, cast("Handle", found[0])), Done), order.about
            else:
                assert found == [None] * 4, f"class {doubt} has nothing to look for"

    @unless(_not_of("C"))
    def test_a_mark_that_two_jobs_carry_is_no_evidence(self, pair: Pair) -> None:
        order, wire = _of_class(pair, "C")[0], Wire(pair)
        _two_jobs(wire, order, "job_1-1", "job_1-1")
        found = _tried(wire.play, pair.adapter.find(wire.target(order), "job_1-1", EPOCH_S))
        assert found is None or isinstance(found, Failed), f"one of two was taken: {found}"

    @unless(_not_of("A"))
    def test_the_same_key_again_is_the_same_job(self, pair: Pair) -> None:
        order, wire = _of_class(pair, "A")[0], Wire(pair)
        assert wire.submit(order) == wire.submit(order)
        assert len(wire.charges) == 1
        assert wire.submit(order, "job_1-2") != wire.submit(order)

    @unless(_not_of("BC"))
    def test_a_broken_answer_to_a_look_never_says_that_nothing_is_there(self, pair: Pair) -> None:
        """For then it would be sent, and paid, again."""
        order, wire = _of_class(pair, "BC")[0], Wire(pair)
        wire.submit(order)
        wire.replies.clear()
        wire.play(pair.adapter.find(wire.target(order), "job_1-1", EPOCH_S))
        for number, good in enumerate(wire.replies):
            for about, broken in broken_answers(good):
                wire = Wire(pair)
                wire.submit(order)
                _in_the_place_of(wire, len(wire.replies) + number, broken)
                found = _tried(wire.play, pair.adapter.find(wire.target(order), "job_1-1", EPOCH_S))
                assert found is not None, f"answer {number}, {about}: it is said not to be there"

    # ── Polls ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def test_a_broken_answer_to_a_poll_ends_no_job(self, pair: Pair) -> None:
        order = _first(pair)
        whole = Wire(pair)
        handle = whole.submit(order)
        last = whole.follow(order, handle)[-1]
        for about, broken in broken_answers(whole.replies[-1]):
            wire = Wire(pair)
            wire.rewrite = always(broken)
            outcome = _tried(wire.play, pair.adapter.status(handle, wire.target(order)))
            assert isinstance(outcome, Failed | Unfinished) or outcome == last, f"{about}: {outcome}"
            if isinstance(outcome, Failed) and broken.status in SERVER_ERRORS:
                assert outcome.fault.retryable, about

    def test_a_limit_on_polls_is_told_with_its_wait(self, pair: Pair) -> None:
        wire, order = Wire(pair, RateLimit(on="status", retry_after=7.0)), _first(pair)
        handle = wire.submit(order)
        failed = _fails(wire.status, order, handle)
        assert (failed.fault.code, failed.fault.retryable, failed.fault.retry_after_s) == ("rate_limited", True, 7.0)

    def test_unknown_status_words_wait(self, pair: Pair) -> None:
        order = _first(pair)
        wire = self._able(pair, StatusWord(word=UNKNOWN_WORD, times=2))
        handle = wire.submit(order)
        outcomes = [wire.status(order, handle) for _ in range(2)]
        assert all(isinstance(outcome, Unfinished) for outcome in outcomes), outcomes
        assert isinstance(wire.follow(order, handle)[-1], Done)

    def test_a_job_that_nobody_knows_is_not_called_failed(self, pair: Pair) -> None:
        order = _first(pair)
        handle = Wire(pair).submit(order)
        wire = Wire(pair)
        outcome = _tried(wire.play, pair.adapter.status(handle, wire.target(order)))
        assert isinstance(outcome, Vanished | Unfinished | Failed), outcome
        if isinstance(outcome, Failed):
            assert outcome.fault.code == "not_found"

    def test_a_job_that_is_not_known_yet_is_waited_for(self, pair: Pair) -> None:
        wire = self._able(pair, NotFound(looks=1))
        with capture_logs():
            ending = live_through(wire, _first(pair))
        assert isinstance(ending.job, m.Succeeded), ending.job
        assert len(wire.charges) == 1

    def test_progress_that_goes_backwards_is_harmless(self, pair: Pair) -> None:
        wire, order = Wire(pair), _first(pair)
        wire.lag = lambda request, now: now if request.spends or len(wire.asked) % 3 else max(EPOCH_S, now - 5.0)
        with capture_logs():
            ending = live_through(wire, order)
        assert isinstance(ending.job, m.Succeeded), ending.job
        percents = [event.percent for event in ending.events if isinstance(event, m.ProgressReported) and event.percent]
        assert percents == sorted(percents)
        assert len(wire.charges) == 1

    def test_a_job_that_fails_is_told_as_failed(self, pair: Pair) -> None:
        broken = self._ended_by(pair, FailedJob())
        assert isinstance(broken, Broken), broken
        assert broken.fault.code != "moderated"
        assert broken.fault.detail

    def test_moderation_is_told_as_such(self, pair: Pair) -> None:
        outcome = self._ended_by(pair, Moderated())
        if isinstance(outcome, Done):
            assert (outcome.filtered > 0, outcome.outputs) == (True, ())
        else:
            assert isinstance(outcome, Broken | Failed), outcome
            assert (outcome.fault.code, outcome.fault.retryable) == ("moderated", False)

    def _ended_by(self, pair: Pair, rule: TwinRule) -> object:
        """The last that is heard of a job."""
        wire, order = self._able(pair, rule), _plain_words(pair)
        life = _tried(wire.live, order)
        return life if isinstance(life, Failed) else life.outcomes[-1]

    def _able(self, pair: Pair, rule: TwinRule) -> Wire:
        if rule.do not in Wire(pair).twin.can:
            pytest.skip(f"its twin cannot do {rule.do!r}")
        return Wire(pair, rule)

    # ── Cancels and downloads ─────────────────────────────────────────────────────────────────────────────────────────

    def test_a_cancel_does_what_is_declared(self, pair: Pair) -> None:
        for order in plain_orders(pair):
            wire = Wire(pair)
            handle, target, kind = wire.submit(order), wire.target(order), wire.terms(order).cancel
            before = len(wire.asked)
            answer = wire.play(pair.adapter.cancel(handle, target))
            if kind == "no":
                assert (answer, len(wire.asked)) == ("cannot", before), order.about
                continue
            assert answer == "accepted", order.about
            last = wire.follow(order, handle)[-1]
            assert not isinstance(last, Unfinished | Done), f"{order.about}: {last}"

    @unless(_destroying)
    def test_a_cancel_that_comes_too_late_takes_nothing_away(self, pair: Pair) -> None:
        order = _first(pair)
        wire = Wire(pair)
        life = _life(wire, order)
        answer = _tried(wire.play, pair.adapter.cancel(life.handle, wire.target(order)))
        assert isinstance(answer, Failed) or answer in ("too_late", "cannot"), answer
        done = wire.status(order, life.handle)
        assert isinstance(done, Done)
        assert wire.play(pair.adapter.download(done.outputs[0], life.handle, wire.target(order))) == life.kept[0]

    @unless(_unstoppable)
    def test_a_broken_answer_to_a_cancel_is_no_consent(self, pair: Pair) -> None:
        order = _first(pair)
        handle = Wire(pair).submit(order)
        for status in SERVER_ERRORS:
            wire = Wire(pair)
            wire.rewrite = always(page(status))
            answer = _tried(wire.play, pair.adapter.cancel(handle, wire.target(order)))
            assert isinstance(answer, Failed), f"{status}: {answer}"
            assert answer.fault.retryable

    def test_an_address_that_has_expired_is_told_as_such(self, pair: Pair) -> None:
        order = _first(pair)
        wire = self._able(pair, ExpiredUrl())
        failed = _fails(wire.live, order)
        assert failed.fault.code == "asset_expired"

    # ── Secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def test_no_secret_is_told_though_the_provider_tells_it(self, pair: Pair) -> None:
        for about, failed in _refusals_that_tell(pair):
            _assert_no_secret(about, failed.fault, failed, str(failed), failed.__cause__)

    def test_no_secret_is_told_of_a_job_that_failed(self, pair: Pair) -> None:
        for rule in (FailedJob(), Moderated()):
            wire, order = Wire(pair), _plain_words(pair)
            if rule.do not in wire.twin.can:
                continue
            wire = Wire(pair, rule)
            wire.rewrite = telling
            life = _tried(wire.live, order)
            outcome = life if isinstance(life, Failed) else life.outcomes[-1]
            if not isinstance(outcome, Done):
                _assert_no_secret(rule.do, outcome, getattr(outcome, "fault", None))

    def test_no_log_line_holds_a_secret(self, pair: Pair) -> None:
        for point in (None, *POINTS):
            wire = Wire(pair)
            with capture_logs() as logs:
                ending = live_through(wire, _first(pair), point)
            assert logs
            stored = [event for event in ending.events if not isinstance(event, m.GenerationFinished)]
            _assert_no_secret(f"{point}", logs, stored)
            told = msgspec.json.encode([_plain_log(line) for line in logs]).decode()
            assert "://" not in told, told


# ── Orders ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def plain_orders(pair: Pair) -> list[Order]:
    """The plainest request of each operation."""
    return [with_own_clips(pair, order) for order in plainest(pair.adapter.capabilities)]


def rich_orders(pair: Pair) -> list[Order]:
    """The richest."""
    return [with_own_clips(pair, order) for order in richest(pair.adapter.capabilities)]


def varied(pair: Pair, order: Order) -> list[Order]:
    """One for each value of each limit; a clip of the provider's own has its length and type already."""
    own = {f"inputs.{one.role}" for one in order.spec.inputs if one.made}
    wanted = [one for one in variants(order) if one.field not in own or isinstance(one.value, int)]
    return [with_own_clips(pair, one) for one in wanted]


def every(pair: Pair) -> list[Order]:
    """Every request that the data makes."""
    plain = plain_orders(pair)
    return [*plain, *rich_orders(pair), *(one for order in plain for one in varied(pair, order))]


def _first(pair: Pair) -> Order:
    return plain_orders(pair)[0]


def _of_class(pair: Pair, classes: str) -> list[Order]:
    """Those whose doubt is of one of these classes."""
    return [order for order in plain_orders(pair) if Wire(pair).terms(order).doubt in classes]


def _plain_words(pair: Pair) -> Order:
    """The first that has a prompt: twins look into it to see how the job shall end. Some providers take none."""
    plain = plain_orders(pair)
    return next((order for order in plain if order.spec.prompt), plain[0])


def conversation(pair: Pair, order: Order) -> list[Request]:
    """Everything that is asked until the paid request is out; whether it is taken does not matter."""
    wire = Wire(pair)
    sent = _tried(wire.submit, order)
    assert wire.spent, f"{order.about}: the adapter refuses what its data admits: {sent}"
    return [ask for ask in wire.asked if isinstance(ask, Request)]


def _with_new_option(pair: Pair, plain: Order) -> tuple[Pair, Order]:
    """The order, of a model like its own that has one more option. Raises BadRequest where there can be none."""
    setting = ModelSetting(
        provider=pair.adapter.name,
        id=f"{plain.model.id}-new",
        like=plain.model.id,
        options={**plain.model.options, "rushes_new": Option("string", (NEW_VALUE,))},
    )
    made = with_settings(pair.adapter, [setting])
    added = next(row for row in made.models if row.id == setting.id and row.operations == plain.model.operations)
    row = replace(added, id=plain.model.id)  # a twin knows the models that its provider has
    other = copy(pair.adapter)
    other.capabilities = replace(made, models=tuple(row if one is plain.model else one for one in made.models))
    options = {**plain.spec.provider_options, "rushes_new": NEW_VALUE}
    return Pair(other, pair.twin), replace(plain, model=row, spec=replace(plain.spec, provider_options=options))


def _texts(node: object) -> Iterator[str]:
    """Every text in a request's body."""
    stack: list[object] = [node.body] if isinstance(node, Request) else []
    while stack:
        held = stack.pop()
        if isinstance(held, str):
            yield held
        elif isinstance(held, Part):
            stack.append(held.content)
        elif isinstance(held, Mapping):
            stack += cast("Mapping[str, object]", held).values()
        elif isinstance(held, list | tuple):
            stack += cast("Sequence[object]", held)


def _otherwise_equal(one: Order, other: Order) -> bool:
    """Whether two orders differ in the one wish alone."""
    if one.field.startswith(("provider_options.", "inputs.", "operation.")) or one.field == "prompt":
        return True
    return replace(one.spec, **{one.field: None}) == replace(other.spec, **{one.field: None})


def _files(ask: Request) -> Iterator[AssetRef]:
    """The references of the files in a request."""
    stack: list[object] = [ask.body]
    while stack:
        node = stack.pop()
        if isinstance(node, Inline):
            yield node.asset
        elif isinstance(node, Part):
            stack.append(node.content)
        elif isinstance(node, Mapping):
            stack += cast("Mapping[str, object]", node).values()
        elif isinstance(node, list | tuple):
            stack += cast("Sequence[object]", node)


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _life(wire: Wire, order: Order) -> Any:
    try:
        return wire.live(order)
    except Failed as failed:
        failed.add_note(f"{order.about}: {failed.fault}")
        raise


def _tried(what: Callable[P, T], *args: P.args, **more: P.kwargs) -> T | Failed:
    try:
        return what(*args, **more)
    except Failed as failed:
        return failed


def _fails(what: Callable[P, object], *args: P.args, **more: P.kwargs) -> Failed:
    outcome = _tried(what, *args, **more)
    assert isinstance(outcome, Failed), f"it did not fail: {outcome}"
    return outcome


def _two_jobs(wire: Wire, order: Order, *keys: str) -> tuple[Handle, ...]:
    """Two jobs that are over."""
    handles = tuple(wire.submit(order, key) for key in keys)
    for handle in handles:
        wire.follow(order, handle)
    return handles


def _is_of(found: Handle | None, handle: Handle, key: str) -> bool:
    """Whether it is that job, or what bears its key."""
    return found is not None and (found.id == handle.id or key in found.id)


def _submit_fails(wire: Wire) -> Failed:
    return _fails(wire.submit, plainest(wire.adapter.capabilities)[0])


def _questions(wire: Wire, order: Order, handle: Handle) -> list[Flow[Any]]:
    """What can be asked about a job."""
    target = wire.target(order)
    cancel = [] if wire.terms(order).cancel == "no" else [wire.adapter.cancel(handle, target)]
    return [wire.adapter.status(handle, target), *cancel]


def _changed(reply: Response, *, status: int = 0, body: bytes | None = None) -> Response:
    return replace(reply, status=status or reply.status, body=reply.body if body is None else body)


def _on_submit(wire: Wire, change: Callable[[Response], Response]) -> None:
    """Change the answer to the paid request."""
    wire.rewrite = lambda reply: change(reply) if wire.spent else reply


def _in_the_place_of(wire: Wire, number: int, broken: Response) -> None:
    """Another answer to the request of that number."""
    wire.rewrite = lambda reply: broken if len(wire.replies) == number else reply


def _before_submit(wire: Wire, change: Callable[[Request], Request]) -> None:
    """Change the paid request."""
    wire.tamper = lambda request: change(request) if wire.spent else request


# ── Secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _refusals_that_tell(pair: Pair) -> Iterator[tuple[str, Failed]]:
    order = _plain_words(pair)
    wires = {
        "a wrong key": Wire(pair, key=WRONG_KEY),
        "a limit": Wire(pair, RateLimit(on="submit")),
        "a refused body": Wire(pair),
        "a page": Wire(pair, ServerError(on="submit")),
    }
    _before_submit(wires["a refused body"], lambda request: replace(request, body={}))
    if pair.adapter.capabilities.auth is None:
        del wires["a wrong key"]
    for about, wire in wires.items():
        wire.rewrite = telling
        yield about, _fails(wire.submit, order)


def _assert_no_secret(about: str, *told: object) -> None:
    for one in told:
        text = repr(one)
        for secret in SECRETS:
            assert secret not in text, f"{about}: a secret is told: {text[:300]}"
        if isinstance(one, Fault):
            assert "://" not in msgspec.json.encode(one).decode(), f"{about}: an address is told: {text[:300]}"


def _plain_log(line: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{value}" for name, value in line.items()}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


_DATE: Final = "Fri, 15 Jan 2027 08:00:00 GMT"  # EPOCH_S
