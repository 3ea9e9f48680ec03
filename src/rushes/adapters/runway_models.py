"""What Runway's models take, as data: its own models, and those of other houses behind the same wire.

Limits are from Runway's OpenAPI document of August 2026, credits from its API reference of April 2026; a price of None
was found nowhere. A length is always sent where a model takes one, and a shape where its sizes are in pixels: some
models demand them, and what the others do without is not said. `outputFormat` is not offered: ProRes and PNG frames are
no clips that we keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from rushes.adapters.capabilities import BOOLEAN, Media, Model, Option, Price, Rate, Retirement, seconds
from rushes.video import REFERENCES, Config, Kind, Role

CREDIT_MICRO_USD: Final = 10_000
PRICED: Final = "2026-04-21"
UPLOAD_BYTES: Final = 200_000_000
EXTENSIONS: Final[Mapping[Kind, Mapping[str, str]]] = {  # what it reads, with how a file's name then ends
    "image": {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"},
    "video": {"video/mp4": "mp4", "video/quicktime": "mov", "video/webm": "webm"},
    "audio": {"audio/mpeg": "mp3", "audio/wav": "wav", "audio/mp4": "m4a"},  # not said which: these are the usual ones
}
Sizes: TypeAlias = dict[tuple[str, str], str]


def _sizes(ratios: str, *rows: str) -> Sizes:
    """On the wire a size stands for lines, with which its row begins, and one of the ratios."""
    table = [row.split() for row in rows]
    return {(lines, ratio): size for lines, *sizes in table for ratio, size in zip(ratios.split(), sizes, strict=True)}


WIDE: Final = "16:9 9:16"
FIVE: Final = "16:9 4:3 1:1 3:4 9:16"
SIX: Final = f"21:9 {FIVE}"
GEN4_SIZES: Final = _sizes(SIX, "720p 1584x672 1280x720 1104x832 960x960 832x1104 720x1280")
SIZES: Final = _sizes(
    SIX,
    "480p 992x432 864x496 752x560 640x640 560x752 496x864",
    "720p 1470x630 1280x720 1112x834 960x960 834x1112 720x1280",
    "1080p 2206x946 1920x1080 1664x1248 1440x1440 1248x1664 1080x1920",
    "2160p 3840x1646 3840x2160 3840x2880 3840x3840 2880x3840 2160x3840",
)
HORSE_SIZES: Final = _sizes(
    FIVE,
    "720p 1280x720 1108x832 960x960 832x1108 720x1280",
    "1080p 1920x1080 1662x1248 1440x1440 1248x1662 1080x1920",
)
WIRE: Final[dict[str, str]] = {
    "prompt": "promptText",
    "resolution": "ratio",  # which is the size that both make
    "aspect_ratio": "ratio",
    "duration_seconds": "duration",
    "seed": "seed",
    "generate_audio": "audio",
    "negative_prompt": "negativePrompt",
    "first_frame": "promptImage",
    "last_frame": "promptImage",
    **dict.fromkeys(sorted(REFERENCES), "references"),  # not told apart
    "source": "promptVideo",
    "reference_video": "referenceVideos",
    "reference_audio": "referenceAudio",
}
BY_LINES: Final = WIRE | {"resolution": "resolution"}
SHAPELESS: Final[Mapping[str, Any]] = {"aspect_ratios": (), "resolutions": ()}  # as the clip before it
ENDS: Final[Mapping[Role, int]] = {"first_frame": 1, "last_frame": 1}
BOTH: Final = ("text-to-video", "image-to-video")
MODERATION: Final = {"publicFigureThreshold": Option("string", ("auto", "low"))}
DEFAULTS: Final = Config(aspect_ratio="16:9", duration_seconds=5.0, resolution="720p")
HEARD: Final = replace(DEFAULTS, generate_audio=True)
MAX_SEED: Final = 2**32 - 1


def _per_second(credits: int, silent: int = 0) -> Price:
    rates = (Rate({"generate_audio": False}, silent * CREDIT_MICRO_USD),) if silent else ()
    source = f"Runway's API reference: at most {credits} credits a second, 0.01 USD each"
    return Price(per="second", micro_usd=credits * CREDIT_MICRO_USD, rates=rates, source=source, as_of=PRICED)


def _media(images: int | None = None, total_s: float | None = None, **clip_s: float) -> dict[Kind, Media]:
    """So many images; clips that are so long together, and sounds, too; `clip_s` are limits of each clip."""
    files: dict[Kind, Media]
    files = {kind: Media(types=tuple(known), max_bytes=UPLOAD_BYTES) for kind, known in EXTENSIONS.items()}
    files["image"] = replace(files["image"], most=images)
    files["video"] = replace(files["video"], total_s=total_s, **clip_s)
    files["audio"] = replace(files["audio"], total_s=total_s)
    return files


def _borrowing(model: Model, images: int, clips: int, sounds: int, total_s: float) -> tuple[Model, ...]:
    """A model that takes references of every kind: where they go differs by the operation."""
    model = replace(model, media=_media(images, total_s))
    pictures: dict[Role, int] = dict.fromkeys(sorted(REFERENCES), images)
    sound: dict[Role, int] = {"reference_audio": sounds}
    others: dict[Role, int] = {"source": 1, "reference_video": clips}
    return (
        replace(model, operations=("text-to-video",), roles=sound, prompt="required"),
        replace(model, operations=("image-to-video",), roles={**ENDS, **sound}),
        replace(model, operations=("multi-image",), roles={**pictures, **sound}, prompt="required"),
        replace(model, operations=("video-to-video",), roles={**others, **pictures, **sound}),
    )


def _model(
    id: str, aliases: str, durations_s: tuple[float, ...], ratios: str, lines: str, sizes: Sizes, most_chars: int
) -> Model:
    """From words, with nothing but a shape and a length."""
    return Model(
        id=id,
        operations=("text-to-video",),
        aliases=tuple(aliases.split()),
        durations_s=durations_s,
        aspect_ratios=tuple(ratios.split()),
        resolutions=tuple(lines.split()),
        sizes=sizes,
        media=_media(),
        defaults=DEFAULTS,
        max_prompt_chars=most_chars,
        max_seed=MAX_SEED,
        wire=WIRE,
    )


GEN4: Final = replace(
    _model("gen4.5", "gen-4.5 gen45", seconds(2, 10), WIDE, "720p", GEN4_SIZES, 1000),
    fields=frozenset({"seed"}),
    options=MODERATION,
    price=_per_second(12),
)
GEN4_MOVING: Final = replace(
    GEN4, operations=("image-to-video",), aspect_ratios=tuple(SIX.split()), roles={"first_frame": 1}
)
TURBO: Final = replace(
    GEN4_MOVING, id="gen4_turbo", aliases=("gen-4-turbo", "gen4-turbo"), prompt="optional", price=_per_second(5)
)
ACT_TWO: Final = replace(
    GEN4_MOVING,
    id="act_two",
    operations=("character-performance",),
    aliases=("act-two",),
    durations_s=(),  # as long as the performance
    roles={"performance": 1, "character": 1, "source": 1},
    max_inputs=2,
    general="character",
    media=_media(least_s=3.0, most_s=30.0),  # the performance; of the character's clip nothing is said
    options=MODERATION | {"bodyControl": BOOLEAN, "expressionIntensity": Option("integer", least=1, most=5)},
    defaults=replace(DEFAULTS, duration_seconds=None),
    prompt="none",
    wire=WIRE | {"performance": "reference", "character": "character", "source": "character"},
    price=_per_second(5),
)
ALEPH: Final = Model(
    id="aleph2",
    operations=("video-to-video",),
    aliases=("aleph-2",),
    aspect_ratios=("16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "21:9"),  # what is around the clip is made up
    roles={"source": 1, **ENDS},
    media=_media(most_s=30.0),
    fields=frozenset({"seed"}),
    options=MODERATION,
    prompt="optional",
    max_prompt_chars=1000,
    max_seed=MAX_SEED,
    wire=WIRE | dict.fromkeys(ENDS, "keyframes") | {"aspect_ratio": "targetAspectRatio", "source": "videoUri"},
)
VEO: Final = replace(
    _model("veo3.1", "veo-3.1", (4.0, 6.0, 8.0), WIDE, "720p 1080p", SIZES, 1000),
    operations=BOTH,
    roles=ENDS,
    fields=frozenset({"generate_audio", "negative_prompt"}),
    defaults=replace(HEARD, duration_seconds=4.0),
    prompt="optional",
    price=_per_second(40, silent=20),
)
SEEDANCE: Final = replace(
    _model("seedance2", "seedance-2 seedance-2.0", seconds(4, 15), SIX, "480p 720p 1080p 2160p", SIZES, 3500),
    fields=frozenset({"generate_audio"}),
    defaults=HEARD,
    prompt="optional",
    price=_per_second(36),
)
SMALL: Final = replace(SEEDANCE, resolutions=("480p", "720p"), price=None)
SEEDANCE_5: Final = replace(
    SMALL,
    id="seedance2_5",
    aliases=("seedance-2.5",),
    durations_s=seconds(4, 30),
    sizes=SIZES | {("480p", "16:9"): "854x480", ("480p", "9:16"): "480x854"},
    max_prompt_chars=15_000,
)
LONGER: Final = replace(  # its default of 5 s would not hold the clip before it: the length is what is added
    SEEDANCE_5,
    operations=("extend",),
    **SHAPELESS,
    roles={"source": 1},
    media=_media(total_s=30.0),
    defaults=Config(duration_seconds=5.0, generate_audio=True),
    prompt="required",
)
OMNI: Final = replace(
    _model("gemini_omni_flash", "gemini-omni-flash", seconds(3, 10), WIDE, "720p", GEN4_SIZES, 4000),
    operations=BOTH,
    roles={"first_frame": 1},
    prompt="optional",
)
OMNI_EDIT: Final = replace(
    OMNI,
    operations=("video-to-video",),
    durations_s=(),
    **SHAPELESS,
    roles={"source": 1, **dict.fromkeys(sorted(REFERENCES), 5)},
    media=_media(5, most_s=10.0),
    defaults=Config(),
    prompt="required",
    wire=WIRE | {"source": "videoUri"},
)
HAILUO: Final = replace(
    _model("hailuo3", "hailuo-3", seconds(5, 15), SIX, "768p 1440p", {}, 6000),
    defaults=Config(duration_seconds=5.0, resolution="768p"),
    wire=BY_LINES,
)
HORSE: Final = replace(
    _model("happyhorse_1_0", "happyhorse-1.0 happyhorse", seconds(3, 15), FIVE, "720p 1080p", HORSE_SIZES, 2500),
    prompt="optional",
)
HORSE_MOVING: Final = replace(  # its shape is the image's
    HORSE,
    operations=("image-to-video",),
    aspect_ratios=(),
    roles={"first_frame": 1},
    defaults=replace(DEFAULTS, aspect_ratio=None),
    wire=BY_LINES,
)
UPSCALER: Final = Model(
    id="magnific_video_upscaler_creative",
    operations=("upscale",),
    aliases=("magnific",),
    resolutions=("720p", "1440p", "2160p"),  # and "1k": how many lines that is, is not said
    roles={"source": 1},
    media=_media(most_s=30.0),
    options=dict.fromkeys(("creativity", "sharpen", "smartGrain"), Option("integer", least=0, most=100))
    | {"flavor": Option("string", ("vivid", "natural")), "fpsBoost": BOOLEAN},
    defaults=Config(resolution="1440p"),  # theirs
    prompt="none",
    wire={"resolution": "resolution", "source": "videoUri"},
)
HAILUO_WORDS, *HAILUO_OTHERS = _borrowing(HAILUO, images=9, clips=2, sounds=3, total_s=15.0)
MODELS: Final = (
    *(GEN4, GEN4_MOVING, TURBO, ACT_TWO, ALEPH),
    *(VEO, replace(VEO, id="veo3.1_fast", aliases=("veo-3.1-fast",), price=_per_second(15, silent=10))),
    *_borrowing(SEEDANCE, images=9, clips=3, sounds=3, total_s=15.0),
    *_borrowing(replace(SMALL, id="seedance2_fast", aliases=("seedance-2-fast",)), 9, 3, 3, 15.0),
    *_borrowing(replace(SMALL, id="seedance2_mini", aliases=("seedance-2-mini",)), 9, 3, 3, 15.0),
    *_borrowing(SEEDANCE_5, images=30, clips=9, sounds=10, total_s=30.0),
    *(LONGER, OMNI, OMNI_EDIT),
    replace(HAILUO_WORDS, defaults=replace(HAILUO.defaults, aspect_ratio="16:9")),  # others follow what they are given
    *(*HAILUO_OTHERS, HORSE, HORSE_MOVING, UPSCALER),
)
RETIRED: Final = {  # no page states a day but of upscale_v1: the first copy of the document without the model
    "gen3a_turbo": Retirement("2026-06-10", "gen4_turbo"),
    "gen4_aleph": Retirement("2026-06-10", "aleph2"),
    "upscale_v1": Retirement("2026-01-17", "magnific_video_upscaler_creative"),
    "veo3": Retirement("2026-08-08", "veo3.1"),
}
