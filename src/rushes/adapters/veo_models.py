"""What Google's Veo models take, as data: on Vertex AI, and on the Gemini API until it switched them off.

Limits are those of Google's pages and of its SDK's converters, 2026; prices are those of copies of its pages, with
sound, and the dearer one where they differ. What an extension costs is not sure: it has no price.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from rushes.adapters.capabilities import Media, Model, Only, Option, Price, Rate, Retirement
from rushes.video import Config, Role

LINES: Final = ("720p", "1080p", "2160p")
FRAMES: Final[dict[Role, int]] = {"first_frame": 1, "last_frame": 1}
IMAGE: Final = Media(types=("image/png", "image/jpeg"))
CLIP: Final = Media(types=("video/mp4",), most_s=141.0)
PEOPLE: Final = Option("string", ("allow_adult", "dont_allow", "allow_all"))
TAKES: Final = Option("integer", (), 1, 4)
FILL: Final = {"resizeMode": Option("string", ("crop", "pad"))}  # how a frame of another shape is made to fit
EIGHT_S: Final = Only("resolution", "duration_seconds", (8.0,), when=LINES[1:])
GEMINI: Final = {
    "duration_seconds": "durationSeconds",
    "aspect_ratio": "aspectRatio",
    "resolution": "resolution",
    "negative_prompt": "negativePrompt",
}
VERTEX: Final = GEMINI | {"seed": "seed", "generate_audio": "generateAudio"}


def _price(second_micro_usd: Mapping[str, int]) -> Price:
    """Of a second at each resolution, times the takes that are asked for."""
    rates: list[Rate] = []
    for count in (4, 3, 2):
        rates += [
            Rate({"sampleCount": count, "resolution": lines}, count * one) for lines, one in second_micro_usd.items()
        ]
    rates += [Rate({"resolution": lines}, one) for lines, one in second_micro_usd.items()]
    dearest = max(rate.micro_usd for rate in rates)
    source = "Google's prices, in copies of 2026"
    return Price(per="second", micro_usd=dearest, rates=tuple(rates), source=source, as_of="2026-11-21")


def _rows(words: Model) -> tuple[Model, ...]:
    """From words, from frames, from up to three pictures of what is in it, and after a clip."""
    framed = replace(words, operations=("image-to-video",), roles=FRAMES, media={"image": IMAGE})
    shown = replace(
        words, operations=("multi-image",), durations_s=(8.0,), roles={"character": 3}, media={"image": IMAGE}
    )
    defaults = replace(words.defaults, duration_seconds=7.0)
    wire = {ours: theirs for ours, theirs in words.wire.items() if ours != "duration_seconds"}  # it is always seven
    longer = replace(words, operations=("extend",), durations_s=(7.0,), resolutions=LINES[:1], only=(), wire=wire)
    longer = replace(longer, roles={"source": 1}, media={"video": CLIP}, defaults=defaults, price=None)
    return words, replace(framed, options={**words.options, **FILL}), shown, longer


def _row(id: str, second_micro_usd: Mapping[str, int], **changes: Any) -> Model:
    words = Model(
        id=id,
        operations=("text-to-video",),
        durations_s=(4.0, 6.0, 8.0),
        aspect_ratios=("16:9", "9:16"),
        resolutions=tuple(second_micro_usd),
        fields=frozenset({"negative_prompt", "seed", "generate_audio"}),
        options={
            "personGeneration": PEOPLE,
            "sampleCount": TAKES,
            "compressionQuality": Option("string", ("optimized", "lossless")),
        },
        only=(EIGHT_S,),
        defaults=Config(duration_seconds=8.0, aspect_ratio="16:9", resolution="720p", generate_audio=True),
        max_seed=2**32 - 1,
        wire=VERTEX,
        price=_price(second_micro_usd),
    )
    return replace(words, **changes)


FULL: Final = _row("veo-3.1-generate-001", {"720p": 400_000, "1080p": 400_000, "2160p": 600_000})
FAST: Final = _row("veo-3.1-fast-generate-001", {"720p": 150_000, "1080p": 150_000, "2160p": 350_000})
LITE: Final = _row("veo-3.1-lite-generate-001", {"720p": 50_000, "1080p": 80_000})
MODELS: Final = (*_rows(FULL), *_rows(FAST), *_rows(LITE)[:2])
RETIRED: Final = {
    "veo-3.0-generate-001": Retirement("2026-06-30", FULL.id),
    "veo-3.0-fast-generate-001": Retirement("2026-06-30", FAST.id),
    "veo-2.0-generate-001": Retirement("2026-06-30", FULL.id),
    "veo-3.1-generate-preview": Retirement("2026-04-02", FULL.id),
    "veo-3.1-fast-generate-preview": Retirement("2026-04-02", FAST.id),
}


def _by_key(row: Model) -> Model:
    """The same on the Gemini API: its clips always have sound, and it takes neither a seed nor several takes."""
    options: dict[str, Option] = {"personGeneration": PEOPLE}
    defaults = replace(row.defaults, generate_audio=None)
    price = row.price and replace(
        row.price, rates=tuple(rate for rate in row.price.rates if "sampleCount" not in rate.when)
    )
    price = price and replace(price, micro_usd=max(rate.micro_usd for rate in price.rates))
    name = row.id.replace("-001", "-preview")
    row = replace(row, id=name, options=options, defaults=defaults, price=price, wire=GEMINI, draws_seed=False)
    return replace(row, fields=frozenset({"negative_prompt"}))


GEMINI_MODELS: Final = tuple(_by_key(row) for row in MODELS if row.operations != ("extend",))
GEMINI_RETIRED: Final = {
    row.id: Retirement("2026-10-22", "gemini-omni-1.1-flash", provider="omni") for row in GEMINI_MODELS
}
