"""Sora's wire, `/v1/videos`, which many gateways and self-hosted servers have copied: set OPENAI_BASE_URL to one.

OpenAI itself switched it off on 2026-09-24, so its models run only where an address was set. What answers there is read
leniently: keys that are missing or new, progress as a number or as "40%", the clip's address in the answer. A request
makes one clip: there is no count on this wire. `variants` names the pictures to be kept beside it, and where a server
has none the clip is kept all the same.

Nothing of ours is kept there but the prompt, which the list shows. So a lost answer stays in doubt (class E), unless
the request allows `mark_prompt`: then the prompt ends with the key of the attempt, and is looked for (class C).
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from rushes.adapters import base
from rushes.adapters.base import Adapter, Body, Flow, Inline, Output, Part, Request, Response, call, plain, reply_json
from rushes.adapters.capabilities import Auth, Capabilities, Model, PollSchedule, Terms
from rushes.adapters.catalogue import row_of
from rushes.adapters.fit import size_of
from rushes.adapters.sora_models import MODELS, RETIRED
from rushes.faults import Code, Fault, bad
from rushes.units import AssetRef, Handle
from rushes.video import OPERATIONS, Extend, Input, TakeKind, Target, VideoSpec

ID: Final = re.compile(r"[A-Za-z0-9][\w.:=-]{0,255}", re.ASCII)  # video_ and 48 hex digits there; anything elsewhere
PATHS: Final = {"video-to-video": "/videos/edits", "extend": "/videos/extensions"}  # of a file
CODES: Final[dict[str, Code]] = {
    "insufficient_quota": "quota_exceeded",
    "billing_hard_limit_reached": "quota_exceeded",
    "model_not_found": "model_unknown",
}
BLOCKED: Final = re.compile(r"moderat|sentinel|safety|content.?(policy|filter)", re.IGNORECASE)  # in a code
PAGES: Final = 20  # of a list, of a hundred clips each; beyond them a look finds nothing, which proves nothing
LONGEST_S: Final = 600.0  # that they can make us wait for the next look
PICTURES: Final[dict[TakeKind, str]] = {"thumbnail": "image/webp", "spritesheet": "image/jpeg"}  # as OpenAI sent them
EARLIER_S: Final = 3600.0  # so much may another's clock differ from ours


class _Trouble(Struct):
    message: str | None = None
    code: str | int | None = None
    type: str | None = None


class _Detail(Struct):
    msg: str = ""


class _Problem(Struct):
    error: _Trouble | str | None = None
    detail: str | list[_Detail] = ""  # the usual shape of self-hosted servers


class _Video(Struct):
    status: str
    progress: int | float | str | None = None
    error: _Trouble | str | None = None
    url: str | None = None  # not OpenAI's, and then its content may be nowhere else; so is the next
    metadata: dict[str, object] | None = None


class _Row(base.Created):
    prompt: str | None = None
    created_at: float | None = None


class _Page(Struct):
    data: list[_Row]
    has_more: bool = False


class Sora(Adapter):
    """The Videos API of OpenAI, and of whoever copied it."""

    name = "sora"
    capabilities = Capabilities(
        base_url="https://api.openai.com/v1",
        base_url_env="OPENAI_BASE_URL",
        models=MODELS,
        aliases=("openai",),
        retired=RETIRED,
        auth=Auth(env=("OPENAI_API_KEY",)),
        # The guide asked every 10 to 20 s; clips were there for an hour. The total time is our guess.
        terms=Terms(doubt="E", poll=PollSchedule(min_s=10.0), link_ttl_s=3600.0, total_s=2 * 3600.0),
        docs_url="https://platform.openai.com/docs/guides/video-generation",
    )

    def terms(self, spec: VideoSpec, target: Target) -> Terms:  # noqa: ARG002
        """What a request may say of the waiting: how often to ask, for how long, and whether its prompt is marked."""
        terms, options = self.capabilities.terms, spec.provider_options
        if options.get("mark_prompt"):
            terms = replace(terms, doubt="C")
        if isinstance(every_s := options.get("poll_interval_seconds"), int | float):
            terms = replace(terms, poll=PollSchedule(float(every_s), float(every_s)))
        if isinstance(total_s := options.get("poll_timeout_seconds"), int | float):
            terms = replace(terms, total_s=float(total_s))
        return terms

    def beside_id(self, spec: VideoSpec, target: Target) -> dict[str, str]:
        """The model, and the pictures that were asked for."""
        wanted = _variants(spec)
        return {"model": target.model, **({"variants": " ".join(wanted)} if wanted else {})}

    def prepare(self, spec: VideoSpec, target: Target, key: str = "") -> Flow[base.Prepared]:
        """Nothing: files travel in the request.

        Raises BadRequest where a clip of theirs is another model's, or a picture is asked for twice.
        """
        wanted = _variants(spec)
        if len(set(wanted)) < len(wanted):
            raise bad("provider_options.variants", f"{wanted[0]!r} is named twice: name each picture once.")
        if (clip := _theirs(spec)) is not None and (by := clip.extra.get("model", target.model)) != target.model:
            raise bad("inputs[0]", f"That clip was made by {by}, which alone goes on with it: name {by} as the model.")
        return (yield from super().prepare(spec, target, key))

    def submit(self, spec: VideoSpec, target: Target, prepared: base.Prepared, key: str) -> Flow[Handle]:  # noqa: ARG002
        """Start a clip."""
        if spec.provider_options.get("mark_prompt"):
            spec = replace(spec, prompt=spec.prompt + _mark(key))
        clip, model = _theirs(spec), row_of(self, target.model, spec)
        path, body = _of_a_clip(spec, model, base.handle_of(self, clip.id, ID)) if clip else _anew(spec, model)
        request = Request(method="POST", url=path, body=body, spends=True)
        return (yield from base.start(self, request, ID, self.beside_id(spec, target)))

    def status(self, handle: Handle, target: Target) -> Flow[base.Outcome]:  # noqa: ARG002
        """Whether a clip that failed is billed, nobody says."""
        path = f"/videos/{base.handle_of(self, handle.id, ID).id}"
        reply = yield from call(Request(method="GET", url=path))
        if reply.status == 404 and self.fault(reply):
            return base.Vanished()
        video = reply_json(self, reply, _Video)
        match video.status:
            case "completed":
                content = f"{path.lstrip('/')}/content"
                wanted = handle.extra.get("variants", "").split()
                pictures = [Output(f"{content}?variant={it}", PICTURES[it], it) for it in PICTURES if it in wanted]
                return base.Done((Output(_address(video) or content), *pictures))
            case "failed":
                return base.Broken(_failure(video.error))
            case word:
                wait_s = _ms(reply, "openai-poll-after-ms") or 0.0
                return base.Unfinished(_percent(video.progress), stage=word, wait_s=min(LONGEST_S, wait_s))

    def find(self, target: Target, key: str, since: float) -> Flow[Handle | None]:
        """The one clip whose prompt ends with our mark. Two of them are no evidence."""
        found, query = set[str](), {"limit": "100", "order": "desc"}
        for _ in range(PAGES):
            page = yield from base.ask(self, Request(method="GET", url="/videos", query=query), _Page)
            found |= {row.id for row in page.data if (row.prompt or "").endswith(_mark(key))}
            if not page.data or not page.has_more or (page.data[-1].created_at or since) < since - EARLIER_S:
                break
            query = {**query, "after": page.data[-1].id}
        return base.handle_of(self, found.pop(), ID, {"model": target.model}) if len(found) == 1 else None

    def download(self, output: Output, handle: Handle, target: Target) -> Flow[AssetRef]:  # noqa: ARG002
        """Its own host asks for the key; to any other one it does not go along."""
        return (yield from base.keep(base.Keep(url=output.url, with_credential=True)))

    def fault(self, reply: Response) -> Fault | None:
        """{"error": {"message", "type", "code"}}, or {"detail"}. Where both waits are told, that in seconds counts."""
        problem = base.read(reply, _Problem) or _Problem()
        if not (problem.error or problem.detail):
            return None
        trouble = problem.error if isinstance(problem.error, _Trouble) else _Trouble(problem.error)
        code = _code(trouble) or base.code_of(reply.status)
        later = code == "rate_limited" or reply.status >= 500
        later = {"true": True, "false": False}.get(reply.headers.get("x-should-retry", ""), later)
        said = trouble.message or problem.detail
        text = said if isinstance(said, str) else "; ".join(detail.msg for detail in said)
        wait_s, own = _ms(reply, "retry-after-ms"), str(trouble.code or "")
        return Fault(code, f"{self.name}: {plain(text)}", retryable=later, retry_after_s=wait_s, provider_code=own)


def _variants(spec: VideoSpec) -> list[str]:
    wanted = spec.provider_options.get("variants")
    return [str(one) for one in wanted] if isinstance(wanted, list) else []


def _theirs(spec: VideoSpec) -> Handle | None:
    """The clip of theirs that comes in, by its name there: nothing takes more than one file."""
    made = spec.inputs[0].made if spec.inputs else None
    return made.handle if made is not None and made.provider == Sora.name else None


def _of_a_clip(spec: VideoSpec, model: Model, clip: Handle) -> tuple[str, Body]:
    """What is asked of a clip of theirs, and where."""
    said = _said(spec, model)
    if isinstance(spec.operation, Extend):
        return "/videos/extensions", {**said, "video": {"id": clip.id}}
    return f"/videos/{clip.id}/remix", said


def _anew(spec: VideoSpec, model: Model) -> tuple[str, Body]:
    """What is asked of words, or of a file that goes along, and where. It is a form, without a file too."""
    path, said = PATHS.get(OPERATIONS[type(spec.operation)], ""), _said(spec, model)
    if not path:  # a clip that comes in goes by its own model
        path, said = "/videos", {"model": model.id, **said}
    files = [
        Part(model.wire[given.role], Inline(given.asset, "bytes"), _filename(given), given.asset.media_type)
        for given in spec.inputs
    ]
    return path, [*(Part(name, value) for name, value in said.items()), *files]


def _said(spec: VideoSpec, model: Model) -> dict[str, str]:
    """The wishes, all as texts."""
    said = {name: str(value) for name, value in base.said(spec, model).items()}
    return {**said, "size": size_of(spec, model)} if "size" in said else said


def _filename(given: Input) -> str:
    return f"{given.role}.{given.asset.media_type.partition('/')[2]}"


def _mark(key: str) -> str:
    return f"\n({key})"


def _address(video: _Video) -> str:
    """The clip's, where the answer itself has one; empty where it has none."""
    addresses = [video.url, (video.metadata or {}).get("url")]
    return next((one for one in addresses if isinstance(one, str) and re.match(r"https?://", one)), "")


def _ms(reply: Response, header: str) -> float | None:
    """A time in milliseconds as seconds, a day at most; None where there is none that can be read."""
    told = reply.headers.get(header, "")
    return min(86_400.0, int(told) / 1000) if re.fullmatch(r"[0-9]{1,12}", told) else None


def _percent(progress: float | str | None) -> int | None:
    found = re.match(r"\d{1,3}", str(progress))
    return min(99, int(found[0])) if found else None


def _code(trouble: _Trouble) -> Code | None:
    word = f"{trouble.code or trouble.type or ''}"
    return "moderated" if BLOCKED.search(word) else CODES.get(word)


def _failure(error: _Trouble | str | None) -> Fault:
    trouble = error if isinstance(error, _Trouble) else _Trouble(error)
    code: Code = "moderated" if _code(trouble) == "moderated" else "generation_failed"
    return Fault(code, f"sora: {plain(trouble.message)}", provider_code=str(trouble.code or ""))
