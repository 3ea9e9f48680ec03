"""Google's twins: Veo on Vertex AI, Veo on the Gemini API, and Gemini Omni, with a ledger of what they charged.

    POST   /v1/projects/{p}/locations/{l}/publishers/google/models/{m}:predictLongRunning      Vertex
    POST   /v1/…/models/{m}:fetchPredictOperation      {"operationName"}
    POST   /token                                      a service account's assertion, for an access token
    GET    /storage/v1/b/{bucket}/o?prefix=            the clips that were written there
    GET    /storage/v1/b/{bucket}/o/{name}?alt=media
    POST   /v1beta/models/{m}:predictLongRunning       the Gemini API
    GET    /v1beta/models/{m}/operations/{id}
    POST   /v1/interactions, GET /v1/interactions/{id}, POST …/cancel, DELETE …            Omni
    GET    /v1beta/files/{id}:download?alt=media       of both: 302 to an address that asks for no key

Versions in paths may be v1, v1beta and v1beta1. Time is what the caller says it is: a job ends after `start_s` and
`render_s`. A prompt with the word "forbidden" is made and withheld, "partly" is withheld of one take, "refused" is not
begun, "broken" fails. Buckets are whichever are named, and what they hold was written by Veo alone.

What nobody has seen of the real ones is a choice here: the text of a refusal of Omni's, ids of its interactions, and
that a clip which was withheld costs nothing, also where others of its request were not.
"""

from __future__ import annotations

import base64
import binascii
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, cast
from urllib.parse import parse_qs, unquote

import msgspec
from msgspec import Struct

from rushes.adapters.base import Inline, Response
from rushes.emulators import base
from rushes.emulators.base import Asked, ProviderTwin, Route, as_json, fits
from rushes.emulators.faults import ExpiredUrl
from rushes.faults import GOOGLE_EXTRA, ExtraMissing

WORDS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    429: "RESOURCE_EXHAUSTED",
}
FILES_S: Final = 2 * 86_400.0
VERSION: Final = "/v1(?:beta1?)?"
WITHHELD: Final = "The clip was withheld, as it may go against the usage guidelines. Support codes: 58061214"
REFUSED: Final = "The prompt could not be submitted, as it may go against the usage guidelines. Support codes: 42876398"
BROKEN: Final = "Video generation failed with an internal error. Please try again later."
RETRY: Final = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}
PEOPLE: Final = ("allow_adult", "dont_allow", "allow_all")


class Refused(base.Refused):
    """google.rpc.Status as all its interfaces answer it."""

    def __init__(self, status: int, message: str, *details: Mapping[str, object], word: str = "") -> None:
        error: dict[str, object] = {"code": status, "message": message, "status": word or WORDS[status]}
        super().__init__(status, {"error": error | ({"details": details} if details else {})})


class GoogleTwin(ProviderTwin):
    """What they share: their errors, and who may ask."""

    def throttled(self) -> Refused:
        """Its 429, with its own word on when."""
        return Refused(429, "Resource has been exhausted (e.g. check quota).", RETRY)

    def nowhere(self, asked: Asked, *, known: bool) -> Refused:  # noqa: ARG002
        """The same, whatever it is."""
        return Refused(405 if known else 404, "The requested entity was not found here.")

    def admit(self, asked: Asked) -> None:
        """By a key of the Gemini API."""
        key = asked.headers.get("x-goog-api-key") or asked.query.get("key")
        if not key:
            raise Refused(403, "The request is missing a valid API key.")
        if not self.accepts(key):
            raise Refused(400, "API key not valid. Please pass a valid API key.")


class FilesTwin(GoogleTwin):
    """A service whose results lie behind a redirect."""

    can: ClassVar = frozenset({"expired_url", "moderated", "failed", "not_found"})

    def __init__(self, *, elsewhere: str = "", **more: Any) -> None:
        """`elsewhere` is the origin that a download is sent to; empty: its own."""
        super().__init__(**more)
        self._elsewhere = elsewhere

    def files(self) -> Sequence[Route]:
        """Where results are."""
        return (
            Route("download", "GET", rf"{VERSION}/files/([a-z0-9]+):download", self._file),
            Route("download", "GET", rf"/download{VERSION}/files/([a-z0-9]+):download", self._bytes, keyless=True),
        )

    @abstractmethod
    def ended_at(self, file: str) -> float | None:
        """When the file was there; None where there is no such file."""

    def address(self, asked: Asked, file: str) -> str:
        """What is told of a file."""
        return f"{asked.origin}/v1beta/files/{file}:download?alt=media"

    def _file(self, asked: Asked, file: str) -> Response:
        ended_at = self.ended_at(file)
        if ended_at is None or not ended_at <= asked.now < ended_at + FILES_S or asked.hit(ExpiredUrl):
            raise Refused(403, "You do not have permission to access the File, or it may not exist.")
        there = f"{self._elsewhere or asked.origin}/download/v1beta/files/{file}:download?alt=media"
        content = {"error": {"code": 302, "message": "Unknown Error.", "status": "UNKNOWN"}}
        return as_json(302, content, {"location": there})

    def _bytes(self, asked: Asked, file: str) -> Response:
        return Response(status=404) if self.ended_at(file) is None else self.result(asked)


def file_name(drawn: bytes) -> str:
    """Twelve small letters and digits."""
    return drawn.hex()[:12]


def is_file(given: object, field: str) -> bool:
    """Whether an object holds a file as base64, or its reference where no socket is between us, and says what it is."""
    if not isinstance(given, Mapping):
        return False
    held = cast("Mapping[str, object]", given)
    content, media_type = held.get(field), held.get("mimeType", held.get("mime_type"))
    if not isinstance(media_type, str):
        return False
    if isinstance(content, Inline):
        return content.form == "base64"
    try:
        return isinstance(content, str) and bool(base64.b64decode(content, validate=True))
    except binascii.Error:
        return False


# ── Veo ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Job(Struct, frozen=True, kw_only=True):
    """One operation, as far as it does not follow from the time."""

    name: str
    created_at: float
    takes: tuple[str, ...]  # what was made and not withheld: names of files
    filtered: int
    folder: str  # gs://…/ that it is written below; empty: it stands in the answer
    error: str


CENTS: Final[Mapping[str, Mapping[str, int]]] = {  # of a second, by what its name holds; with sound
    "fast": {"720p": 15, "1080p": 15, "4k": 35},
    "lite": {"720p": 5, "1080p": 8},
    "": {"720p": 40, "1080p": 40, "4k": 60},
}


class PredictTwin(GoogleTwin):
    """What both of Veo's interfaces share."""

    models: ClassVar[frozenset[str]]
    vertex: ClassVar[bool]
    start_s = 5.0
    render_s = 60.0

    def __init__(self, **more: Any) -> None:
        """See ProviderTwin."""
        super().__init__(**more)
        self.jobs: dict[str, Job] = {}
        self.bodies: list[Mapping[str, Any]] = []

    def begin(self, asked: Asked, parent: str) -> Response:
        """Everything that can be refused is refused before anything is charged."""
        body = asked.json(Refused(400, "Invalid JSON payload received."))
        model = parent.rpartition("/")[2]
        if model not in self.models:
            raise Refused(
                404, f"This model {parent} is no longer available. Please update your code to use a newer model."
            )
        instance, told = self._checked(body, model)
        words = asked.words(instance.get("prompt"))
        if "refused" in words:
            raise Refused(400, REFUSED)
        count, drawn = cast("int", told.get("sampleCount", 1)), self.draw()
        filtered = count if "forbidden" in words else min(1, count - 1) if "partly" in words else 0
        job = Job(
            name=f"{parent}/operations/{_uuid(drawn) if self.vertex else file_name(drawn)}",
            created_at=asked.now,
            takes=tuple(file_name(self.draw("file")) for _ in range(count - filtered)),
            filtered=filtered,
            folder=f"{told['storageUri']}{int(drawn.hex(), 16) % 10**18}/" if "storageUri" in told else "",
            error=BROKEN if "broken" in words else "",
        )
        self.jobs[job.name] = job
        self.bodies.append(body)
        if job.takes and not job.error:
            seconds = 7 if "video" in instance else cast("int", told.get("durationSeconds", 8))
            table = next(cents for word, cents in CENTS.items() if word in model)
            amount = seconds * len(job.takes) * table[str(told.get("resolution", "720p"))] * 10_000
            self.charge(job.name, asked.now, amount / 1_000_000, amount, model)
        return as_json(200, {"name": job.name})

    def look(self, asked: Asked, name: str) -> Response:
        """While it runs there is its name alone."""
        job = self.jobs.get(name)
        if job is None or self.hides(asked, name):
            raise Refused(404, f"Operation {name} was not found.")
        if self.life(job.created_at).stage(asked.now) != "over":
            return as_json(200, {"name": name})
        if job.error:
            return as_json(200, {"name": name, "done": True, "error": {"code": 13, "message": job.error}})
        return as_json(200, {"name": name, "done": True, "response": self.response(asked, job)})

    @abstractmethod
    def response(self, asked: Asked, job: Job) -> dict[str, object]:
        """What a finished operation holds."""

    def _checked(self, body: Mapping[str, Any], model: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        instances, told = body.get("instances"), body.get("parameters", {})
        if (
            not isinstance(instances, list)
            or len(cast("list[object]", instances)) != 1
            or not isinstance(told, Mapping)
        ):
            raise Refused(400, "instances: exactly one is needed.")
        instance = cast("Mapping[str, Any]", cast("list[object]", instances)[0])
        prompt = instance.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise Refused(400, "The prompt is missing.")
        references = cast("list[Mapping[str, Any]]", instance.get("referenceImages", []))
        files = [instance[name] for name in ("image", "lastFrame", "video") if name in instance]
        files += [one.get("image") for one in references]
        if not all(is_file(file, "bytesBase64Encoded") for file in files):
            raise Refused(400, "bytesBase64Encoded and mimeType are needed.")
        wrong = self._wrong(instance, references, cast("Mapping[str, Any]", told), model)
        if wrong:
            raise Refused(400, f"{wrong} is not supported by this model.")
        return instance, cast("Mapping[str, Any]", told)

    def _wrong(
        self, instance: Mapping[str, Any], references: Sequence[Mapping[str, Any]], told: Mapping[str, Any], model: str
    ) -> str:
        """What the model does not take; empty where all is well."""
        lite, longer = "lite" in model, "video" in instance
        known: dict[str, tuple[object, ...] | type] = {
            "durationSeconds": (4, 6, 8),
            "aspectRatio": ("16:9", "9:16"),
            "resolution": ("720p", "1080p") if lite else ("720p", "1080p", "4k"),
            "negativePrompt": str,
            "personGeneration": PEOPLE,
            "sampleCount": (1, 2, 3, 4) if self.vertex else (1,),
        }
        if self.vertex:
            known |= {"seed": int, "generateAudio": bool, "storageUri": str, "resizeMode": ("crop", "pad")}
            known["compressionQuality"] = ("optimized", "lossless")
        for name, value in told.items():
            allowed = known.get(name, ())
            if not (fits(value, allowed) if isinstance(allowed, type) else _among(value, allowed)):
                return f"parameters.{name}"
        if not 0 <= told.get("seed", 0) < 2**32 or not str(told.get("storageUri", "gs://")).startswith("gs://"):
            return "parameters.seed or parameters.storageUri"
        large, short = told.get("resolution", "720p") != "720p", told.get("durationSeconds", 8) != 8
        contradictions = {
            "lastFrame without image": "lastFrame" in instance and "image" not in instance,
            "referenceImages": len(references) > (0 if lite else 3)
            or any(r.get("referenceType") not in ("asset", "ASSET") for r in references),  # its SDK writes it large
            "referenceImages with another file": bool(references)
            and bool({"image", "lastFrame", "video"} & set(instance)),
            "durationSeconds": short and (large or bool(references) or longer),
            "video": longer and (large or lite or "image" in instance),
        }
        return next((what for what, holds in contradictions.items() if holds), "")


def _among(value: object, allowed: tuple[object, ...]) -> bool:
    return any(value == one and type(value) is type(one) for one in allowed)  # 8.0 is no duration


def _uuid(drawn: bytes) -> str:
    text = drawn.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:32]))


class VeoTwin(PredictTwin):
    """Vertex AI, Google's token endpoint and Cloud Storage, in one object."""

    name = "veo"
    can: ClassVar = frozenset({"moderated", "failed", "not_found"})
    models: ClassVar = frozenset({"veo-3.1-generate-001", "veo-3.1-fast-generate-001", "veo-3.1-lite-generate-001"})
    vertex: ClassVar = True

    def __init__(self, *, token_s: float | None = None, **more: Any) -> None:
        """Access tokens live so many seconds; None: for ever, as the time here may run faster than who asks knows."""
        super().__init__(**more)
        self._token_s = token_s
        self._tokens: dict[str, float] = {}
        self._account: Mapping[str, str] = {}
        self._public_key: Any = None

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        model = r"(projects/[\w-]+/locations/[\w-]+/publishers/google/models/[\w.-]+)"
        return (
            Route("", "POST", r"/token()", self._token, keyless=True),
            Route("submit", "POST", rf"{VERSION}/{model}:predictLongRunning", self.begin),
            Route("status", "POST", rf"{VERSION}/{model}:fetchPredictOperation", self._fetch),
            Route("find", "GET", r"/storage/v1/b/([\w.-]+)/o", self._list),
            Route("download", "GET", r"/storage/v1/b/([\w.-]+/o/[^/]+)", self._object),
        )

    def env(self, url: str, folder: Path) -> Mapping[str, str]:
        """A service account whose key was made just now, and whose tokens are made here. Raises ExtraMissing."""
        file = folder / "service-account.json"
        file.write_text(json.dumps(self.service_account(url)), "utf-8")
        file.chmod(0o600)
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}

    def service_account(self, url: str) -> Mapping[str, str]:
        """The key file of an account that is known here from now on, and no other. Raises ExtraMissing."""
        private_key, self._public_key = _key_pair()
        self._account = {
            "type": "service_account",
            "project_id": "emulated",
            "private_key_id": "emulated",
            "private_key": private_key,
            "client_email": "rushes@emulated.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{url}/token",
        }
        return self._account

    def admit(self, asked: Asked) -> None:
        """By a token that was made here, or the one key that is known."""
        token = asked.key
        if token is None:
            raise Refused(401, "Request is missing required authentication credential.")
        until = self._tokens.get(token)
        if until is None and not self.accepts(token):
            raise Refused(401, "Request had invalid authentication credentials.")
        if until is not None and asked.now >= until:
            raise Refused(401, "Request had invalid authentication credentials: the token has expired.")

    def response(self, asked: Asked, job: Job) -> dict[str, object]:
        """Where the clips are, or the clips."""
        del asked
        told: dict[str, object] = {"@type": "type.googleapis.com/cloud.ai.large_models.vision.GenerateVideoResponse"}
        if job.filtered:
            told |= {"raiMediaFilteredCount": job.filtered, "raiMediaFilteredReasons": [WITHHELD] * job.filtered}
        if not job.takes:
            return told
        clip = base64.b64encode(self._clip).decode()
        videos = [
            {"gcsUri": f"gs://{name}"} if job.folder else {"bytesBase64Encoded": clip} for name in self._objects(job)
        ]
        return told | {"videos": [video | {"mimeType": "video/mp4"} for video in videos]}

    def _objects(self, job: Job) -> list[str]:
        """bucket/name of each clip."""
        return [f"{job.folder.removeprefix('gs://')}sample_{number}.mp4" for number in range(len(job.takes))]

    def _fetch(self, asked: Asked, _: str) -> Response:
        return self.look(asked, str(asked.json(Refused(400, "The body is no object.")).get("operationName")))

    def _written(self, now: float) -> list[str]:
        done = [job for job in self.jobs.values() if job.folder and not job.error and self._ends_at(job) <= now]
        return [name for job in done for name in self._objects(job)]

    def _ends_at(self, job: Job) -> float:
        return self.life(job.created_at).ends_at

    def _list(self, asked: Asked, bucket: str) -> Response:
        prefix = f"{bucket}/{asked.query.get('prefix', '')}"
        found = [name for name in self._written(asked.now) if name.startswith(prefix)]
        items = [{"kind": "storage#object", "name": name.partition("/")[2], "bucket": bucket} for name in found]
        return as_json(200, {"kind": "storage#objects"} | ({"items": items} if items else {}))

    def _object(self, asked: Asked, path: str) -> Response:
        bucket, _, name = path.partition("/o/")
        if f"{bucket}/{unquote(name)}" not in self._written(asked.now) or asked.hit(ExpiredUrl):
            raise Refused(404, "No such object.")
        return self.result(asked)

    # ── Tokens ──

    def _token(self, asked: Asked, _: str) -> Response:
        """For an assertion that holds: an access token."""
        raw = next((part.content for part in asked.parts()), b"")
        form = parse_qs(raw.decode() if isinstance(raw, bytes) else str(raw))
        if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
            raise base.Refused(400, {"error": "unsupported_grant_type", "error_description": "Invalid grant_type"})
        if wrong := self._assertion_wrong(form.get("assertion", [""])[0]):
            raise base.Refused(400, {"error": "invalid_grant", "error_description": wrong})
        token = f"ya29.{self.draw('token').hex()}"
        self._tokens[token] = inf if self._token_s is None else asked.now + self._token_s
        return as_json(200, {"access_token": token, "expires_in": int(self._token_s or 3599), "token_type": "Bearer"})

    def _assertion_wrong(self, assertion: str) -> str:
        """What is wrong with it; empty where nothing is."""
        said, _, signature = assertion.rpartition(".")
        try:
            head, claims = (msgspec.json.decode(_from_url64(part), type=dict[str, Any]) for part in said.split("."))
            if self._public_key is not None:
                _verify(self._public_key, _from_url64(signature), said.encode())
        except ValueError:
            return "Invalid JWT Signature."
        if head.get("alg") != "RS256" or self._account.get("client_email", claims.get("iss")) != claims.get("iss"):
            return "Invalid grant: account not found"
        if not (claims.get("scope") and self._account.get("token_uri", claims.get("aud")) == claims.get("aud")):
            return "Invalid JWT: aud or scope."
        lives_s = float(claims.get("exp", 0)) - float(claims.get("iat", 0))
        return "" if 0 < lives_s <= 3600 else "Invalid JWT: Token must be a short-lived token (60 minutes)."


def _key_pair() -> tuple[str, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissing(GOOGLE_EXTRA) from error
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*form).decode(), key.public_key()


def _verify(public_key: Any, signature: bytes, content: bytes) -> None:
    """Raises ValueError."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415

    try:
        public_key.verify(signature, content, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise ValueError("signature") from error


def _from_url64(text: str) -> bytes:
    """Raises ValueError."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class VeoGeminiTwin(PredictTwin, FilesTwin):
    """The Gemini API as it was."""

    name = "veo_gemini"
    models: ClassVar = frozenset(
        {"veo-3.1-generate-preview", "veo-3.1-fast-generate-preview", "veo-3.1-lite-generate-preview"}
    )
    vertex: ClassVar = False

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        model = r"models/[\w.-]+"
        return (
            Route("submit", "POST", rf"{VERSION}/({model}):predictLongRunning", self.begin),
            Route("status", "GET", rf"{VERSION}/({model}/operations/[a-z0-9]+)", self.look),
            *self.files(),
        )

    def ended_at(self, file: str) -> float | None:
        """See FilesTwin."""
        job = next((job for job in self.jobs.values() if file in job.takes), None)
        return None if job is None or job.error else self.life(job.created_at).ends_at

    def response(self, asked: Asked, job: Job) -> dict[str, object]:
        """Where the clips are."""
        told: dict[str, object] = {
            "generatedSamples": [{"video": {"uri": self.address(asked, file)}} for file in job.takes]
        }
        if job.filtered:
            told |= {"raiMediaFilteredCount": job.filtered, "raiMediaFilteredReasons": [WITHHELD] * job.filtered}
        if not job.takes:
            del told["generatedSamples"]
        kind = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse"
        return {"@type": kind, "generateVideoResponse": told}


# ── Omni ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Interaction(Struct, kw_only=True):
    """One of them, as far as it does not follow from the time."""

    id: str
    file: str
    model: str
    created_at: float
    error: str
    cancelled_at: float | None = None


TASKS: Final[Mapping[str, tuple[Sequence[str], int, int]]] = {  # what comes in beside the words, and how many
    "text_to_video": ((), 0, 0),
    "image_to_video": (("image",), 1, 2),
    "reference_to_video": (("image",), 1, 10),
    "edit": (("video", "image"), 1, 10),
    "extend": (("video",), 1, 1),
}


class OmniTwin(FilesTwin):
    """Interactions that make clips. What it charges is seconds: no price of Google's is known."""

    name = "omni"
    unit = "s"
    can: ClassVar = FilesTwin.can | {"status_word"}

    start_s = 3.0
    render_s = 45.0

    def __init__(self, *, delivery: Literal["uri", "inline"] = "uri", **more: Any) -> None:
        """`delivery` is how polls tell a clip: some were seen to hold it though an address was wished."""
        super().__init__(**more)
        self._delivery = delivery
        self.interactions: dict[str, Interaction] = {}
        self.bodies: list[Mapping[str, Any]] = []

    def routes(self) -> Sequence[Route]:
        """All addresses."""
        one = rf"{VERSION}/interactions/([\w=-]+)"
        return (
            Route("submit", "POST", rf"{VERSION}/interactions()", self._create),
            Route("status", "GET", one, self._get),
            Route("cancel", "POST", f"{one}/cancel", self._cancel),
            Route("", "DELETE", one, self._delete),
            *self.files(),
        )

    def ended_at(self, file: str) -> float | None:
        """See FilesTwin."""
        made = next((one for one in self.interactions.values() if one.file == file), None)
        return None if made is None or made.error or made.cancelled_at is not None else self._ends_at(made)

    def _create(self, asked: Asked, _: str) -> Response:
        body = asked.json(Refused(400, "Invalid JSON payload received."))
        body = {**body, "input": _contents(body.get("input"))}
        if not (self._is_model(body.get("model"))):
            raise Refused(404, f"models/{body.get('model')} is not found for this API version.")
        seconds = self._checked(body)
        given = cast("list[Mapping[str, Any]]", body["input"])
        words = asked.words(next((one.get("text") for one in given if one.get("type") == "text"), ""))
        if "refused" in words:
            raise Refused(400, REFUSED)
        made = Interaction(
            id=f"v1_{base64.urlsafe_b64encode(self.draw()).decode().rstrip('=')}",
            file=file_name(self.draw("file")),
            model=str(body["model"]),
            created_at=asked.now,
            error=WITHHELD if "forbidden" in words else BROKEN if "broken" in words else "",
        )
        self.interactions[made.id] = made
        self.bodies.append(body)
        if not made.error:
            self.charge(made.id, asked.now, seconds, None, made.model)
        return self._view(asked, made)

    def _is_model(self, model: object) -> bool:
        return model in {"gemini-omni-1.1-flash", "gemini-omni-1.2-flash"}

    def _checked(self, body: Mapping[str, Any]) -> float:
        """How long the clip will be. Raises Refused."""
        if unknown := set(body) - {
            "model",
            "input",
            "response_format",
            "generation_config",
            "background",
            "store",
            "labels",
        }:
            raise Refused(400, f"Unknown name {min(unknown)!r}: cannot find field.")
        if body.get("background") is not True or body.get("store") is not True:
            raise Refused(400, "This twin answers in the background alone.")
        video = cast(
            "Mapping[str, Any]", cast("Mapping[str, Any]", body.get("generation_config", {})).get("video_config", {})
        )
        given = body.get("input")
        task = TASKS.get(str(video.get("task")))
        if task is None or not isinstance(given, list):
            raise Refused(400, "generation_config.video_config.task or input is wrong.")
        parts = cast("list[Mapping[str, Any]]", given)
        words = [one for one in parts if one.get("type") == "text" and str(one.get("text", "")).strip()]
        files = [one for one in parts if one.get("type") != "text"]
        kinds, least, most = task
        if len(words) != 1 or not least <= len(files) <= most or any(one.get("type") not in kinds for one in files):
            raise Refused(400, f"The input does not fit the task {video.get('task')}.")
        if not all(is_file(one, "data") for one in files):
            raise Refused(400, "data and mime_type are needed.")
        return self._formed(body.get("response_format"), str(body["model"]))

    def _formed(self, form: object, model: str) -> float:
        told = cast("Mapping[str, Any]", form if isinstance(form, Mapping) else {})
        longest = 15 if "1.2" in model else 10
        known = {
            "type": ("video",),
            "delivery": ("uri", "inline"),
            "aspect_ratio": ("16:9", "9:16"),
            "resolution": ("360p", "720p", "1080p", "4k"),
            "duration": tuple(f"{seconds}s" for seconds in range(3, longest + 1)),
        }
        if wrong := [name for name, value in told.items() if value not in known.get(name, ())]:
            raise Refused(400, f"response_format.{wrong[0]} is not supported.")
        if told.get("type") != "video":
            raise Refused(400, "response_format.type is needed.")
        return float(str(told.get("duration", "8s")).removesuffix("s"))

    def _find(self, asked: Asked, id: str) -> Interaction:
        if (made := self.interactions.get(id)) is None or self.hides(asked, id):
            raise Refused(404, "The interaction was not found.")
        return made

    def _get(self, asked: Asked, id: str) -> Response:
        return self._view(asked, self._find(asked, id))

    def _cancel(self, asked: Asked, id: str) -> Response:
        made = self._find(asked, id)
        if made.cancelled_at is None and asked.now >= self._ends_at(made):
            raise Refused(400, "The interaction has ended already.", word="FAILED_PRECONDITION")
        made.cancelled_at = asked.now
        return self._view(asked, made)

    def _delete(self, asked: Asked, id: str) -> Response:
        del self.interactions[self._find(asked, id).id]
        return as_json(200, {})

    def _ends_at(self, made: Interaction) -> float:
        return self.life(made.created_at).ends_at

    def _view(self, asked: Asked, made: Interaction) -> Response:
        stage = self.life(made.created_at).stage(asked.now)
        over = "failed" if made.error else "completed"
        status = {"waiting": "queued", "running": "in_progress", "over": over}[stage]
        status = asked.said("cancelled" if made.cancelled_at is not None else status)
        view: dict[str, object] = {"id": made.id, "object": "interaction", "model": made.model, "status": status}
        if status == "failed":
            view["errors"] = [{"code": "generation_failed", "message": made.error}]
        if status == "completed":
            here = {"data": base64.b64encode(self._clip).decode()}
            where = here if self._delivery == "inline" else {"uri": self.address(asked, made.file)}
            content = [{"type": "text", "text": "Here it is."}, {"type": "video", "mime_type": "video/mp4", **where}]
            view["steps"] = [{"type": "thought"}, {"type": "model_output", "content": content}]
        return as_json(200, view)


class _Turn(Struct):
    """A step of the user's."""

    type: Literal["user_input"]
    content: list[Any]


def _contents(given: object) -> object:
    """The contents of the one step that Google's own SDK makes of a list of them, or what was given."""
    try:
        return msgspec.convert(given, tuple[_Turn])[0].content
    except msgspec.ValidationError:
        return given
