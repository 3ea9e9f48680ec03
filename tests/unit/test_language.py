"""The language of requests: what is inferred, what is refused and under which name, what passes and as what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from rushes.adapters.capabilities import Auth, Capabilities, Media, Model, Only, Option, Price, Rate, Retirement, Shaped
from rushes.adapters.catalogue import (
    ModelSetting,
    Named,
    meant,
    model_views,
    retirement_views,
    route,
    row_of,
    rows_of,
    with_settings,
)
from rushes.adapters.fit import estimate, fit, normalise, placed, ratio_of, resolution_of, size_of
from rushes.adapters.local import MODEL, Local
from rushes.assets import BRANDS, FRAMES, MAGICS, RIFFS
from rushes.faults import BadRequest
from rushes.main import installed_adapters, load_settings, with_models
from rushes.units import AssetRef, Money
from rushes.video import (
    OPERATIONS,
    ROLES,
    CharacterPerformance,
    Config,
    Effect,
    Emulation,
    Extend,
    ImageToVideo,
    Input,
    LipSync,
    MediaInput,
    MultiImage,
    Operation,
    Role,
    TextToVideo,
    Upscale,
    VideoRequest,
    VideoSpec,
    VideoToVideo,
    checked,
    decode,
    implied_by,
    operation_of,
    role_of,
)

FILE = AssetRef("inputs/ab/ab", "ab" * 32, 10, "image/png")
TEXT = TextToVideo()
NEGATIVE: tuple[Emulation, ...] = ("negative_prompt",)


def given(role: Role, seconds: float | None = None, asset: AssetRef = FILE) -> Input:
    kind = next(kind for kind, roles in ROLES.items() if role in roles)
    return Input(type=kind, role=role, asset=asset, duration_seconds=seconds)


def spec(operation: Operation = TEXT, *inputs: Input, prompt: str = "a lake", **config: Any) -> VideoSpec:
    return VideoSpec(prompt=prompt, operation=operation, inputs=inputs, **config)


def refused(asked: VideoSpec, model: Model) -> list[tuple[str, str]]:
    with pytest.raises(BadRequest) as caught:
        normalise(asked, model)
    return [(fault.code, fault.field) for fault in caught.value.faults]


# ── Operations ────────────────────────────────────────────────────────────────────────────────────────────────────────


def named(roles: set[Role]) -> str:
    """The same name in every process: sets have no order."""
    return "+".join(sorted(roles)) or "nothing"


MEANT: list[tuple[set[Role], Operation]] = [
    (set(), TextToVideo()),
    ({"narration"}, TextToVideo()),
    ({"reference_audio"}, TextToVideo()),
    ({"first_frame"}, ImageToVideo()),
    ({"first_frame", "last_frame"}, ImageToVideo()),
    ({"last_frame"}, ImageToVideo()),
    ({"first_frame", "style", "narration"}, ImageToVideo()),
    ({"style"}, MultiImage()),
    ({"character", "composition"}, MultiImage()),
    ({"source"}, VideoToVideo()),
    ({"source", "style"}, VideoToVideo()),
    ({"reference_video"}, VideoToVideo()),
    ({"source", "first_frame"}, VideoToVideo()),
    ({"source", "narration"}, LipSync()),
    ({"source", "narration", "first_frame"}, VideoToVideo()),
    ({"performance", "character"}, CharacterPerformance()),
    ({"performance", "source"}, CharacterPerformance()),
]


@pytest.mark.parametrize(("roles", "operation"), MEANT, ids=[named(roles) for roles, _ in MEANT])
def test_files_in_their_roles_mean_an_operation(roles: set[Role], operation: Operation) -> None:
    assert operation_of(None, roles) == operation
    assert operation_of(operation, roles) == operation


def test_every_operation_and_every_role_is_meant_by_something() -> None:
    assert {type(operation) for _, operation in MEANT} | {Extend, Upscale, Effect} == set(OPERATIONS)
    placed_later = {"general"}  # each model knows what it is
    assert {role for roles, _ in MEANT for role in roles} | placed_later == {r for rs in ROLES.values() for r in rs}


@pytest.mark.parametrize("operation", [kind() for kind in OPERATIONS], ids=lambda operation: type(operation).__name__)
@pytest.mark.parametrize("roles", [roles for roles, _ in MEANT], ids=named)
def test_an_operation_that_is_named_agrees_with_its_files_or_is_refused(operation: Operation, roles: set[Role]) -> None:
    operation = Effect("hug") if isinstance(operation, Effect) else operation
    agreeing = {
        Extend: "source" in roles,
        Upscale: "source" in roles,
        LipSync: {"source", "narration"} <= roles,
        VideoToVideo: roles == {"source", "narration"},
        Effect: roles == {"first_frame"},
    }
    if operation == implied_by(roles) or agreeing.get(type(operation)):
        assert operation_of(operation, roles) == operation
        return
    with pytest.raises(BadRequest) as caught:
        operation_of(operation, roles)
    wordless = isinstance(operation, LipSync) and "source" in roles
    of_files = isinstance(operation, Extend | Upscale | LipSync | Effect)
    assert caught.value.field == ("operation.text" if wordless else "inputs" if of_files else "operation")
    assert OPERATIONS[type(operation)] in caught.value.detail


@pytest.mark.parametrize(
    ("operation", "roles", "field"),
    [
        (LipSync("hello", "anna"), {"source"}, None),
        (LipSync(), {"source", "narration"}, None),
        (LipSync("hello"), {"source"}, "operation.voice"),
        (LipSync(voice="anna"), {"source", "narration"}, "operation.voice"),
        (LipSync("hello", "anna"), {"source", "narration"}, "operation.text"),
        (LipSync(" ", "anna"), {"source"}, "operation.text"),
        (LipSync("hello", "anna"), {"narration"}, "inputs"),
        (Effect("squish"), {"first_frame"}, None),
        (Effect(), {"first_frame"}, "operation.scene"),
        (Effect("squish"), set(), "inputs"),
        (Effect("squish"), {"first_frame", "style"}, "inputs"),
    ],
)
def test_what_an_operation_says_itself_agrees_with_its_files(
    operation: Operation, roles: set[Role], field: str | None
) -> None:
    if field is None:
        assert operation_of(operation, roles) == operation
        return
    with pytest.raises(BadRequest) as caught:
        operation_of(operation, roles)
    assert caught.value.field == field


def test_what_an_operation_says_itself_is_held_against_the_models_data() -> None:
    talks = replace(PLAIN, operations=("lip-sync",), roles={"source": 1, "narration": 1}, prompt="none")
    mute = spec(LipSync("hello", "anna"), given("source"), prompt="")
    assert refused(mute, talks) == [("unsupported_feature", "operation.text")]
    assert refused(mute, replace(talks, max_text_chars=4)) == [("invalid_input", "operation.text")]
    assert normalise(mute, replace(talks, max_text_chars=5)) == mute
    model = replace(PLAIN, operations=("effect",), roles={"first_frame": 2}, scenes={"hug": 2, "squish": 1})
    one, two = (given("first_frame"),), (given("first_frame"), given("first_frame"))
    assert refused(spec(Effect("kiss"), *one), model) == [("unsupported_feature", "operation.scene")]
    assert refused(spec(Effect("hug"), *one), model) == refused(spec(Effect("squish"), *two), model)
    assert normalise(spec(Effect("hug"), *two), model)
    rule = Only("squish", "duration_seconds", (None,))
    assert refused(spec(Effect("squish"), *one, duration_seconds=5.0), replace(model, durations_s=(5.0,), only=(rule,)))


def test_a_negative_prompts_length_and_an_options_shape_are_held_against_the_data() -> None:
    shaped = Shaped("array", shape=list[int], examples=([1], [2]))
    model = replace(ABLE, max_negative_chars=4, options={"steps": shaped})
    assert refused(spec(negative_prompt="crowd"), model) == [("invalid_input", "negative_prompt")]
    assert refused(spec(provider_options={"steps": [1, "two"]}), model) == [("invalid_input", "provider_options.steps")]
    assert normalise(spec(negative_prompt="rain", provider_options={"steps": [1, 2]}), model)


@pytest.mark.parametrize("name", OPERATIONS.values())
def test_an_operation_is_named_in_json(name: str) -> None:
    asked = decode(b'{"prompt":"x","operation":{"type":"%s"}}' % name.encode(), VideoRequest)
    assert asked.operation is not None
    assert OPERATIONS[type(asked.operation)] == name


def test_a_row_does_its_own_operations_and_no_model_does_what_none_of_its_rows_does() -> None:
    rows = (Model(id="m", operations=("text-to-video",)), replace(PLAIN, operations=("video-to-video",)))
    source = (given("source"),)
    assert fit(spec(VideoToVideo(), *source), (rows[0], replace(rows[1], roles={"source": 1})))[1].roles == {
        "source": 1
    }
    for asked, field in (
        (spec(ImageToVideo(), given("first_frame")), "inputs"),  # it came from them
        (spec(Upscale(), *source), "operation"),  # it was named
        (spec(Extend(), *source), "operation"),
        (spec(TEXT), None),
    ):
        if field is None:
            assert fit(asked, rows)[1] == rows[0]
            continue
        with pytest.raises(BadRequest, match="text-to-video, video-to-video") as caught:
            fit(asked, rows)
        assert (caught.value.code, caught.value.field) == ("unsupported_feature", field)


# ── Inputs at the door ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ([{}], "inputs[0]"),
        ([{"url": "https://a", "upload": "up_1"}], "inputs[0]"),
        ([{"url": "https://a"}, {"url": "https://a", "job": "job_1"}], "inputs[1]"),
        ([{"url": "https://a", "take": 1}], "inputs[0].take"),
        ([{"job": "job_1", "take": -1}], "inputs[0].take"),
        ([{"url": "https://a", "type": "video", "role": "first_frame"}], "inputs[0].role"),
        ([{"url": "https://a", "role": "source"}], "inputs[0].role"),
        ([{"url": "https://a", "type": "audio", "role": "general"}], "inputs[0].role"),
        ([{"url": "https://a", "role": "hero"}], "inputs[0].role"),
        ([{"url": "https://a", "type": "text"}], "inputs[0].type"),
        ([{"url": "https://a", "rolle": "style"}], "inputs[0].rolle"),
        ([{"upload": "up_1"}] * 51, "inputs"),
    ],
)
def test_an_input_that_is_none_is_refused_by_name(inputs: list[dict[str, object]], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        checked(decode(msgspec.json.encode({"prompt": "x", "inputs": inputs}), VideoRequest))
    assert caught.value.field == field


def test_a_file_without_a_role_has_the_usual_one_of_its_type() -> None:
    kinds = [role_of(MediaInput(type=kind, url="https://a")) for kind in ROLES]
    assert kinds == ["first_frame", "source", "narration"]


PLAIN = Model(id="plain", operations=("text-to-video", "image-to-video"), prompt="optional")
ROLES_OF = {"first_frame": 1, "last_frame": 1, "style": 2}
TAKES = replace(PLAIN, roles=ROLES_OF, max_inputs=3)


@pytest.mark.parametrize(
    ("inputs", "faults"),
    [
        ([given("first_frame"), given("first_frame")], [("invalid_input", "inputs")]),
        ([given("last_frame")], [("invalid_input", "inputs")]),
        ([given("source")], [("unsupported_feature", "inputs")]),
        ([given("first_frame"), given("last_frame"), given("style"), given("style")], [("invalid_input", "inputs")]),
        ([given("style")] * 3, [("invalid_input", "inputs")]),
    ],
)
def test_roles_and_counts_are_held_against_the_models_data(inputs: list[Input], faults: list[tuple[str, str]]) -> None:
    assert refused(spec(ImageToVideo(), *inputs), TAKES) == faults


def test_a_performance_needs_somebody_who_performs_it() -> None:
    model = replace(PLAIN, operations=("character-performance",), roles={"performance": 1, "character": 1})
    assert refused(spec(CharacterPerformance(), given("performance")), model) == [("invalid_input", "inputs")]
    assert normalise(spec(CharacterPerformance(), given("performance"), given("character")), model)


@pytest.mark.parametrize(
    ("asset", "seconds", "faults"),
    [
        (replace(FILE, media_type="video/webm"), 5.0, [("unsupported_feature", "inputs[0]")]),
        (replace(FILE, media_type="video/mp4", size_bytes=101), 5.0, [("invalid_input", "inputs[0]")]),
        (replace(FILE, media_type="video/mp4"), 1.9, [("invalid_input", "inputs[0]")]),
        (replace(FILE, media_type="video/mp4"), 10.1, [("invalid_input", "inputs[0]"), ("invalid_input", "inputs")]),
        (replace(FILE, media_type="video/mp4"), 10.0, []),
        (replace(FILE, media_type="video/mp4"), None, []),  # nobody here can say
        (AssetRef("", "", 0, ""), None, []),  # not looked at yet
    ],
)
def test_a_file_is_held_against_the_models_limits(
    asset: AssetRef, seconds: float | None, faults: list[tuple[str, str]]
) -> None:
    limit = Media(types=("video/mp4",), max_bytes=100, least_s=2.0, most_s=10.0, total_s=10.0)
    model = replace(PLAIN, operations=("video-to-video",), roles={"source": 1}, media={"video": limit})
    asked = spec(VideoToVideo(), given("source", seconds, asset))
    assert (sorted(refused(asked, model)) if faults else normalise(asked, model) and []) == sorted(faults)


FRAME = replace(PLAIN, roles={"first_frame": 1})
BORROWS = replace(PLAIN, operations=("multi-image",), roles={"character": 3}, general="character")
REMAKES = replace(PLAIN, operations=("video-to-video",), roles={"source": 1, "style": 1}, general="style")


@pytest.mark.parametrize(
    ("rows", "beside", "role"),
    [
        ((FRAME,), (), "first_frame"),
        ((replace(FRAME, roles={"style": 1, "first_frame": 1}, general="style"),), (), "style"),
        ((PLAIN, BORROWS), (), "character"),  # the first row takes none
        ((FRAME, BORROWS), (), "first_frame"),
        ((FRAME, BORROWS), ("character",), "character"),
        ((FRAME, REMAKES), ("source",), "style"),
        ((PLAIN,), (), "first_frame"),  # and is refused as such
    ],
)
def test_an_image_without_a_say_becomes_what_the_model_makes_of_it(
    rows: tuple[Model, ...], beside: tuple[Role, ...], role: Role
) -> None:
    inputs = (given("general"), *(given(one) for one in beside))
    assert [one.role for one in placed(inputs, rows)] == [role, *beside]


# ── Shapes ────────────────────────────────────────────────────────────────────────────────────────────────────────────

SHAPES = replace(
    PLAIN, aspect_ratios=("16:9", "9:16", "1:1", "21:9", "4:3"), resolutions=("480p", "720p", "1080p", "2160p")
)


@pytest.mark.parametrize(
    ("said", "ratio"),
    [
        ("square", "1:1"),
        ("portrait", "9:16"),
        ("landscape", "16:9"),
        ("cinema", "21:9"),
        ("16:9", "16:9"),
        ("32:18", "16:9"),
        ("1280:720", "16:9"),
        ("1024x768", "4:3"),
        ("7:3", "21:9"),
    ],
)
def test_the_four_words_and_any_ratio_of_the_data(said: str, ratio: str) -> None:
    assert normalise(spec(aspect_ratio=said), SHAPES).aspect_ratio == ratio


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        ("sd", "480p"),
        ("hd", "720p"),
        ("fhd", "1080p"),
        ("uhd", "2160p"),
        ("4k", "2160p"),
        ("HD", "720p"),
        ("480p", "480p"),
    ],
)
def test_the_four_words_and_any_lines_of_the_data(said: str, lines: str) -> None:
    assert normalise(spec(resolution=said), SHAPES).resolution == lines


@pytest.mark.parametrize("said", ["wide", "", "3:2", "0:0", "-16:9", "16:9:1"])
def test_another_ratio_is_refused(said: str) -> None:
    assert refused(spec(aspect_ratio=said), SHAPES) == [("invalid_input", "aspect_ratio")]
    assert refused(spec(aspect_ratio=said), PLAIN) == [("unsupported_feature", "aspect_ratio")]


@pytest.mark.parametrize("said", ["huge", "", "1440p", "2k", "720", "1000x700", "100000x5"])
def test_another_resolution_is_refused(said: str) -> None:
    assert refused(spec(resolution=said), SHAPES) == [("invalid_input", "resolution")]
    assert refused(spec(resolution=said), PLAIN) == [("unsupported_feature", "resolution")]


def test_an_exact_size_is_one_shape_of_the_data() -> None:
    made = normalise(spec(resolution="720×1280"), SHAPES)
    assert (made.resolution, made.aspect_ratio, size_of(made, SHAPES)) == ("720p", "9:16", "720x1280")
    assert refused(spec(resolution="720x1280", aspect_ratio="16:9"), SHAPES) == [("invalid_input", "aspect_ratio")]


def test_a_table_of_sizes_says_which_shapes_there_are() -> None:
    table = replace(SHAPES, sizes={("720p", "16:9"): "1284x720", ("1080p", "1:1"): "1080x1080"})
    assert size_of(normalise(spec(resolution="1284x720"), table), table) == "1284x720"
    assert refused(spec(resolution="1280x720"), table) == [("invalid_input", "resolution")]
    assert refused(spec(resolution="720p", aspect_ratio="1:1"), table) == [("invalid_input", "aspect_ratio")]


# ── Every field ───────────────────────────────────────────────────────────────────────────────────────────────────────

WISHES: dict[str, Any] = {
    "negative_prompt": "people",
    "seed": 7,
    "scheduler": "ddim",
    "guidance_scale": 7.5,
    "aspect_ratio": "1:1",
    "duration_seconds": 5.0,
    "resolution": "720p",
    "fps": 24.0,
    "generate_audio": True,
    "enhance_prompt": False,
    "character_strength": 0.5,
    "style_strength": 0.0,
    "provider_options": {"steps": 4},
}
ABLE = replace(
    SHAPES,
    durations_s=(5.0,),
    frame_rates=(24.0,),
    roles={"style": 1, "character": 1},
    fields=frozenset(WISHES) - {"aspect_ratio", "duration_seconds", "resolution", "fps", "provider_options"},
    options={"steps": Option("integer", least=1, most=8)},
)


def test_the_list_of_wishes_is_whole() -> None:
    assert set(WISHES) == set(Config.__struct_fields__)


@pytest.mark.parametrize("field", WISHES)
def test_every_field_passes_by_data_and_is_refused_without(field: str) -> None:
    asked = spec(TEXT, given("style"), given("character"), **{field: WISHES[field]})
    assert getattr(normalise(asked, ABLE), field) == WISHES[field]
    field = "provider_options.steps" if field == "provider_options" else field
    bare = replace(PLAIN, roles={"style": 1, "character": 1})
    assert refused(asked, bare) == [("unsupported_feature", field)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("field", ["guidance_scale", "duration_seconds", "fps", "style_strength", "character_strength"])
def test_a_number_that_is_none_is_refused_at_the_door(field: str, value: float) -> None:
    with pytest.raises(BadRequest) as caught:
        checked(VideoRequest(prompt="x", **{field: value}))  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_number_that_is_none_is_refused_as_an_option() -> None:
    model = replace(PLAIN, options={"steps": Option("number")})
    for value in (float("nan"), float("-inf")):  # JSON would store it as null
        asked = checked(VideoRequest(prompt="x", provider_options={"steps": value})).provider_options
        assert refused(spec(provider_options=asked), model) == [("invalid_input", "provider_options.steps")]


@pytest.mark.parametrize("value", [0, 9, 1.5, "4", True, None, [4]])
def test_an_option_outside_its_data_is_refused(value: object) -> None:
    assert refused(spec(provider_options={"steps": value}), ABLE) == [("invalid_input", "provider_options.steps")]


def test_what_the_wire_calls_otherwise_is_refused_under_the_name_to_use() -> None:
    model = replace(ABLE, wire={"duration_seconds": "seconds", "style": "look"})
    for name, ours in (("seconds", "'duration_seconds'"), ("look", "an input in the role 'style'")):
        with pytest.raises(BadRequest, match=f"set by rushes: give {ours} instead"):
            normalise(spec(provider_options={name: 1}), model)


def test_default_options_are_filled_in_beside_those_that_were_given() -> None:
    model = replace(
        ABLE,
        options={"steps": Option("integer"), "mode": Option("string")},
        defaults=Config(provider_options={"mode": "pro", "steps": 1}),
    )
    assert normalise(spec(provider_options={"steps": 4}), model).provider_options == {"mode": "pro", "steps": 4}


def test_what_one_wish_leaves_of_another_is_told_with_both() -> None:
    model = replace(ABLE, only=(Only("generate_audio", "resolution", ("720p",)), Only("style", "seed", (None,))))
    assert refused(spec(generate_audio=True, resolution="480p"), model) == [("invalid_input", "resolution")]
    assert normalise(spec(generate_audio=True, resolution="hd"), model)
    assert normalise(spec(generate_audio=False, resolution="480p"), model)
    assert refused(spec(TEXT, given("style"), seed=1), model) == [("invalid_input", "seed")]


@pytest.mark.parametrize(
    ("prompt", "need", "code"),
    [("", "required", "invalid_input"), (" ", "optional", "invalid_input"), ("a lake", "none", "unsupported_feature")],
)
def test_a_prompt_is_needed_or_not_taken(prompt: str, need: str, code: str) -> None:
    model = replace(PLAIN, prompt=need)
    assert refused(spec(prompt=prompt), model) == [(code, "prompt")]


def test_a_prompts_length_counts_as_providers_count() -> None:
    model = replace(PLAIN, max_prompt_chars=4)
    assert normalise(spec(prompt="🌊🌊"), model)
    assert refused(spec(prompt="🌊🌊!"), model) == [("invalid_input", "prompt")]


# ── Another way ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_negative_prompt_is_told_in_the_prompt_where_the_request_allows_it() -> None:
    asked = spec(negative_prompt="people")
    assert refused(asked, PLAIN) == [("unsupported_feature", "negative_prompt")]
    made = normalise(asked, PLAIN, NEGATIVE)
    assert (made.prompt, made.negative_prompt) == ("a lake\nNot in the video: people", None)
    assert made.emulated == ("negative_prompt: told in the prompt",)
    assert normalise(made, PLAIN, NEGATIVE) == made  # and once is enough


def test_what_the_model_can_do_itself_is_left_to_it() -> None:
    made = normalise(spec(negative_prompt="people"), ABLE, NEGATIVE)
    assert (made.prompt, made.negative_prompt, made.emulated) == ("a lake", "people", ())


def test_a_negative_prompt_alone_is_no_prompt() -> None:
    asked = spec(prompt="", negative_prompt="people")
    with pytest.raises(BadRequest) as caught:
        normalise(asked, replace(PLAIN, prompt="required"), NEGATIVE)
    assert [fault.field for fault in caught.value.faults] == ["prompt"]
    made = normalise(replace(asked, inputs=(given("style"),)), replace(TAKES), NEGATIVE)
    assert made.prompt == "Not in the video: people"


def test_an_unknown_emulation_is_refused_by_name() -> None:
    with pytest.raises(BadRequest) as caught:
        decode(b'{"prompt":"x","emulate":["magic"]}', VideoRequest)
    assert caught.value.field == "emulate[0]"


# ── Money ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def cost(model: Model, asked: VideoSpec) -> int | None:
    found = estimate(asked, model)
    return None if found is None else found.micro_usd


def price(per: str, micro_usd: int, **more: object) -> Model:
    made = msgspec.convert({"per": per, "micro_usd": micro_usd, "source": "s", "as_of": "2026-11-01", **more}, Price)
    return replace(ABLE, price=made)


def test_the_first_rate_that_applies_counts_or_else_the_dearest() -> None:
    rates = [
        {"when": {"resolution": "480p", "generate_audio": False}, "micro_usd": 1},
        {"when": {"operation": "image-to-video"}, "micro_usd": 2},
        {"when": {"style": True}, "micro_usd": 3},
        {"when": {"steps": 4}, "micro_usd": 4},
        {"when": {"style": False, "resolution": "480p"}, "micro_usd": 5},
    ]
    model = price("second", 9, rates=rates)
    asked: list[tuple[VideoSpec, int]] = [
        (spec(duration_seconds=1.0, resolution="480p", generate_audio=False), 1),
        (spec(ImageToVideo(), duration_seconds=1.0), 2),
        (spec(TEXT, given("style"), duration_seconds=1.0), 3),
        (spec(duration_seconds=1.0, provider_options={"steps": 4}), 4),
        (spec(duration_seconds=1.0, resolution="480p", generate_audio=True), 5),
        (spec(duration_seconds=1.0, resolution="720p", generate_audio=True), 9),
    ]
    assert [cost(model, one) for one, _ in asked] == [amount for _, amount in asked]


def test_an_estimate_has_its_units_and_its_source_and_is_never_nothing_by_guess() -> None:
    model = price("second", 100, minimum_units=5.0)
    assert estimate(spec(duration_seconds=2.0), model) == Money(500, "s", "2026-11-01", units=5.0, unit="second")
    assert cost(model, spec()) is None  # how long it will be, nobody here knows
    assert cost(model, spec(VideoToVideo(), given("source", 8.0))) == 800  # as long as the clip
    assert cost(model, spec(TEXT, given("narration", 7.0))) == 700
    assert cost(model, spec(Extend(), given("source", 8.0))) is None  # it adds to the clip
    assert cost(model, spec(VideoToVideo(), given("source"))) is None
    assert cost(price("clip", 100, per_input={"style": 7}), spec(TEXT, given("style"), given("style"))) == 114
    assert cost(ABLE, spec(duration_seconds=5.0)) is None


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Provider:
    def __init__(self, name: str, *models: Model, **more: object) -> None:
        self.name = name
        data = Capabilities(base_url=f"https://{name}.example", base_url_env="", models=models, auth=Auth(env=("K",)))
        self.capabilities = replace(data, **more)


def shops() -> dict[str, Named]:
    new, old = replace(PLAIN, id="film-2", aliases=("film",)), replace(PLAIN, id="film-1", aliases=("film-old",))
    shared = replace(PLAIN, id="shared")
    gone = {
        "film-1": Retirement("2026-01-01", "film-2"),
        "film-0": Retirement("2025-01-01"),
        "shared": Retirement("2027-01-01"),
    }
    return {
        "acme": Provider("acme", new, old, shared, aliases=("acme-video",), retired=gone),
        "base": Provider("base", shared, replace(PLAIN, id="own/name")),
    }


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("acme", ("acme", "film-2")),
        ("acme-video", ("acme", "film-2")),
        ("acme/film-2", ("acme", "film-2")),
        ("acme-video/film", ("acme", "film-2")),
        ("film", ("acme", "film-2")),
        ("own/name", ("base", "own/name")),
        ("base/own/name", ("base", "own/name")),
        ("base/shared", ("base", "shared")),
    ],
)
def test_a_model_is_found_by_every_name_that_means_it(wanted: str, found: tuple[str, str]) -> None:
    name, rows = route(wanted, shops(), "2026-11-21")
    assert (name, rows[0].id) == found


@pytest.mark.parametrize(
    ("wanted", "code", "sentence"),
    [
        ("acme/film-1", "model_retired", "acme switched 'film-1' off on 2026-01-01: use acme/film-2."),
        ("acme/film-old", "model_retired", "acme switched 'film-1' off on 2026-01-01: use acme/film-2."),
        ("film-old", "model_retired", "acme switched 'film-1' off on 2026-01-01: use acme/film-2."),
        ("acme/film-0", "model_retired", "nothing there replaces it"),
        ("film-0", "model_retired", "nothing there replaces it"),
        ("shared", "model_unknown", "Several providers have a model 'shared': choose acme/shared, base/shared."),
        ("acme/", "model_unknown", "There is no model 'acme/'."),
        ("acme/flim-2", "model_unknown", "Did you mean 'acme/film-2'?"),
        ("", "model_unknown", "There is no model ''."),
    ],
)
def test_a_name_that_means_no_model_is_answered_with_what_there_is(wanted: str, code: str, sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        route(wanted, shops(), "2026-11-21")
    assert (caught.value.code, caught.value.field) == (code, "model")
    assert sentence in caught.value.detail


def test_a_provider_without_a_model_means_its_elders_where_only_that_one_can() -> None:
    able = replace(PLAIN, id="old-2", operations=("extend", "effect"), roles={"source": 1}, scenes={"hug": 1})
    late = replace(able, id="old-3", roles={"first_frame": 1}, scenes={"squish": 1})
    gone = {"old-1": Retirement("2026-01-01")}
    known: dict[str, Named] = {
        "new": Provider("new", PLAIN, elder="old", aliases=("newest",)),
        "old": Provider("old", replace(PLAIN, id="old-0"), replace(able, id="old-1"), able, late, retired=gone),
        "lone": Provider("lone", replace(PLAIN, id="lone-1"), elder="nobody"),
    }
    longer, squished = spec(Extend(), given("source")), spec(Effect("squish"), given("first_frame"))
    for wanted, asked, exact in (
        ("new", longer, "old/old-2"),
        ("newest", longer, "old/old-2"),
        ("new", squished, "old/old-3"),  # the first that admits it
        ("new", replace(squished, operation=Effect("spin")), "old/old-2"),  # none does, and the first says so
        ("new", spec(), "new"),
        ("new", spec(LipSync(), given("source"), given("narration")), "new"),  # nobody can
        ("new/plain", longer, "new/plain"),
        ("plain", longer, "plain"),
        ("old", longer, "old"),
        ("lone", longer, "lone"),
    ):
        assert meant(wanted, asked, known, "2026-11-21") == exact
    assert meant("new", longer, known, "2025-12-31") == "old/old-1"


def test_a_model_lives_until_its_day_and_on_wherever_an_address_was_set() -> None:
    assert route("acme/film-1", shops(), "2025-12-31")[1][0].id == "film-1"
    for wanted in ("acme/film-1", "film-old"):
        assert route(wanted, shops(), "2026-11-21", explicit=("acme",))[1][0].id == "film-1"
    assert route("shared", shops(), "2027-01-01")[0] == "base"  # the only one that still has it
    acme = shops()["acme"]
    assert [view.id for view in model_views(acme, "2026-01-01")] == ["film-2", "shared"]
    assert [view.id for view in model_views(acme)] == ["film-2", "film-1", "shared"]
    assert [(view.model, view.replacement) for view in retirement_views(acme)][:2] == [
        ("film-1", "film-2"),
        ("film-0", ""),
    ]


def test_a_price_is_shown_from_its_least_to_its_most_over_all_rows() -> None:
    rates = (Rate({"resolution": "480p"}, 2),)
    rows = [
        replace(PLAIN, price=Price(per="clip", micro_usd=amount, rates=rates, source="s", as_of="d"))
        for amount in (5, 9)
    ]
    (view,) = model_views(Provider("acme", *rows))
    assert view.price is not None
    assert (view.price.least_micro_usd, view.price.most_micro_usd) == (2, 9)


# ── Models that settings add ──────────────────────────────────────────────────────────────────────────────────────────


def settings(folder: Path, *entries: str) -> dict[str, Named]:
    text = "\n".join(f"[[models]]\n{entry}" for entry in entries)
    (folder / "rushes.toml").write_text(text)
    found = load_settings(environ={"RUSHES_CONFIG": str(folder / "rushes.toml")})
    return dict(with_models({"local": Local()}, found.models))


NEW = 'provider = "local"\nid = "local-2"\n'


def test_a_model_of_the_settings_is_like_another_but_for_what_is_given(tmp_path: Path) -> None:
    entry = f"""{NEW}
        like = "local"
        aliases = ["two"]
        operations = ["text-to-video"]
        durations_s = [8, 10]
        resolutions = ["1080p", "720p"]
        aspect_ratios = ["1:1"]
        fields = ["seed"]
        max_seed = 100
        price = {{ per = "second", micro_usd = 70000, source = "mine", as_of = "2026-11-01" }}"""
    known = settings(tmp_path, entry, 'provider = "local"\nid = "local-3"\nlike = "local-2"')
    name, (row,) = route("two", known)
    assert (name, row.id, row.operations, row.roles) == ("local", "local-2", ("text-to-video",), MODEL.roles)
    made = normalise(spec(), row)
    assert (made.duration_seconds, made.aspect_ratio, made.resolution, made.fps) == (8.0, "1:1", "720p", 24.0)
    assert made.generate_audio is None  # it no longer honours that, so it has no default for it either
    assert refused(spec(seed=101), row) == [("invalid_input", "seed")]
    assert row.price is not None
    assert row_of(known["local"], "local-3", spec()).price is None  # that belongs to the model alone
    assert route("local", known)[1] == (MODEL,)
    assert Local().capabilities.models == (MODEL,)  # nobody else's adapter has changed


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ('provider = "nobody"\nid = "x"', "models[0].provider"),
        ('provider = "local"', "models[0].id"),
        ('provider = "local"\nid = ""', "models[0].id"),
        ('provider = "local"\nid = "local"', "models[0].id"),
        (NEW + 'aliases = ["local"]', "models[0].aliases"),
        (NEW + 'like = "other"', "models[0].like"),
        (NEW + 'operations = ["upscale"]', "models[0].operations"),
        (NEW + 'fields = ["scheduler"]', "models[0].fields"),
        (NEW + 'aspect_ratios = ["wide"]', "models[0].aspect_ratios"),
        (NEW + 'aspect_ratios = ["32:18"]', "models[0].aspect_ratios"),
        (NEW + 'resolutions = ["hd"]', "models[0].resolutions"),
        (NEW + "durations_s = [0]", "models[0].durations_s[0]"),
        (NEW + 'durations_s = ["5"]', "models[0].durations_s[0]"),
        (NEW + "frame_rates = [-1]", "models[0].frame_rates[0]"),
        (NEW + 'prompt = "maybe"', "models[0].prompt"),
        (NEW + "max_seed = -1", "models[0].max_seed"),
        (NEW + "colour = 1", "models[0].colour"),
        (NEW + 'price = { per = "second", micro_usd = 1, source = "s" }', "models[0].price.as_of"),
        (NEW + 'price = { per = "hour", micro_usd = 1, source = "s", as_of = "d" }', "models[0].price.per"),
        (NEW + 'price = { per = "clip", micro_usd = 1, source = "s", as_of = "d", x = 1 }', "models[0].price.x"),
        (NEW + 'options = { mood = { type = "string" } }', "models[0].options"),  # the lab has no place for it
        (NEW + 'options = { mood = { type = "colour" } }', "models[0].options[...].type"),
        (f"{NEW}\n[[models]]\n{NEW}", "models[1].id"),
    ],
)
def test_a_wrong_entry_of_the_settings_is_named(tmp_path: Path, entry: str, field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        settings(tmp_path, entry)
    assert caught.value.field == field


def test_a_setting_gives_no_row_what_its_wire_has_no_place_for() -> None:
    """A model's operations differ: what one of them takes is dropped in silence by the other."""
    mood, pace = Option("string", ("calm", "wild")), Option("integer")
    shaped = replace(
        PLAIN, aspect_ratios=("16:9",), options={"mood": mood}, fields=frozenset({"seed", "negative_prompt"})
    )
    bare = replace(
        PLAIN, operations=("upscale",), aspect_ratios=(), options={"pace": pace}, fields=frozenset(), prompt="none"
    )
    wanted = ModelSetting(
        provider="acme",
        id="new",
        aspect_ratios=("1:1",),
        options={"mood": mood, "pace": pace},
        fields=frozenset({"seed"}),
        prompt="optional",
    )
    first, second = with_settings(Provider("acme", shaped, bare), [wanted]).models[2:]
    assert (first.aspect_ratios, first.options, sorted(first.fields)) == (("1:1",), {"mood": mood}, ["seed"])
    assert (second.aspect_ratios, second.options, sorted(second.fields)) == ((), {"pace": pace}, [])
    assert (first.prompt, second.prompt) == ("optional", "none")
    for field in ("aspect_ratios", "prompt"):  # where no row has it at all
        given_one: dict[str, Any] = {field: getattr(wanted, field)}
        only = ModelSetting(provider="acme", id="new", **given_one)
        with pytest.raises(BadRequest) as caught:
            with_settings(Provider("acme", bare), [only])
        assert caught.value.field == f"models[0].{field}"


def test_a_provider_that_passes_options_on_takes_new_ones() -> None:
    provider = Provider("acme", PLAIN)
    provider.capabilities = replace(provider.capabilities, new_options=True)
    wanted = ModelSetting(provider="acme", id="new", options={"mood": Option("string")})
    assert with_settings(provider, [wanted]).models[-1].options == wanted.options


# ── The data of the adapters that are here ────────────────────────────────────────────────────────────────────────────


def unreachable(rows: Sequence[Model]) -> list[str]:
    """What no request can ever match: a spelling that nothing becomes, or an operation that an earlier row does."""
    told = {*BRANDS.values(), *FRAMES.values(), *MAGICS.values(), *RIFFS.values()}
    told |= {"video/mp4", "video/webm", "video/x-matroska", "image/bmp"}  # the last cannot be handed in
    wrong: list[str] = []
    done: set[str] = set()
    for row in rows:
        wrong += [text for text in row.aspect_ratios if ratio_of(text) != text]
        wrong += [text for text in row.resolutions if resolution_of(text) != text]
        wrong += [text for limit in row.media.values() for text in limit.types if text not in told]
        wrong += [text for text in row.operations if text in done]
        done |= set(row.operations)
    return wrong


def test_everything_in_the_data_of_the_adapters_can_be_asked_for() -> None:
    for adapter in installed_adapters().values():
        for model_id in {row.id for row in adapter.capabilities.models}:
            assert unreachable(rows_of(adapter, model_id)) == [], f"{adapter.name}/{model_id}"


def test_negative_control_what_cannot_be_asked_for_is_seen() -> None:
    odd = replace(PLAIN, aspect_ratios=("32:18",), resolutions=("4k",), media={"audio": Media(types=("audio/mp3",))})
    assert unreachable([odd, PLAIN]) == ["32:18", "4k", "audio/mp3", *PLAIN.operations]
