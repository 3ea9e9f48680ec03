"""What the bodies of Runway's creates may hold, by address and model: from its OpenAPI document of August 2026.

What models cost that no page prices is not known: `UNPRICED` stands in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias, cast

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from rushes.adapters.base import Inline

UNPRICED: Final = 10  # credits a second
MAX_URL: Final = 2048
MAX_UPLOAD_URI: Final = 5000
MAX_DATA_URI: Final = {"image": 5_242_880, "video": 16_777_216, "audio": 16_777_216}

# ── Fields ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Text(Struct, frozen=True):
    """A text by its length in UTF-16 units."""

    most: int
    least: int = 1


class Words(Struct, frozen=True):
    """One of some words, with | between them. None at all: any text."""

    known: str = ""


class Whole(Struct, frozen=True):
    """A whole number."""

    first: int
    last: int


class Among(Struct, frozen=True):
    """One of some numbers."""

    numbers: tuple[int, ...]


class Switch(Struct, frozen=True):
    """True or false."""


class Moderation(Struct, frozen=True):
    """How strict moderation is about known faces."""


class Uri(Struct, frozen=True):
    """An image, a video or an audio by its address, by an upload, or as a data: address."""

    kind: str


class Typed(Struct, frozen=True):
    """A file of one of these kinds, which it tells."""

    kinds: tuple[str, ...]


class Files(Struct, frozen=True):
    """References of one kind: clips and sounds tell it, images do not."""

    kind: str
    most: int


class Pictures(Struct, frozen=True):
    """An image, or a list of them: frames by their position, or references without one, and never both."""

    most: int
    ends: tuple[str, ...] = ("first", "last")
    references: bool = False


class Keyframes(Struct, frozen=True):
    """One to five images, each at a second or at a share of the clip; all have a range, or none."""


Field: TypeAlias = Text | Words | Whole | Among | Switch | Moderation | Uri | Typed | Files | Pictures | Keyframes
KINDS: Final[Mapping[type[Field], type]] = {  # in JSON
    Text: str,
    Words: str,
    Whole: int,
    Among: float,
    Switch: bool,
    Moderation: dict,
    Uri: object,
    Typed: dict,
    Files: list,
    Pictures: object,
    Keyframes: list,
}


def is_good(field: Field, value: Any) -> bool:
    """Whether a value of the right type is one that the field takes."""
    match field:
        case Text(most, least):
            return least <= len(str(value).encode("utf-16-le", "surrogatepass")) // 2 <= most
        case Words(known):
            return not known or value in known.split("|")
        case Whole(first, last):
            return value in range(first, last + 1)
        case Among(numbers):
            return value in numbers
        case Moderation():
            return set(value) <= {"publicFigureThreshold"} and set(value.values()) <= {"auto", "low"}
        case Uri(kind):
            return _is_uri(value, kind)
        case Typed(kinds):
            return any(_is_file(value, kind, typed=True) for kind in kinds)
        case Files(kind, most):
            return len(value) <= most and all(_is_file(file, kind, typed=kind != "image") for file in value)
        case Pictures():
            listed = cast("Sequence[Any]", value) if isinstance(value, list) else [{"uri": value, "position": "first"}]
            return _are_pictures(field, listed)
        case Keyframes():
            return _are_keyframes(value)
        case Switch():
            return True


def _are_pictures(field: Pictures, images: Sequence[Any]) -> bool:
    if not 1 <= len(images) <= field.most or not all(_is_file(image, "image") for image in images):
        return False
    positions = [image.get("position") for image in images]
    if field.references and positions == [None] * len(positions):
        return True
    return "first" in positions and all(p in field.ends and positions.count(p) == 1 for p in positions)


class _Range(Struct, frozen=True, forbid_unknown_fields=True):
    start_seconds: Annotated[int, Meta(ge=0)]
    end_seconds: Annotated[int, Meta(gt=0)]


class _Keyframe(Struct, frozen=True, forbid_unknown_fields=True):
    uri: Any
    seconds: Annotated[float, Meta(ge=0, le=30)] | None = None
    at: Annotated[float, Meta(ge=0, le=1)] | None = None  # a share of the clip
    range: _Range | None = None

    @property
    def is_good(self) -> bool:
        """Whether it stands somewhere, within its own range."""
        if not _is_uri(self.uri, "image") or (self.seconds is None) == (self.at is None):
            return False
        if self.range is None:
            return True
        first, end = self.range.start_seconds, self.range.end_seconds
        return first < end and (self.seconds is None or first <= self.seconds < end)


def _are_keyframes(given: object) -> bool:
    try:
        frames = msgspec.convert(given, list[_Keyframe])
    except msgspec.ValidationError:
        return False
    return 1 <= len(frames) <= 5 and len({f.range is None for f in frames}) == 1 and all(f.is_good for f in frames)


def _is_file(given: object, kind: str, *, typed: bool = False) -> bool:
    if not isinstance(given, Mapping):
        return False
    file = cast("Mapping[str, object]", given)
    return _is_uri(file.get("uri"), kind) and (not typed or file.get("type") == kind)


def _is_uri(uri: object, kind: str) -> bool:
    """None is too long. One whose bytes were never read, for want of a socket, counts by their size."""
    if isinstance(uri, Inline):
        length = len(f"data:{uri.asset.media_type};base64,") + -(-uri.asset.size_bytes // 3) * 4
        return uri.form == "data-uri" and uri.asset.media_type.startswith(kind) and length <= MAX_DATA_URI[kind]
    if not isinstance(uri, str) or len(uri) < 13:
        return False
    limits = {"https://": MAX_URL, "runway://": MAX_UPLOAD_URI, f"data:{kind}/": MAX_DATA_URI[kind]}
    return any(uri.startswith(start) and len(uri) <= most for start, most in limits.items())


def uploads(value: object) -> Iterator[str]:
    """The uploads that a value names, wherever in it."""
    if isinstance(value, str) and value.startswith("runway://"):
        yield value
    elif isinstance(value, Mapping):
        yield from uploads([*cast("Mapping[str, object]", value).values()])
    elif isinstance(value, list):
        for held in cast("list[object]", value):
            yield from uploads(held)


# ── Forms ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Form(Struct, frozen=True, kw_only=True):
    """What one model takes at one address. `closed`: it refuses fields that it does not know."""

    fields: Mapping[str, Field]
    required: str
    closed: bool = False
    credits: int = UNPRICED  # a second; with sound where that makes a difference
    silent: int = 0  # a second without sound


Fields: TypeAlias = dict[str, Field]
Forms: TypeAlias = dict[tuple[str, str], Form]

SD: Final = "992:432|864:496|752:560|640:640|560:752|496:864"
SD_5: Final = "992:432|854:480|752:560|640:640|560:752|480:854"
HD: Final = "1470:630|1280:720|1112:834|960:960|834:1112|720:1280"
FHD: Final = "2206:946|1920:1080|1664:1248|1440:1440|1248:1664|1080:1920"
UHD: Final = "3840:1646|3840:2160|3840:2880|3840:3840|2880:3840|2160:3840"
GEN4_RATIO: Final = Words("1280:720|720:1280|1104:832|832:1104|960:960|1584:672")
WIDE: Final = Words("1280:720|720:1280")
FIRST: Final[Fields] = {"promptImage": Pictures(1, ("first",))}
SEEDED: Final[Fields] = {"seed": Whole(0, 2**32 - 1), "contentModeration": Moderation()}
FORMATS: Final[Fields] = {
    "outputFormat": Words("mp4|prores|png_sequence"),
    "proresProfile": Words("422|4444|422 Proxy|422 LT|422 HQ|4444 XQ"),
}
GEN4: Final[Fields] = SEEDED | {"promptText": Text(1000), "ratio": GEN4_RATIO, "duration": Whole(2, 10)}
VEO: Final[Fields] = {
    "promptText": Text(1000),
    "ratio": Words("1280:720|720:1280|1080:1920|1920:1080"),
    "duration": Among((4, 6, 8)),
    "audio": Switch(),
    "negativePrompt": Text(1000),
}
ALEPH: Final[Fields] = (
    SEEDED
    | FORMATS
    | {
        "promptText": Text(1000),
        "videoUri": Uri("video"),
        "keyframes": Keyframes(),
        "ratio": Words(),  # of an older version: it changes nothing
        "targetAspectRatio": Words("16:9|4:3|3:2|1:1|2:3|3:4|9:16|21:9"),
    }
)
ACT_TWO: Final[Fields] = SEEDED | {
    "character": Typed(("image", "video")),
    "reference": Typed(("video",)),
    "bodyControl": Switch(),
    "expressionIntensity": Whole(1, 5),
    "ratio": GEN4_RATIO,
}
UPSCALER: Final[Fields] = {
    "videoUri": Uri("video"),
    "resolution": Words("720p|1k|2k|4k"),
    "creativity": Whole(0, 100),
    "sharpen": Whole(0, 100),
    "smartGrain": Whole(0, 100),
    "flavor": Words("vivid|natural"),
    "fpsBoost": Switch(),
}
OMNI: Final[Fields] = {"promptText": Text(4000), "ratio": WIDE, "duration": Whole(3, 10)}
OMNI_EDIT: Final[Fields] = {"promptText": Text(4000), "videoUri": Uri("video"), "references": Files("image", 5)}
HORSE: Final[Fields] = {"promptText": Text(2500, 2), "duration": Whole(3, 15)}
HORSE_RATIO: Final = Words(
    "1280:720|720:1280|960:960|1108:832|832:1108|1920:1080|1080:1920|1440:1440|1662:1248|1248:1662"
)
HAILUO: Final[Fields] = {
    "promptText": Text(6000),
    "ratio": Words("adaptive|21:9|16:9|4:3|1:1|3:4|9:16"),
    "resolution": Words("2K|768P"),
    "duration": Whole(5, 15),
}


def _seedance(ratios: str, last_s: int = 15, chars: int = 3500) -> Fields:
    return {"promptText": Text(chars), "ratio": Words(ratios), "duration": Whole(4, last_s), "audio": Switch()}


def _veo(name: str, credits: int, silent: int) -> Forms:
    words = Form(fields=VEO, required="promptText ratio", credits=credits, silent=silent)
    frames = replace(words, fields=VEO | {"promptImage": Pictures(2)}, required="promptImage ratio")
    return {("text_to_video", name): words, ("image_to_video", name): frames}


def _borrowing(
    name: str,
    own: Fields,
    images: int,
    clips: tuple[int, int],
    sounds: int,
    required: str = "",
    credits: int = UNPRICED,
) -> Forms:
    """A model that takes references. `clips`: how many with words alone, and how many beside a clip."""
    sound: Fields = {"referenceAudio": Files("audio", sounds)}
    borrowed: Fields = own | sound | {"references": Files("image", images)}
    bodies: dict[str, tuple[Fields, str]] = {
        "text_to_video": (borrowed | {"referenceVideos": Files("video", clips[0])}, "promptText"),
        "image_to_video": (own | sound | {"promptImage": Pictures(images, references=True)}, f"promptImage {required}"),
        "video_to_video": (
            borrowed | {"referenceVideos": Files("video", clips[1]), "promptVideo": Uri("video")},
            f"promptVideo {required}",
        ),
    }
    return {
        (address, name): Form(fields=fields, required=needs, closed=True, credits=credits)
        for address, (fields, needs) in bodies.items()
    }


def _seedance_5() -> Forms:
    """Words are optional even where there is nothing else, and a clip can be gone on with."""
    forms = _borrowing("seedance2_5", _seedance(f"{SD_5}|{HD}", 30, 15_000), 30, (10, 9), 10)
    words, clip = ("text_to_video", "seedance2_5"), ("video_to_video", "seedance2_5")
    fields = {**forms[clip].fields, "mode": Words("reference|extend")}
    return forms | {words: replace(forms[words], required=""), clip: replace(forms[clip], fields=fields)}


HORSE_IMAGE: Final[Fields] = HORSE | FIRST | {"resolution": Words("720P|1080P")}
FORMS: Final[Forms] = {
    ("text_to_video", "gen4.5"): Form(
        fields=GEN4 | FORMATS | {"ratio": WIDE}, required="promptText ratio duration", credits=12
    ),
    ("image_to_video", "gen4.5"): Form(
        fields=GEN4 | FORMATS | FIRST, required="promptText promptImage ratio duration", credits=12
    ),
    ("image_to_video", "gen4_turbo"): Form(fields=GEN4 | FIRST, required="promptImage ratio", credits=5),
    ("character_performance", "act_two"): Form(fields=ACT_TWO, required="character reference", credits=5),
    ("video_to_video", "aleph2"): Form(fields=ALEPH, required="videoUri", closed=True),
    ("video_upscale", "magnific_video_upscaler_creative"): Form(fields=UPSCALER, required="videoUri", closed=True),
    ("text_to_video", "gemini_omni_flash"): Form(fields=OMNI, required="promptText"),
    ("image_to_video", "gemini_omni_flash"): Form(fields=OMNI | FIRST, required="promptImage"),
    ("video_to_video", "gemini_omni_flash"): Form(fields=OMNI_EDIT, required="videoUri promptText", closed=True),
    ("text_to_video", "happyhorse_1_0"): Form(
        fields=HORSE | {"ratio": HORSE_RATIO}, required="promptText", closed=True
    ),
    ("image_to_video", "happyhorse_1_0"): Form(fields=HORSE_IMAGE, required="promptImage", closed=True),
    **_veo("veo3.1", 40, 20),
    **_veo("veo3.1_fast", 15, 10),
    **_borrowing("hailuo3", HAILUO, 9, (3, 2), 3, "promptText"),
    **_borrowing("seedance2", _seedance(f"{SD}|{HD}|{FHD}|{UHD}"), 9, (3, 3), 3, credits=36),
    **_borrowing("seedance2_fast", _seedance(f"{SD}|{HD}"), 9, (3, 3), 3),
    **_borrowing("seedance2_mini", _seedance(f"{SD}|{HD}"), 9, (3, 3), 3),
    **_seedance_5(),
}
