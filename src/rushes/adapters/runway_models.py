"""What Runway's models take, as data: its own models, and those of other houses behind the same wire.

Limits are from Runway's OpenAPI document of August 2026, credits from its API reference of April 2026; a price of None
was found nowhere. A length is always sent where a model takes one, and a shape where its sizes are in pixels: some
models demand them, and what the others do without is not said. `outputFormat` is not offered: ProRes and PNG frames are
no clips that we keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

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


def _sizes(ratios: tuple[str, ...], lines: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """On the wire a size stands for lines and one of the ratios."""
    return {(name, ratio): size for name, row in lines.items() for ratio, size in zip(ratios, row.split(), strict=True)}


RATIOS: Final = ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16")
GEN4_SIZES: Final = _sizes(RATIOS, {"720p": "1584x672 1280x720 1104x832 960x960 832x1104 720x1280"})
SIZES: Final = _sizes(
    RATIOS,
    {
        "480p": "992x432 864x496 752x560 640x640 560x752 496x864",
        "720p": "1470x630 1280x720 1112x834 960x960 834x1112 720x1280",
        "1080p": "2206x946 1920x1080 1664x1248 1440x1440 1248x1664 1080x1920",
        "2160p": "3840x1646 3840x2160 3840x2880 3840x3840 2880x3840 2160x3840",
    },
)
HORSE_SIZES: Final = _sizes(
    RATIOS[1:],
    {
        "720p": "1280x720 1108x832 960x960 832x1108 720x1280",
        "1080p": "1920x1080 1662x1248 1440x1440 1248x1662 1080x1920",
    },
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
SHAPELESS: Final[Mapping[str, Any]] = {"aspect_ratios": (), "resolutions": ()}  # as the clip before it
ENDS: Final[Mapping[Role, int]] = {"first_frame": 1, "last_frame": 1}
MODERATION: Final = {"publicFigureThreshold": Option("string", ("auto", "low"))}


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


GEN4: Final = Model(
    id="gen4.5",
    operations=("text-to-video",),
    aliases=("gen-4.5", "gen45"),
    durations_s=seconds(2, 10),
    aspect_ratios=("16:9", "9:16"),
    resolutions=("720p",),
    sizes=GEN4_SIZES,
    media=_media(),
    fields=frozenset({"seed"}),
    options=MODERATION,
    defaults=Config(aspect_ratio="16:9", duration_seconds=5.0, resolution="720p"),
    max_prompt_chars=1000,
    max_seed=2**32 - 1,
    wire=WIRE,
    price=_per_second(12),
)
GEN4_MOVING: Final = replace(GEN4, operations=("image-to-video",), aspect_ratios=RATIOS, roles={"first_frame": 1})
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
    defaults=Config(aspect_ratio="16:9", resolution="720p"),
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
    max_seed=2**32 - 1,
    wire=WIRE | dict.fromkeys(ENDS, "keyframes") | {"aspect_ratio": "targetAspectRatio", "source": "videoUri"},
)
VEO: Final = replace(
    GEN4,
    id="veo3.1",
    operations=("text-to-video", "image-to-video"),
    aliases=("veo-3.1",),
    durations_s=(4.0, 6.0, 8.0),
    resolutions=("720p", "1080p"),
    sizes=SIZES,
    roles=ENDS,
    fields=frozenset({"generate_audio", "negative_prompt"}),
    options={},
    defaults=Config(aspect_ratio="16:9", duration_seconds=4.0, resolution="720p", generate_audio=True),
    prompt="optional",
    price=_per_second(40, silent=20),
)
SEEDANCE: Final = replace(
    VEO,
    id="seedance2",
    aliases=("seedance-2", "seedance-2.0"),
    durations_s=seconds(4, 15),
    aspect_ratios=RATIOS,
    resolutions=("480p", "720p", "1080p", "2160p"),
    fields=frozenset({"generate_audio"}),
    defaults=replace(VEO.defaults, duration_seconds=5.0),
    max_prompt_chars=3500,
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
    GEN4,
    id="gemini_omni_flash",
    aliases=("gemini-omni-flash",),
    operations=("text-to-video", "image-to-video"),
    durations_s=seconds(3, 10),
    roles={"first_frame": 1},
    fields=frozenset(),
    options={},
    prompt="optional",
    max_prompt_chars=4000,
    price=None,
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
    OMNI,
    id="hailuo3",
    aliases=("hailuo-3",),
    durations_s=seconds(5, 15),
    aspect_ratios=RATIOS,
    resolutions=("768p", "1440p"),
    sizes={},
    defaults=Config(duration_seconds=5.0, resolution="768p"),
    prompt="required",
    max_prompt_chars=6000,
    wire=WIRE | {"resolution": "resolution"},
)
HORSE: Final = replace(
    OMNI,
    id="happyhorse_1_0",
    operations=("text-to-video",),
    aliases=("happyhorse-1.0", "happyhorse"),
    durations_s=seconds(3, 15),
    aspect_ratios=RATIOS[1:],
    resolutions=("720p", "1080p"),
    sizes=HORSE_SIZES,
    roles={},
    max_prompt_chars=2500,
)
HORSE_MOVING: Final = replace(  # its shape is the image's
    HORSE,
    operations=("image-to-video",),
    aspect_ratios=(),
    roles={"first_frame": 1},
    defaults=Config(duration_seconds=5.0, resolution="720p"),
    wire=WIRE | {"resolution": "resolution"},
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
    GEN4,
    GEN4_MOVING,
    TURBO,
    ACT_TWO,
    ALEPH,
    VEO,
    replace(VEO, id="veo3.1_fast", aliases=("veo-3.1-fast",), price=_per_second(15, silent=10)),
    *_borrowing(SEEDANCE, images=9, clips=3, sounds=3, total_s=15.0),
    *_borrowing(replace(SMALL, id="seedance2_fast", aliases=("seedance-2-fast",)), 9, 3, 3, 15.0),
    *_borrowing(replace(SMALL, id="seedance2_mini", aliases=("seedance-2-mini",)), 9, 3, 3, 15.0),
    *_borrowing(SEEDANCE_5, images=30, clips=9, sounds=10, total_s=30.0),
    LONGER,
    OMNI,
    OMNI_EDIT,
    replace(HAILUO_WORDS, defaults=replace(HAILUO.defaults, aspect_ratio="16:9")),  # others follow what they are given
    *HAILUO_OTHERS,
    HORSE,
    HORSE_MOVING,
    UPSCALER,
)

RETIRED: Final = {  # no page states a day but of upscale_v1: the first copy of the document without the model
    "gen3a_turbo": Retirement("2026-06-10", "gen4_turbo"),
    "gen4_aleph": Retirement("2026-06-10", "aleph2"),
    "upscale_v1": Retirement("2026-01-17", "magnific_video_upscaler_creative"),
    "veo3": Retirement("2026-08-08", "veo3.1"),
}
