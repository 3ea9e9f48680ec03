"""What Kling's models take on its wire of 2026, as data.

Limits are those of copies of its pages, mid to late 2026; prices are those of its llms.txt, under the older names of
the same models, and None where there is none. Defaults are Kling's own where it has one, and told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from rushes.adapters.capabilities import BOOLEAN, STRING, Media, Model, Only, Option, Price, Rate, seconds
from rushes.video import JSON, REFERENCES, Config, Role

LINES: Final = ("720p", "1080p", "2160p")
SHORT: Final = (5.0, 10.0)
FRAMES: Final[dict[Role, int]] = {"first_frame": 1, "last_frame": 1}
SEVEN: Final[dict[Role, int]] = dict.fromkeys(sorted(REFERENCES), 7)
FOUR: Final[dict[Role, int]] = dict.fromkeys(SEVEN, 4)
IMAGE: Final = Media(types=("image/jpeg", "image/png"), max_bytes=50_000_000)
CLIP: Final = Media(  # which goes by its address at Kling
    types=("video/mp4", "video/quicktime"), most=1, max_bytes=200_000_000, own="kling", least_s=3.0, most_s=15.5
)
MARK: Final = {"watermark": BOOLEAN}
SHOTS: Final = {"multi_shot": BOOLEAN}
ELEMENTS: Final = dict.fromkeys(("element_1", "element_2", "element_3"), STRING)
VOICES: Final = dict.fromkeys(("voice_1", "voice_2"), STRING)
OF_CLIP: Final = {"audio": Option("string", ("original", "off"))}
TURNED: Final = {"character_orientation": Option("string", ("video", "image"))}
SETTINGS: Final = {name: f"settings.{name}" for name in SHOTS | TURNED | OF_CLIP}
PLACES: Final = {**SETTINGS, "watermark": "options.watermark_info.enabled"}
WIRE: Final = {
    "resolution": "settings.resolution",
    "duration_seconds": "settings.duration",
    "aspect_ratio": "settings.aspect_ratio",
    "generate_audio": "settings.audio",
    **PLACES,
    "first_frame": "first_frame",
    "last_frame": "last_frame",
}
SOUND: Final = {True: "native", False: "off"}
WORDS: Final[Mapping[str, Mapping[Any, str]]] = {"resolution": {"2160p": "4k"}, "generate_audio": SOUND}
OMNI: Final = WIRE | dict.fromkeys(sorted(REFERENCES), "refer_image")
REMADE: Final = OMNI | {"source": "base_video", "reference_video": "feature_video"}
ACTED: Final = {"resolution": "settings.resolution", **PLACES, "character": "image", "performance": "video"}


def per_second(silent: Sequence[int], sound: Sequence[int] = (), *first: Rate) -> Price:
    """Thousandths of a dollar for a second, at each of LINES, where none of the `first` rates applies."""
    with_sound, without = zip(LINES, sound, strict=False), zip(LINES, silent, strict=False)
    rates = [*first]
    rates += [Rate({"resolution": lines, "generate_audio": True}, 1000 * one) for lines, one in with_sound]
    rates += [Rate({"resolution": lines}, 1000 * one) for lines, one in without]
    source, dearest = "Kling's llms.txt, under the old ids", 1000 * max(*silent, *sound)
    return Price(per="second", micro_usd=dearest, rates=tuple(rates), source=source, as_of="2026-08-12")


def _words(id: str, aliases: str, silent: Sequence[int], sound: Sequence[int] = (), **changes: Any) -> Model:
    """From words, with the lines that have a price, and a choice of sound where sound has one."""
    row = Model(
        id=id,
        aliases=tuple(aliases.split()),
        operations=("text-to-video",),
        durations_s=seconds(3, 15),
        aspect_ratios=("16:9", "9:16", "1:1"),
        resolutions=LINES[: len(silent)],
        fields=frozenset({"generate_audio"} if sound else ()),
        options=MARK,
        defaults=Config(duration_seconds=5.0, resolution="720p", generate_audio=False if sound else None),
        draws_seed=False,
        wire=WIRE,
        words=WORDS,
        price=per_second(silent, sound),
    )
    return replace(row, **changes)


def _animated(words: Model, **changes: Any) -> Model:
    """From a first frame, whose shape the clip has. Where no page limits its prompt, nothing here does."""
    row = replace(words, operations=("image-to-video",), aspect_ratios=(), roles=FRAMES, media={"image": IMAGE})
    row = replace(row, defaults=replace(words.defaults, aspect_ratio=None), prompt="optional", max_prompt_chars=None)
    return replace(row, **changes)


def _acted(words: Model, price: Price | None, **options: Option) -> Model:
    """A character that does what is done in a clip, for as long."""
    row = replace(words, operations=("character-performance",), aspect_ratios=(), durations_s=(), fields=frozenset())
    media = {"image": IMAGE, "video": replace(CLIP, max_bytes=100_000_000, most_s=30.0)}
    row = replace(row, resolutions=LINES[:2], roles={"character": 1, "performance": 1}, media=media, only=())
    row = replace(row, options=MARK | OF_CLIP | TURNED | options, prompt="optional", max_prompt_chars=None)
    turned: dict[str, JSON] = {"character_orientation": "video"}  # one must be told; this one allows longer clips
    return replace(row, defaults=Config(resolution="720p", provider_options=turned), wire=ACTED, price=price)


def _omni(words: Model, longest_s: float, with_clip: Price) -> tuple[Model, ...]:
    """All rows of a model that takes words, frames, references and a clip on one path.

    Seven references fit, four beside a clip. Elements count among them, which data cannot say: they go with words
    alone. So a last frame takes the place of a reference. A clip that is made over keeps its length and shape; one to
    borrow from wants shots, and those go with no frame.
    """
    row = replace(words, defaults=replace(words.defaults, aspect_ratio="16:9"), wire=OMNI)
    framed = _animated(row, roles=FRAMES | SEVEN, max_prompt_chars=words.max_prompt_chars)
    rules = [Only("source", other, (None,)) for other in ("duration_seconds", "aspect_ratio")]
    rules += [Only("reference_video", "audio", ("off", None))]
    if "multi_shot" in row.options:
        rules += [Only("source", "multi_shot", (False, None)), Only("reference_video", "multi_shot", (True, None))]
    clips = replace(row, operations=("video-to-video",), roles={"source": 1, "reference_video": 1, **FOUR})
    clips = replace(clips, fields=frozenset(), options={**row.options, **OF_CLIP}, only=tuple(rules), wire=REMADE)
    media = {"image": replace(IMAGE, most=4), "video": replace(CLIP, most_s=longest_s)}
    return (
        replace(row, options={**row.options, **ELEMENTS}),
        replace(framed, media={"image": replace(IMAGE, most=8)}),
        replace(row, operations=("multi-image",), roles=SEVEN, media={"image": replace(IMAGE, most=7)}),
        replace(clips, media=media, defaults=Config(resolution="720p"), price=with_clip),
    )


UNITS: Final = replace(per_second((112, 140)), source="0.8 or 1 unit of 0.14 USD, in copies", as_of="2026-11-21")
TURBO: Final = _words("kling-3.0-turbo", "", (112, 140), price=UNITS, max_prompt_chars=3072)  # always with sound
FULL: Final = _words(
    "kling-3.0", "kling-v3 kling-v3.0", (84, 112, 420), (126, 168, 420), options=MARK | SHOTS, max_prompt_chars=3072
)
ALL: Final = _words(
    "kling-3.0-omni", "kling-v3-omni kling-v3.0-omni", (84, 112, 420), (112, 140, 420), options=MARK | SHOTS
)
ONE: Final = _words("kling-o1", "kling-video-o1", (84, 112), durations_s=seconds(3, 10), max_prompt_chars=2500)
OLD: Final = replace(
    _words("kling-2.6", "kling-v2-6 kling-v2.6", (42, 70), (140, 140), durations_s=SHORT, max_prompt_chars=2500),
    only=(Only("generate_audio", "resolution", ("1080p",)),),
)
OLDER: Final = _words("kling-2.5-turbo", "kling-v2-5-turbo kling-v2.5-turbo", (42, 70), durations_s=SHORT)
ENDED: Final = Only("last_frame", "resolution", ("1080p",))
SPOKEN: Final = tuple(Only(voice, "generate_audio", (True,)) for voice in VOICES)
MUTE: Final = Rate({"generate_audio": True, "voice_1": False, "voice_2": False}, 140_000)
VOICED: Final = per_second((42, 70), (168, 168), MUTE)
MODELS: Final = (
    *(TURBO, _animated(TURBO, roles={"first_frame": 1}, max_prompt_chars=2500)),
    *(FULL, _animated(FULL, options=MARK | SHOTS | ELEMENTS)),
    _acted(FULL, per_second((126, 168)), element_1=STRING),
    *_omni(ALL, 15.5, per_second((126, 168, 420))),
    *_omni(ONE, 10.0, per_second((126, 168))),
    OLD,
    _animated(OLD, options=MARK | VOICES, only=(*OLD.only, ENDED, *SPOKEN), price=VOICED),
    _acted(OLD, None),
    *(OLDER, _animated(OLDER, only=(ENDED,))),
)
