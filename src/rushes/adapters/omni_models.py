"""What the Gemini Omni models take, as data.

Limits are those of Google's pages of autumn 2026, the lower one where they differ; a request has 20 MB at most, and
files stand in it as base64. How an extension's length, or a last frame, is told is not documented: left out. No dated
price of Google's is known.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from rushes.adapters.capabilities import Media, Model
from rushes.video import REFERENCES, Config, Role

SIX: Final[dict[Role, int]] = dict.fromkeys(sorted(REFERENCES), 6)
IMAGES: Final = Media(types=("image/png", "image/jpeg", "image/webp"), max_bytes=7_000_000)
CLIP: Final = Media(types=("video/mp4", "video/quicktime", "video/webm"), max_bytes=14_000_000, most_s=10.0)
WORDS: Final = Model(
    id="gemini-omni-1.1-flash",
    operations=("text-to-video",),
    durations_s=tuple(map(float, range(3, 11))),
    aspect_ratios=("16:9", "9:16"),
    resolutions=("360p", "720p", "1080p", "2160p"),
    media={"image": IMAGES},
    defaults=Config(duration_seconds=5.0, aspect_ratio="16:9", resolution="720p"),
    draws_seed=False,
    wire={"duration_seconds": "duration", "aspect_ratio": "aspect_ratio", "resolution": "resolution"},
)
EDITED: Final = replace(
    WORDS,
    operations=("video-to-video", "extend"),
    durations_s=(),
    aspect_ratios=(),
    resolutions=(),
    roles={"source": 1},
    media={"video": CLIP},
    defaults=Config(),
)
ROWS: Final = (
    WORDS,
    replace(WORDS, operations=("image-to-video",), roles={"first_frame": 1}),
    replace(
        WORDS,
        operations=("multi-image",),
        roles=SIX,
        max_inputs=6,
        media={"image": replace(IMAGES, max_bytes=2_000_000)},
    ),
    EDITED,
)


def _newer(row: Model) -> Model:
    """The same of the newer model, whose clips are longer."""
    longer = tuple(map(float, range(3, 16))) if row.durations_s else ()
    media = {kind: replace(limit, most_s=15.0) if kind == "video" else limit for kind, limit in row.media.items()}
    return replace(row, id="gemini-omni-1.2-flash", durations_s=longer, media=media)


MODELS: Final = (*ROWS, *map(_newer, ROWS))
