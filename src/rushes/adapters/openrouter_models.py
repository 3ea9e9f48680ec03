"""OpenRouter's models: what each of them takes, and what it costs.

Values, frames, names of options and prices are those of its own list, GET /videos/models, in public copies of
2026-10-09. The rest comes from elsewhere: that Grok takes 7 references is its maker's word, that Seedance takes 9 is
said by others that serve it, and 3 for Wan are what OpenRouter's guide shows. No list tells which models go on with a
job: these are the ones whose descriptions speak of it, and one that does not refuses it before it costs anything.

Not in the data: options whose values nobody lists, and those of makers whose name in a request is not documented, as a
wrong one is dropped in silence; sounds and clips as references. Seedance is paid by tokens, so its price is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final

from msgspec.structs import replace

from rushes.adapters.capabilities import Media, Model, Option, Price, Rate, Retirement
from rushes.faults import bad
from rushes.video import JSON, Config, Role

REFERENCES: Final[tuple[Role, ...]] = ("character", "style", "composition")
FRAMES: Final[tuple[Role, ...]] = ("first_frame", "last_frame")
WIRE: Final[dict[str, str]] = {
    "prompt": "prompt",
    "duration_seconds": "duration",
    "resolution": "resolution",
    "aspect_ratio": "aspect_ratio",
    "seed": "seed",
    "generate_audio": "generate_audio",
    **dict.fromkeys(FRAMES, "frame_images"),
    **dict.fromkeys(REFERENCES, "input_references"),
    "source": "previous_job_id",
}
WORDS: Final[Mapping[str, Mapping[Any, str]]] = {"resolution": {"1440p": "2K", "2160p": "4K"}}
MAKERS: Final = {"google": "google-vertex", "alibaba": "alibaba"}  # whose models → who they are in a request's options
IMAGES: Final = Media(types=("image/png", "image/jpeg", "image/webp"), max_bytes=18 * 2**20)  # two fit into a request
OWN: Final = Media(types=("video/mp4",), own="openrouter", own_model=True)  # which goes by its job's name
WIDE: Final = "16:9 9:16"
FIVE: Final = f"{WIDE} 1:1 4:3 3:4"
SIX: Final = f"{FIVE} 21:9"
SOUND: Final = "seed generate_audio"
SD, HD, FHD, UHD = (dict[str, JSON](resolution=lines) for lines in ("480p", "720p", "1080p", "2160p"))
MUTE: Final[dict[str, JSON]] = {"generate_audio": False}


def _price(dearest_usd: float, *rates: tuple[float, Mapping[str, JSON]], image_usd: float = 0.0) -> Price:
    """US dollars for a second of video, and for each image beside it."""
    roles: tuple[Role, ...] = (*FRAMES, *REFERENCES) if image_usd else ()
    return Price(
        per="second",
        micro_usd=round(dearest_usd * 1e6),
        rates=tuple(Rate(when, round(usd * 1e6)) for usd, when in rates),
        per_input=dict.fromkeys(roles, round(image_usd * 1e6)),
        source="https://openrouter.ai/api/v1/videos/models",
        as_of="2026-10-09",
    )


PRICES: Final = {
    "x-ai/grok-imagine-video": _price(0.07, (0.05, SD), image_usd=0.002),
    "google/veo-3.1": _price(0.6, (0.4, UHD | MUTE), (0.2, MUTE), (0.4, HD), (0.4, FHD)),
    "google/veo-3.1-fast": _price(0.3, (0.25, UHD | MUTE), (0.08, HD | MUTE), (0.1, MUTE), (0.1, HD), (0.12, FHD)),
    "google/veo-3.1-lite": _price(0.08, (0.03, HD | MUTE), (0.05, MUTE), (0.05, HD)),
    "alibaba/wan-3.0": _price(0.2, (0.05, SD), (0.1, HD)),
    "alibaba/wan-2.7": _price(0.1),
    "kwaivgi/kling-v3.0-pro": _price(0.168, (0.112, MUTE)),
    "kwaivgi/kling-v3.0-std": _price(0.126, (0.084, MUTE)),
    "black-forest-labs/flux-3-video": _price(0.29, (0.17, HD)),
}


def _model(id: str, seconds: Sequence[int], ratios: str, lines: str, frames: int, fields: str, **passed: str) -> Model:
    """From words, or from so many frames. `passed`: fields that go to the maker under its own names."""
    known = frozenset((*fields.split(), *passed))
    sound = True if "generate_audio" in known else None  # as when nothing is said: here it is said
    return Model(
        id=id,
        operations=("text-to-video", "image-to-video"),
        durations_s=tuple(map(float, seconds)),
        aspect_ratios=tuple(ratios.split()),  # none by default: beside an image it would stretch the image
        resolutions=tuple(lines.split()),
        roles=dict.fromkeys(FRAMES[:frames], 1),
        media={"image": IMAGES},
        fields=known,
        defaults=Config(duration_seconds=5.0 if 5 in seconds else 4.0, resolution="720p", generate_audio=sound),
        draws_seed="seed" in known,
        wire=WIRE | passed,
        words=WORDS,
        price=PRICES.get(id),
    )


def _like(model: Model, id: str, **changes: Any) -> Model:
    """The same under another name, at that one's price."""
    return replace(model, id=id, price=PRICES.get(id), **changes)


def _guided(model: Model, most: int) -> Model:
    """From references alone: beside frames they are ignored. The wire does not tell their roles apart."""
    roles = dict.fromkeys(REFERENCES, most)
    return replace(model, operations=("multi-image",), roles=roles, max_inputs=most, general="character")


def _going_on(model: Model, *operations: str, price: Price | None = None) -> Model:
    """After a job that the same model has done, and in its shape."""
    alone = replace(model, operations=operations, roles={"source": 1}, media={"video": OWN}, price=price)
    return replace(alone, aspect_ratios=(), sizes={})


GROK: Final = _model("x-ai/grok-imagine-video", range(1, 16), f"{FIVE} 3:2 2:3", "480p 720p", 1, "")
VEO: Final = replace(
    _model("google/veo-3.1", (4, 6, 8), WIDE, "720p 1080p 2160p", 2, SOUND, negative_prompt="negativePrompt"),
    options={"personGeneration": Option("string", ("allow_adult", "allow_all"))},
)
WAN_3: Final = _model("alibaba/wan-3.0", range(2, 31), FIVE, "480p 720p 1080p", 1, SOUND)
PASSED: Final = {"negative_prompt": "negative_prompt", "enhance_prompt": "prompt_extend"}
WAN_2_7: Final = _model("alibaba/wan-2.7", range(2, 11), FIVE, "720p 1080p", 2, SOUND, **PASSED)
KLING: Final = _model("kwaivgi/kling-v3.0-pro", range(3, 16), f"{WIDE} 1:1", "720p", 2, "generate_audio")
SEEDANCE: Final = _model("bytedance/seedance-2.0", range(4, 16), f"{SIX} 9:21", "480p 720p 1080p 2160p", 2, SOUND)
SEEDANCE_FAST: Final = _like(SEEDANCE, "bytedance/seedance-2.0-fast", resolutions=("480p", "720p"))
SIZES: Final = "854x480 480x854 640x640 752x560 560x752 992x432 1280x720 720x1280 960x960 1112x834 834x1112 1470x630"
SEEDANCE_2_5: Final = replace(
    _model("bytedance/seedance-2.5", range(4, 31), SIX, "480p 720p", 2, SOUND),
    sizes=dict(zip(product(("480p", "720p"), SIX.split()), SIZES.split(), strict=True)),
)
FLUX: Final = _model("black-forest-labs/flux-3-video", range(5, 21), SIX, "720p 1080p", 2, "generate_audio")
MODELS: Final = (
    *(GROK, _guided(GROK, 7)),
    *(VEO, _like(VEO, "google/veo-3.1-fast"), _like(VEO, "google/veo-3.1-lite", resolutions=("720p", "1080p"))),
    *(WAN_3, WAN_2_7, _guided(WAN_2_7, 3)),
    *(KLING, _like(KLING, "kwaivgi/kling-v3.0-std")),
    *(SEEDANCE, _guided(SEEDANCE, 9), SEEDANCE_FAST, _guided(SEEDANCE_FAST, 9)),
    *(SEEDANCE_2_5, _going_on(SEEDANCE_2_5, "extend", "video-to-video")),
    *(FLUX, _going_on(FLUX, "extend", price=_price(0.53, (0.41, HD)))),
)
RETIRED: Final = {"openai/sora-2-pro": Retirement("2026-09-24")}  # the day that its maker had announced


def maker_of(row: Model, name: str) -> str:
    """The name that options go to the maker under. Raises BadRequest: under a wrong one they are dropped in silence."""
    house = row.id.partition("/")[0]
    if house not in MAKERS:
        field = next((ours for ours, theirs in row.wire.items() if theirs == name), f"provider_options.{name}")
        detail = f"Nobody here knows under which name openrouter passes {field!r} on to {house}: leave it out."
        raise bad(field, detail, "unsupported_feature")
    return MAKERS[house]
