"""What Kling's models take on its old wire, as data.

Limits and prices are those of copies of its pages and of its llms.txt, under the ids that they have there; a price is
None where neither names one. Kling says of masks, cameras and last frames only that they depend on model and mode: what
stands here of it is what its capability map said in 2025, as we remember it. Nobody has tried it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import combinations
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from rushes.adapters.capabilities import Media, Model, Only, Option, Price, Shaped, seconds
from rushes.adapters.kling_models import FRAMES, LINES, MARK, SHORT, per_second
from rushes.video import JSON, REFERENCES, Config

SOURCE: Final = "Kling's llms.txt"
LONG: Final = seconds(3, 15)
IMAGE: Final = Media(types=("image/jpeg", "image/png"), max_bytes=10_000_000)
CLIP: Final = Media(types=("video/mp4",), own="kling_legacy")
EFFECTS: Final = ("squish", "expansion", "fuzzyfuzzy", "bloombloom", "dizzydizzy", "rocketrocket", "anime_figure")
PAIRS: Final = ("hug", "kiss", "heart_gesture")

Axis = Literal["horizontal", "vertical", "pan", "tilt", "roll", "zoom"]


class Simple(Struct, forbid_unknown_fields=True, tag_field="type", tag="simple"):
    """Along one axis."""

    config: Annotated[dict[Axis, Annotated[float, Meta(ge=-10, le=10)]], Meta(min_length=1, max_length=1)]


PRESETS: Final[list[Any]] = [
    msgspec.defstruct(name, [], tag_field="type", tag=name, forbid_unknown_fields=True)
    for name in ("down_back", "forward_up", "right_turn_forward", "left_turn_forward")
]
_ZOOM: Final = {"type": "simple", "config": {"zoom": 5}}
CAMERA: Final = Shaped(
    "object", shape=reduce(lambda one, other: one | other, PRESETS, Simple), examples=(_ZOOM, {"type": "forward_up"})
)
SIMPLE: Final = Shaped("object", shape=Simple, examples=(_ZOOM, {"type": "simple", "config": {"pan": -10}}))
Address = Annotated[str, Meta(pattern=r"^https?://", max_length=2000)]


class Point(Struct, forbid_unknown_fields=True):
    """In pixels, from the left and from the bottom."""

    x: int
    y: int


class Mask(Struct, forbid_unknown_fields=True):
    """What moves, and where to."""

    mask: Address
    trajectories: Annotated[list[Point], Meta(min_length=2, max_length=77)]


_WAY: Final = [{"x": 10, "y": 10}, {"x": 90, "y": 40}]
_DRAWN: Final = {"mask": "https://files.example/car.png", "trajectories": _WAY}
MASKS: Final = {
    "static_mask": Shaped(
        "string", shape=Address, examples=("https://files.example/still.png", "https://files.example/calm.png")
    ),
    "dynamic_masks": Shaped(
        "array",
        shape=Annotated[list[Mask], Meta(min_length=1, max_length=6)],
        examples=([_DRAWN], [_DRAWN, {**_DRAWN, "mask": "https://files.example/dog.png"}]),
    ),
}


def _apart(*groups: tuple[str, ...]) -> Iterator[Only]:
    """A wish of one group goes with none of another."""
    for one, other in combinations(groups, 2):
        yield from (Only(wish, refused, (None,)) for wish in one for refused in other)


def _at(wishes: tuple[str, ...], lines: str, *lengths_s: float) -> Iterator[Only]:
    """These wishes go with these lines alone, and with these lengths."""
    for wish in wishes:
        yield Only(wish, "resolution", (lines,))
        if lengths_s:
            yield Only(wish, "duration_seconds", lengths_s)


def _flat(per: Literal["second", "clip"], micro_usd: int) -> Price:
    return Price(per=per, micro_usd=micro_usd, source=SOURCE, as_of="2026-08-12")


def _animated(words: Model, *rules: Only, **changes: Any) -> Model:
    """From a first frame, whose shape the clip has."""
    row = replace(words, operations=("image-to-video",), aspect_ratios=(), roles=FRAMES, media={"image": IMAGE})
    of_sound = (rule for rule in words.only if rule.where == "generate_audio")
    return replace(replace(row, prompt="optional", options=MARK, only=(*of_sound, *rules)), **changes)


def _extended(words: Model, price: Price | None) -> Model:
    """By four or five seconds, of a clip of the same model, to three minutes at the most. It chooses neither shape."""
    row = replace(words, operations=("extend",), aspect_ratios=(), resolutions=(), durations_s=(), options={}, only=())
    media = {"video": replace(CLIP, most_s=175.0, own_model=True)}
    row = replace(row, roles={"source": 1}, media=media, prompt="optional", defaults=Config(), wire=SAID)
    return replace(row, price=price)


def _done_to(words: Model, *scenes: str) -> Model:
    """Effects: to one image for five seconds and without a mode, or between two."""
    among = {scene: 2 if scene in PAIRS else 1 for scene in scenes}
    row = replace(words, operations=("effect",), aspect_ratios=(), roles={"first_frame": max(among.values())})
    row = replace(row, scenes=among, fields=frozenset(), options={}, prompt="none", max_prompt_chars=None, price=None)
    single = tuple(scene for scene in scenes if among[scene] == 1)
    return replace(row, only=tuple(_at(single, "720p", 5.0)), media={"image": IMAGE}, wire=SHAPE | FILES)


SAID: Final = {"prompt": "prompt", "negative_prompt": "negative_prompt", "guidance_scale": "cfg_scale"}
SHAPE: Final = {"resolution": "mode", "duration_seconds": "duration"}
FILES: Final = {"first_frame": "image", "last_frame": "image_tail"}
MOVES: Final = {name: name for name in (*MASKS, "camera_control")}
OPTIONS: Final = MOVES | {"watermark": "watermark_info.enabled"}
WIRE: Final = SAID | SHAPE | FILES | OPTIONS | {"aspect_ratio": "aspect_ratio", "generate_audio": "sound"}
WORDS: Final[Mapping[str, Mapping[JSON, JSON]]] = {
    "resolution": {"720p": "std", "1080p": "pro", "2160p": "4k"},  # what is asked for as lines is a mode there
    "duration_seconds": {length_s: f"{length_s:g}" for length_s in LONG},
    "generate_audio": {True: "on", False: "off"},
}


def _words(id: str, alias: str, known: str, silent: Sequence[int], sound: Sequence[int] = (), **changes: Any) -> Model:
    """From words, in the modes that have a price, with the `known` fields."""
    row = Model(
        id=id,
        operations=("text-to-video",),
        aliases=tuple(alias.split()),
        durations_s=SHORT,
        aspect_ratios=("16:9", "9:16", "1:1"),
        resolutions=LINES[: len(silent)],
        fields=frozenset(known.split()),
        options=MARK,
        defaults=Config(duration_seconds=5.0, resolution="720p", generate_audio=False if sound else None),
        max_prompt_chars=2500,
        max_negative_chars=2500,
        max_guidance=1.0,  # cfg_scale as it is, from 0 to 1: no other scale is made into it
        draws_seed=False,
        wire=WIRE,
        words=WORDS,
        price=replace(per_second(silent, sound), source=SOURCE),
    )
    return replace(row, **changes)


TOLD: Final = "negative_prompt guidance_scale"  # to those of 1.x
CAMERAS: Final = {"camera_control": CAMERA}
HEARD: Final = (Only("generate_audio", "resolution", ("1080p",)),)
ENDED, MOVED, TURNED = ("last_frame",), tuple(MASKS), ("camera_control",)
V1: Final = _words("kling-v1", "", TOLD, (28, 98), options=MARK | CAMERAS, only=(*_at(TURNED, "720p", 5.0),))
V1_5: Final = _words("kling-v1-5", "kling-v1.5", TOLD, (56, 98))
V1_6: Final = _words("kling-v1-6", "kling-v1.6", TOLD, (56, 98))
V2_1: Final = _words("kling-v2-1", "kling-v2.1", "negative_prompt", (56, 98))
V2: Final = replace(
    V2_1,
    id="kling-v2-master",
    aliases=(),
    resolutions=("1080p",),
    defaults=Config(duration_seconds=5.0, resolution="1080p"),
    wire={name: theirs for name, theirs in WIRE.items() if name != "resolution"},  # it has no modes
    price=_flat("second", 280_000),
)
BEST: Final = replace(V2, id="kling-v2-1-master", aliases=("kling-v2.1-master",))
PRO: Final = _flat("clip", 490_000)  # as of a clip in the mode pro
TURBO: Final = _words("kling-v2-5-turbo", "", "", (42, 70))
V2_6: Final = _words("kling-v2-6", "", "generate_audio", (42, 70), (140, 140), only=HEARD)
V3: Final = _words("kling-v3", "", "generate_audio", (84, 112, 420), (126, 168, 420), durations_s=LONG)
SPEED: Final = Option("number", least=0.8, most=2.0)
VOICE: Final = {"voice_language": Option("string", ("zh", "en")), "voice_speed": SPEED}
LIPS: Final = Model(
    id="lip-sync",  # it names no model there
    operations=("lip-sync",),
    roles={"source": 1, "narration": 1},
    media={
        "video": replace(CLIP, least_s=2.0, most_s=10.5),  # its clips of ten seconds are a little longer
        "audio": Media(types=("audio/mpeg", "audio/wav", "audio/mp4", "audio/aac"), max_bytes=5_000_000, most_s=60.0),
    },
    options=VOICE,
    only=tuple(Only("narration", name, (None,)) for name in VOICE),
    prompt="none",
    max_text_chars=120,  # one copy of the page says 200
    draws_seed=False,
    wire={"source": "video_id", "narration": "audio_file", **{name: name for name in VOICE}},
    price=_flat("clip", 140_000),  # 0.07 dollars for every five seconds that are begun
)
MODELS: Final = (
    V1,
    _animated(V1, *_apart(ENDED, MOVED), *_at((*ENDED, *MOVED), "720p", 5.0), options=MARK | MASKS),
    *(_extended(V1, None), _done_to(V1, *PAIRS)),
    _animated(
        V1_5,
        *_apart(ENDED, MOVED, TURNED),
        *_at(ENDED, "1080p"),
        *_at((*MOVED, *TURNED), "1080p", 5.0),
        options=MARK | MASKS | {"camera_control": SIMPLE},
    ),
    *(_extended(V1_5, PRO), _done_to(V1_5, *PAIRS)),
    *(V1_6, _animated(V1_6, *_at(ENDED, "1080p"))),
    replace(
        V1_6,
        operations=("multi-image",),
        fields=V2_1.fields,
        roles=dict.fromkeys(sorted(REFERENCES), 4),
        general="character",
        max_inputs=4,
        media={"image": IMAGE},
    ),
    *(_extended(V1_6, PRO), _done_to(V1_6, *EFFECTS, *PAIRS)),
    *(V2, _animated(V2, roles={"first_frame": 1})),
    _animated(V2_1, *_at(ENDED, "1080p")),
    *(BEST, _animated(BEST, roles={"first_frame": 1})),
    *(TURBO, _animated(TURBO, *_at(ENDED, "1080p"))),
    *(V2_6, _animated(V2_6, *_at(ENDED, "1080p"))),
    *(V3, _animated(V3)),
    LIPS,
)
