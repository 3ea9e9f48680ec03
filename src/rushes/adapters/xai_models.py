"""What xAI's models take, as data: limits and defaults of the official SDK and pages.

Left out, as their names in JSON are not documented: a last frame, key frames, silence. Edits and extensions have no
price, as what a clip that comes in costs is not sure.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from rushes.adapters.capabilities import STRING, Media, Model, Option, Price, Rate, seconds
from rushes.video import REFERENCES, Config, Role

SIZES: Final = {"480p": "848x480", "720p": "1280x720", "1080p": "1920x1080"}  # of 16:9; of other ratios not told
RATIOS: Final = ("16:9", "1:1", "9:16", "4:3", "3:4", "3:2", "2:3")
STORED: Final = {"storage_filename": STRING, "storage_expires_after": Option("integer", (), 3600, 2_592_000)}
VOICES: Final = dict.fromkeys(("voice_1", "voice_2", "voice_3"), STRING)  # their names for them: eve
SEVEN: Final[dict[Role, int]] = dict.fromkeys(sorted(REFERENCES), 7)
SAID: Final = {"prompt": "prompt", "duration_seconds": "duration", "aspect_ratio": "aspect_ratio"}
STORAGE: Final = {
    "storage_filename": "storage_options.filename",
    "storage_expires_after": "storage_options.expires_after",
}
WIRE: Final = {**SAID, **STORAGE, "resolution": "resolution", "first_frame": "image", "source": "video"}
IMAGES: Final = Media(types=("image/png", "image/jpeg", "image/webp"))
CLIP: Final = Media(types=("video/mp4",), most_s=8.7)


def _price(second_micro_usd: dict[str, int], image_micro_usd: int) -> Price:
    rates = tuple(Rate({"resolution": lines}, amount) for lines, amount in second_micro_usd.items())
    images: dict[Role, int] = {"first_frame": image_micro_usd, **dict.fromkeys(SEVEN, image_micro_usd)}
    dearest, source = max(second_micro_usd.values()), "inference.sh, on xAI's models"
    return Price(per="second", micro_usd=dearest, rates=rates, per_input=images, source=source, as_of="2026-11-06")


def _newer(row: Model, **changes: Any) -> Model:
    """The same of the newer model, which makes clips and does not change any."""
    price = _price({"480p": 80_000, "720p": 140_000, "1080p": 250_000}, 10_000)
    return replace(row, id=f"{row.id}-1.5", aliases=(f"{row.id}-1.5-preview",), price=price, **changes)


EDITED: Final = Model(
    id="grok-imagine-video",
    operations=("video-to-video",),
    roles={"source": 1},
    media={"video": CLIP},
    options={"user": STRING, **STORED},
    max_prompt_chars=4096,
    draws_seed=False,
    wire=WIRE | dict.fromkeys(SEVEN, "reference_images"),
)
EXTENDED: Final = replace(
    EDITED,
    operations=("extend",),
    durations_s=seconds(2, 10),
    media={"video": replace(CLIP, least_s=2.0, most_s=15.0)},
    options=STORED,
    defaults=Config(duration_seconds=6.0),
)
WORDS: Final = replace(
    EDITED,
    operations=("text-to-video",),
    durations_s=seconds(1, 15),
    aspect_ratios=RATIOS,
    resolutions=("480p", "720p"),
    sizes={(lines, ratio): size if ratio == "16:9" else "" for lines, size in SIZES.items() for ratio in RATIOS},
    roles={},
    media={"image": IMAGES},
    defaults=Config(duration_seconds=8.0, resolution="480p"),  # without a ratio: 16:9, or the first frame's shape
    price=_price({"480p": 50_000, "720p": 70_000}, 2_000),
)
FRAMED: Final = replace(WORDS, operations=("image-to-video",), roles={"first_frame": 1})
BY_IMAGES: Final = replace(WORDS, operations=("multi-image",), roles=SEVEN, max_inputs=7)
MODELS: Final = (
    *(WORDS, FRAMED, BY_IMAGES, EDITED, EXTENDED),
    _newer(WORDS, resolutions=tuple(SIZES)),
    _newer(FRAMED, resolutions=tuple(SIZES)),
    _newer(BY_IMAGES, options={**WORDS.options, **VOICES}),
)
