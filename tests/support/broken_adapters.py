"""A small provider that keeps the contract of adapters, and adapters for it that break one promise each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters import base
from rushes.adapters.base import Adapter, Flow, Output, Prepared, Request, Response, call, handle_of, plain, reply_json
from rushes.adapters.capabilities import BOOLEAN, Auth, Capabilities, Model, Option, Price, Terms
from rushes.emulators.base import Asked, ProviderTwin, Refused, Route, as_json
from rushes.emulators.faults import ExpiredUrl
from rushes.faults import Fault
from rushes.units import Handle
from rushes.video import Config, Target, VideoSpec

SECOND_MICRO_USD: Final = 1_000
ID: Final = re.compile(r"t-[0-9a-f]{12}")
MODEL: Final = Model(
    id="small-1",
    operations=("text-to-video",),
    durations_s=(2.0, 4.0),
    aspect_ratios=("16:9", "1:1"),
    fields=frozenset({"seed"}),
    options={"loop": BOOLEAN, "grain": Option("integer", least=0, most=9)},
    defaults=Config(duration_seconds=2.0),
    wire={"prompt": "text", "duration_seconds": "seconds", "aspect_ratio": "shape", "seed": "seed"},
    price=Price(per="second", micro_usd=SECOND_MICRO_USD, source="its page", as_of="2026-11-01"),
)


class Task(Struct):
    id: str


class State(Struct):
    status: str = ""
    percent: int | None = None
    file: str = ""
    reason: str = ""


class Page(Struct):
    tasks: list[Task]


class Problem(Struct):
    problem: str
    why: str = ""


class Small(Adapter):
    """Of class B: tasks carry our key, and can be listed by it."""

    name = "small"
    capabilities = Capabilities(
        base_url="https://api.small.example",
        base_url_env="SMALL_BASE_URL",
        models=(MODEL,),
        auth=Auth(env=("SMALL_KEY",)),
        terms=Terms(doubt="B", cancel="stops"),
    )

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        body = base.said(spec, MODEL) | spec.provider_options | {"mark": key}
        reply = yield from call(Request(method="POST", url="/tasks", body=body, spends=True))
        return handle_of(self, reply_json(self, reply, Task).id, ID)

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        reply = yield from call(Request(method="GET", url=f"/tasks/{self.known(handle)}"))
        if reply.status == 404 and self.fault(reply):
            return base.Vanished()
        return self.outcome(reply_json(self, reply, State))

    def outcome(self, state: State) -> base.Outcome:
        if state.status == "done":
            return base.Done((Output(state.file),))
        if state.status == "failed":
            code = "moderated" if "policy" in state.reason else "generation_failed"
            return base.Broken(Fault(code, self.words(state.reason)))  # type: ignore[arg-type]
        if state.status == "stopped":
            return base.Stopped()
        return base.Unfinished(state.percent, stage=state.status)

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        reply = yield from call(Request(method="DELETE", url=f"/tasks/{self.known(handle)}"))
        return "accepted" if reply_json(self, reply, State).status == "stopped" else "too_late"

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        reply = yield from call(Request(method="GET", url="/tasks", query={"mark": key}))
        tasks = reply_json(self, reply, Page).tasks
        return handle_of(self, tasks[0].id, ID) if len(tasks) == 1 else None

    def fault(self, reply: Response) -> Fault | None:
        problem = base.read(reply, Problem)
        if problem is None:
            return None
        passing = reply.status == 429 or reply.status >= 500
        return Fault(base.code_of(reply.status), self.words(problem.why), retryable=passing)

    def known(self, handle: Handle) -> str:
        return handle_of(self, handle.id, ID).id

    def words(self, text: str) -> str:
        return plain(text)


class SmallTwin(ProviderTwin):
    """The same provider, here."""

    name = "small"
    can: ClassVar = frozenset({"expired_url", "moderated", "failed", "status_word", "not_found"})

    def __init__(self, *, clip: bytes, key: str = "", seed: int = 0) -> None:
        super().__init__(clip=clip, key=key, seed=seed, start_s=5.0, render_s=30.0)
        self.tasks: dict[str, dict[str, Any]] = {}

    def routes(self) -> Sequence[Route]:
        return (
            Route("submit", "POST", r"/tasks()", self._create),
            Route("find", "GET", r"/tasks()", self._list),
            Route("status", "GET", r"/tasks/([\w-]+)", self._get),
            Route("cancel", "DELETE", r"/tasks/([\w-]+)", self._stop),
            Route("download", "GET", r"/files/([\w-]+)", self._file, keyless=True),
        )

    def admit(self, asked: Asked) -> None:
        if self._key and asked.key != self._key:
            raise _refused(401, "Who are you?")

    def nowhere(self, asked: Asked, *, known: bool) -> Refused:  # noqa: ARG002
        return _refused(404, "There is nothing here.")

    def throttled(self) -> Refused:
        return _refused(429, "Slow down, please.")

    def _create(self, asked: Asked, _: str) -> Response:
        body = dict(asked.json(_refused(400, "A body, please.")))
        if unknown := sorted({*body} - {"text", "seconds", "shape", "seed", "mark", "loop", "grain"}):
            raise _refused(422, f"There is no {unknown[0]}.")
        if not body.get("text"):
            raise _refused(422, "It needs words.")
        words = asked.words(body["text"])
        made = f"t-{self.draw().hex()[:12]}"
        end = next((why for word, why in ENDS.items() if word in words), "")
        self.tasks[made] = {"mark": body["mark"], "at": asked.now, "why": end, "stopped": False}
        micro_usd = body["seconds"] * SECOND_MICRO_USD
        self.charge(made, asked.now, micro_usd / 1_000_000, micro_usd, "a clip")
        return as_json(201, {"id": made})

    def _get(self, asked: Asked, id: str) -> Response:
        task = self.tasks.get(id)
        if task is None or self.hides(asked, id):
            raise _refused(404, "There is no such task.")
        if task["stopped"]:
            return as_json(200, {"status": "stopped"})
        stage = self.life(task["at"]).stage(asked.now)
        status = asked.said(
            {"waiting": "waiting", "running": "drawing", "over": "failed" if task["why"] else "done"}[stage]
        )
        percent = None if stage == "waiting" else min(99, int((asked.now - task["at"]) * 2))
        return as_json(
            200, {"status": status, "percent": percent, "file": f"{asked.origin}/files/{id}", "reason": task["why"]}
        )

    def _stop(self, asked: Asked, id: str) -> Response:
        if id in self.tasks and self.life(self.tasks[id]["at"]).stage(asked.now) != "over":
            self.tasks[id]["stopped"] = True
        return self._get(asked, id)

    def _list(self, asked: Asked, _: str) -> Response:
        wanted = asked.query.get("mark")
        found = [name for name, task in self.tasks.items() if wanted in (None, task["mark"])]
        return as_json(200, {"tasks": [{"id": name} for name in found]})

    def _file(self, asked: Asked, id: str) -> Response:
        if id not in self.tasks or asked.hit(ExpiredUrl):
            raise _refused(403, "The address has expired.")
        return self.result(asked)


ENDS: Final = {"forbidden": "It is against the policy.", "broken": "The pencil broke in two."}


def _refused(status: int, why: str) -> Refused:
    return Refused(status, {"problem": "small", "why": why})


class Marked(Small):
    """The same, where nothing says that a mark stands for one job: class C."""

    capabilities = replace(Small.capabilities, terms=Terms(doubt="C", cancel="stops"))


class Keyed(Small):
    """The same, where a key that comes again is the same job: class A."""

    capabilities = replace(Small.capabilities, terms=Terms(doubt="A", cancel="stops", key_ttl_s=86_400.0))
    find = Adapter.find


class KeyedTwin(SmallTwin):
    """It remembers keys."""

    def _create(self, asked: Asked, _: str) -> Response:
        mark = asked.json(_refused(400, "A body, please.")).get("mark")
        known = [name for name, task in self.tasks.items() if mark and task["mark"] == mark]
        return as_json(201, {"id": known[0]}) if known else super()._create(asked, _)


# ── Broken ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class PaysTwice(Small):
    """Makes sure, with another paid request."""

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:
        yield from super().submit(spec, target, prepared, key)
        return (yield from super().submit(spec, target, prepared, f"{key}b"))


class AsksAfterwards(Small):
    """Looks at the job before it says that there is one."""

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:
        handle = yield from super().submit(spec, target, prepared, key)
        yield from super().status(handle, target)
        return handle


class CertainOfErrors(Small):
    """Takes a 500 for a refusal."""

    def refuses(self, reply: Response, fault: Fault) -> bool:
        return super().refuses(reply, fault) or reply.status == 500


class CertainOfPages(Small):
    """Takes a gateway's page for the provider's word."""

    def fault(self, reply: Response) -> Fault | None:
        return super().fault(reply) or Fault(base.code_of(reply.status), "it refuses", retryable=reply.status >= 500)


class TellsKeys(Small):
    """Repeats what the provider says, with whatever is in it."""

    def words(self, text: str) -> str:
        return text


class EndsOnUnknownWords(Small):
    """Knows all words that there will ever be."""

    def outcome(self, state: State) -> base.Outcome:
        if state.status in ("waiting", "drawing", "done", "failed", "stopped"):
            return super().outcome(state)
        return base.Broken(Fault("generation_failed", "it has another word"))


class FindsAnothers(Small):
    """Takes the newest for its own."""

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        tasks = reply_json(self, (yield from call(Request(method="GET", url="/tasks"))), Page).tasks
        return handle_of(self, tasks[-1].id, ID) if tasks else None


class FindsNothingOnErrors(Small):
    """Takes an error for the news that nothing is there."""

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:
        try:
            return (yield from super().find(target, key, since))
        except base.Failed:
            return None


class CallsItB(Small):
    """Looks for nothing, and says that it can."""

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        yield from ()
        return None


class DropsAnOption(Small):
    """Offers an option and keeps it."""

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:
        told = {name: value for name, value in spec.provider_options.items() if name != "grain"}
        return (yield from super().submit(replace(spec, provider_options=told), target, prepared, key))


class DropsAField(Small):
    """Offers a shape and keeps it."""

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:
        return (yield from super().submit(replace(spec, aspect_ratio=None), target, prepared, key))


class TooCheap(Small):
    """Estimates less than is charged."""

    capabilities = replace(
        Small.capabilities,
        models=(replace(MODEL, price=Price(per="second", micro_usd=999, source="a guess", as_of="2026-11-01")),),
    )


class OffersTooMuch(Small):
    """Declares what the provider does not take."""

    capabilities = replace(Small.capabilities, models=(replace(MODEL, options={**MODEL.options, "shine": BOOLEAN}),))


class TrustsIds(Small):
    """Builds addresses of whatever it was given."""

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        body = base.said(spec, MODEL) | spec.provider_options | {"mark": key}
        reply = yield from call(Request(method="POST", url="/tasks", body=body, spends=True))
        return Handle(reply_json(self, reply, Task).id)


class StrictAboutFields(Small):
    """Gives up where an answer has a field that it does not know."""

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:
        flow = super().status(handle, target)
        reply = yield next(flow)
        assert isinstance(reply, Response)
        reply_json(self, reply, StrictState)
        try:
            flow.send(reply)
        except StopIteration as done:
            outcome: base.Outcome = done.value
            return outcome
        raise AssertionError


class StrictState(State, forbid_unknown_fields=True):
    problem: str = ""
    why: str = ""


class NeverTheSame(Small):
    """Adds what differs from one time to the next, so that what was pinned is not what is sent."""

    drawn = 0

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:
        self.drawn += 1
        return (yield from super().submit(replace(spec, seed=self.drawn), target, prepared, key))


class CannotCancel(Small):
    """Says that it can be stopped, and does not stop it."""

    def cancel(self, handle: Handle, target: Target) -> Flow[base.CancelAnswer]:  # noqa: ARG002
        yield from ()
        return "accepted"


class TakesOneOfTwo(Marked):
    """Takes the first of two that carry its mark."""

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:  # noqa: ARG002
        reply = yield from call(Request(method="GET", url="/tasks", query={"mark": key}))
        tasks = reply_json(self, reply, Page).tasks
        return handle_of(self, tasks[0].id, ID) if tasks else None


class CallsItA(Keyed):
    """Trusts in a key that its provider forgets."""


class VanishesOnPages(Small):
    """Takes a gateway's 404 for the provider's."""

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:
        reply = yield next(super().status(handle, target))
        assert isinstance(reply, Response)
        return base.Vanished() if reply.status == 404 else self.outcome(reply_json(self, reply, State))


class FailsOn404(Small):
    """Calls a job failed that the provider does not know yet."""

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:
        outcome = yield from super().status(handle, target)
        gone = Fault("generation_failed", "it is gone")
        return base.Broken(gone) if isinstance(outcome, base.Vanished) else outcome


class Speechless(Small):
    """Reads none of the provider's errors."""

    def fault(self, reply: Response) -> Fault | None:  # noqa: ARG002
        return None


class Chatty(Small):
    """Logs what it hears."""

    def outcome(self, state: State) -> base.Outcome:
        structlog.get_logger().info("task.seen", file=state.file)
        return super().outcome(state)


class DropsNewOptions(Small):
    """Says that it passes any option on, and passes on the ones it knows."""

    capabilities = replace(Small.capabilities, new_options=True)

    def submit(self, spec: VideoSpec, target: Target, prepared: Prepared, key: str) -> Flow[Handle]:
        known = {name: value for name, value in spec.provider_options.items() if name in MODEL.options}
        return (yield from super().submit(replace(spec, provider_options=known), target, prepared, key))
