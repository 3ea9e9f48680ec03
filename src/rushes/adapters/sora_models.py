"""What Sora's models took until they were switched off, as data: OpenAI's specification, and its guide's longer clips.

There are no prices: those of OpenAI buy nothing any more, and what a gateway takes is its own. A server's own models
are added in rushes.toml, like one of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta
from msgspec.structs import replace

from rushes.adapters.capabilities import BOOLEAN, Media, Model, Option, Retirement, Shaped
from rushes.video import Config

SECONDS: Final = (4.0, 8.0, 12.0, 16.0, 20.0)  # the specification stops at 12
SIZES: Final = {("720p", "9:16"): "720x1280", ("720p", "16:9"): "1280x720"}
PRO_SIZES: Final = {
    **SIZES,
    ("1024p", "4:7"): "1024x1792",
    ("1024p", "7:4"): "1792x1024",
    ("1080p", "9:16"): "1080x1920",
    ("1080p", "16:9"): "1920x1080",
}
Pictures = Annotated[list[Literal["thumbnail", "spritesheet"]], Meta(min_length=1, max_length=2)]
OURS: Final = {  # none of these is sent with a job: they say how it is waited for, found again, and what is fetched
    "mark_prompt": BOOLEAN,
    "poll_interval_seconds": Option("number", least=0.1, most=600.0),
    "poll_timeout_seconds": Option("number", least=60.0, most=86_400.0),
    "variants": Shaped("array", shape=Pictures, examples=(["thumbnail", "spritesheet"], ["thumbnail"])),
}
IMAGE: Final = Media(types=("image/png", "image/jpeg", "image/webp"))
CLIP: Final = Media(types=("video/mp4",), most=1)
SHAPE: Final = {"prompt": "prompt", "duration_seconds": "seconds", "resolution": "size"}


def _rows(id: str, sizes: Mapping[tuple[str, str], str], *aliases: str) -> tuple[Model, ...]:
    words = Model(
        id=id,
        aliases=aliases,
        operations=("text-to-video",),
        durations_s=SECONDS,
        aspect_ratios=tuple(dict.fromkeys(ratio for _, ratio in sizes)),
        resolutions=tuple(dict.fromkeys(lines for lines, _ in sizes)),
        sizes=sizes,
        options=OURS,
        defaults=Config(duration_seconds=4.0, aspect_ratio="9:16", resolution="720p"),
        max_prompt_chars=32_000,
        draws_seed=False,
        wire=SHAPE,
    )
    pictures = replace(
        words,
        operations=("image-to-video",),
        roles={"first_frame": 1},
        media={"image": IMAGE},
        wire={**SHAPE, "first_frame": "input_reference"},
    )
    clips = replace(  # what comes in gives its own shape
        words,
        aspect_ratios=(),
        resolutions=(),
        sizes={},
        roles={"source": 1},
        media={"video": CLIP},
    )
    told = {"prompt": "prompt", "source": "video"}
    edited = replace(clips, operations=("video-to-video",), durations_s=(), defaults=Config(), wire=told)
    lasting = {**told, "duration_seconds": "seconds"}
    extended = replace(clips, operations=("extend",), defaults=Config(duration_seconds=4.0), wire=lasting)
    return words, pictures, edited, extended


MODELS: Final = (*_rows("sora-2", SIZES, "sora", "sora-1"), *_rows("sora-2-pro", PRO_SIZES))
OFF: Final = ("sora-2", "sora-2-pro", "sora-2-2025-10-06", "sora-2-2025-12-08", "sora-2-pro-2025-10-06")
RETIRED: Final = {name: Retirement("2026-09-24") for name in OFF}  # and nothing replaces them
