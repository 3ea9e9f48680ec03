"""What the models at Replicate take, as their schema pages say it, and what is said to input that does not fit.

Where such a page gives no range and no words, anything of the type fits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

from msgspec import Struct

from rushes.emulators.base import fits

URI: Final = re.compile(r"(?:https?|data):\S+")


class Field(Struct, frozen=True, kw_only=True):
    """One field of a model's input."""

    type: str  # string, uri, uris, integer, number, boolean
    required: bool = False
    least: float | None = None
    most: float | None = None  # of a list: so many items
    words: tuple[str, ...] = ()


TEXT: Final = Field(type="string")
PROMPT: Final = Field(type="string", required=True)
FILE: Final = Field(type="uri")
FILES: Final = Field(type="uris")
WHOLE: Final = Field(type="integer")
SWITCH: Final = Field(type="boolean")

SCHEMAS: Final[Mapping[str, Mapping[str, Field]]] = {
    "prunaai/p-video": {
        "prompt": PROMPT,
        "image": FILE,
        "last_frame_image": FILE,
        "audio": FILE,
        "duration": Field(type="integer", least=1, most=20),
        "aspect_ratio": TEXT,
        "resolution": TEXT,
        "fps": WHOLE,
        "draft": SWITCH,
        "prompt_upsampling": SWITCH,
        "save_audio": SWITCH,
        "seed": WHOLE,
    },
    "bytedance/seedance-2.0": {
        "prompt": PROMPT,
        "image": FILE,
        "last_frame_image": FILE,
        "reference_images": Field(type="uris", most=9),
        "reference_videos": Field(type="uris", most=3),
        "reference_audios": Field(type="uris", most=3),
        "duration": Field(type="integer", least=-1, most=15),
        "resolution": TEXT,
        "aspect_ratio": TEXT,
        "generate_audio": SWITCH,
        "seed": WHOLE,
    },
    "minimax/video-01": {
        "prompt": PROMPT,
        "prompt_optimizer": SWITCH,
        "first_frame_image": FILE,
        "subject_reference": FILE,
    },
    "wan-video/wan-2.7-r2v": {
        "prompt": PROMPT,
        "reference_images": FILES,
        "reference_videos": FILES,
        "negative_prompt": TEXT,
        "resolution": TEXT,
        "aspect_ratio": TEXT,
        "duration": Field(type="integer", least=2, most=10),
        "shot_type": TEXT,
        "seed": Field(type="integer", least=0, most=2**31 - 1),
    },
    "stability-ai/stable-video-diffusion": {
        "input_image": Field(type="uri", required=True),
        "video_length": Field(type="string", words=("14_frames_with_svd", "25_frames_with_svd_xt")),
        "sizing_strategy": Field(
            type="string", words=("maintain_aspect_ratio", "crop_to_16_9", "use_image_dimensions")
        ),
        "frames_per_second": Field(type="integer", least=5, most=30),
        "motion_bucket_id": Field(type="integer", least=1, most=255),
        "cond_aug": Field(type="number"),
        "decoding_t": WHOLE,
        "seed": WHOLE,
    },
}
VERSIONS: Final = {
    "3f0457e4619daac51203dedb472816fd4af51f3149fa7a9e0b5ffcf1b8172438": "stability-ai/stable-video-diffusion"
}
_PYTHON: Final[Mapping[str, type]] = {
    "string": str,
    "uri": str,
    "uris": list,
    "integer": int,
    "number": float,
    "boolean": bool,
}
_JSON: Final = {"uri": "string", "uris": "array"}


def complaints(model: str, given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """(where, what) of everything that is wrong with a model's input."""
    schema = SCHEMAS[model]
    for name, field in schema.items():
        if field.required and name not in given:
            yield "input", f"{name} is required"
    for name, value in given.items():
        if name not in schema:
            yield "input", f"Additional property {name} is not allowed"
        elif what := _complaint(value, schema[name]):
            yield f"input.{name}", what


def _complaint(value: object, field: Field) -> str:
    if not fits(value, _PYTHON[field.type]):
        return f"Invalid type. Expected: {_JSON.get(field.type, field.type)}"
    addresses = value if field.type == "uris" else [value] if field.type == "uri" else []
    if any(not isinstance(one, str) or not URI.fullmatch(one) for one in cast("Sequence[object]", addresses)):
        return "Does not match format 'uri'"
    if field.words and value not in field.words:
        return f"Must be one of the following: {', '.join(field.words)}"
    return _out_of_range(len(cast("list[object]", value)) if isinstance(value, list) else value, field)


def _out_of_range(size: object, field: Field) -> str:
    if isinstance(size, bool) or not isinstance(size, int | float):
        return ""
    if field.least is not None and size < field.least:
        return f"Must be greater than or equal to {field.least:g}"
    if field.most is not None and size > field.most:
        return f"Must be less than or equal to {field.most:g}"
    return ""


def disagreement(model: str, given: Mapping[str, object]) -> str:
    """Why a model gives up over fields that each fit, but not together; empty where they do."""
    if model != "bytedance/seedance-2.0":
        return ""
    pictures, clips = given.get("reference_images"), given.get("reference_videos")
    if pictures and (given.get("image") or given.get("last_frame_image")):
        return "Reference images cannot be combined with first or last frame images."
    if given.get("last_frame_image") and not given.get("image"):
        return "A last frame image needs a first frame image."
    if given.get("reference_audios") and not (pictures or clips):
        return "Reference audio needs at least one reference image or video."
    return ""
