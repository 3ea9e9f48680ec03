"""Limits as data: what is not in it is refused by name, what is missing is filled in, nothing is coerced."""

import pytest

from rushes.adapters.capabilities import STRING, Auth, Capabilities, Model, Option, Price
from rushes.adapters.catalogue import route
from rushes.adapters.fit import estimate, normalise, pixels, ratio_of, resolution_of
from rushes.adapters.local import MODEL, Local
from rushes.faults import BadRequest
from rushes.units import FREE, AssetRef, Money
from rushes.video import JSON, ImageToVideo, Input, Role, TextToVideo, VideoSpec

PICTURE = AssetRef("inputs/ab/ab", "ab" * 32, 10, "image/png")
ASKED = VideoSpec(prompt="a lake", operation=TextToVideo())


def picture(role: Role) -> Input:
    return Input(role=role, asset=PICTURE)


def with_pictures(*roles: Role) -> VideoSpec:
    return VideoSpec(prompt="a lake", operation=ImageToVideo(), inputs=tuple(picture(role) for role in roles))


def test_defaults_fill_what_was_left_open() -> None:
    spec = normalise(ASKED, MODEL)
    assert (spec.duration_seconds, spec.aspect_ratio, spec.resolution, spec.fps) == (5.0, "16:9", "720p", 24.0)
    assert spec.generate_audio is False
    assert spec.negative_prompt is None
    assert spec.seed is None  # drawn by the studio, and recorded


def test_normalising_twice_changes_nothing() -> None:
    spec = normalise(ASKED, MODEL)
    assert normalise(spec, MODEL) == spec


@pytest.mark.parametrize(
    ("asked", "ratio", "lines"),
    [
        (VideoSpec(prompt="a lake", operation=TextToVideo(), aspect_ratio="portrait", resolution="hd"), "9:16", "720p"),
        (
            VideoSpec(prompt="a lake", operation=TextToVideo(), aspect_ratio="1920x1080", resolution="FHD"),
            "16:9",
            "1080p",
        ),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), aspect_ratio="cinema", resolution="360P"), "21:9", "360p"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), resolution="720x1280"), "9:16", "720p"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), resolution="320×180"), "16:9", "180p"),
    ],
)
def test_words_and_sizes_become_the_models_terms(asked: VideoSpec, ratio: str, lines: str) -> None:
    spec = normalise(asked, MODEL)
    assert (spec.aspect_ratio, spec.resolution) == (ratio, lines)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (VideoSpec(prompt="a lake", operation=TextToVideo(), duration_seconds=61), "duration_seconds"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), duration_seconds=2.5), "duration_seconds"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), fps=23.976), "fps"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), aspect_ratio="2:1"), "aspect_ratio"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), aspect_ratio="wide"), "aspect_ratio"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), resolution="4k"), "resolution"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), resolution="huge"), "resolution"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), resolution="1000x700"), "resolution"),
        (
            VideoSpec(prompt="a lake", operation=TextToVideo(), resolution="1280x720", aspect_ratio="9:16"),
            "aspect_ratio",
        ),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), seed=2**31), "seed"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), scheduler="ddim"), "scheduler"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), guidance_scale=7.0), "guidance_scale"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), enhance_prompt=True), "enhance_prompt"),
        (VideoSpec(prompt="a lake", operation=TextToVideo(), character_strength=0.5), "character_strength"),
        (
            VideoSpec(prompt="a lake", operation=TextToVideo(), provider_options={"turbo": True}),
            "provider_options.turbo",
        ),
        (with_pictures("last_frame"), "inputs"),
        (with_pictures("character"), "inputs"),
        (with_pictures("first_frame", "first_frame"), "inputs"),
    ],
)
def test_every_refusal_names_its_field(asked: VideoSpec, field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        normalise(asked, MODEL)
    assert {fault.field for fault in refused.value.faults} == {field}
    assert refused.value.detail.endswith(".")


def test_all_refusals_come_at_once() -> None:
    asked = VideoSpec(
        prompt="a lake", operation=TextToVideo(), duration_seconds=0.5, fps=1, scheduler="x", resolution="1p"
    )
    with pytest.raises(BadRequest) as refused:
        normalise(asked, MODEL)
    assert {fault.field for fault in refused.value.faults} == {"duration_seconds", "fps", "scheduler", "resolution"}


def test_the_pictures_that_the_model_takes_pass() -> None:
    assert normalise(with_pictures("first_frame", "style"), MODEL).inputs == (picture("first_frame"), picture("style"))


BARE = Model(id="acme/v1", operations=("text-to-video",), options={"steps": Option("integer"), "mood": STRING})


def test_a_model_without_a_choice_says_so() -> None:
    with pytest.raises(BadRequest) as refused:
        normalise(VideoSpec(prompt="x", operation=TextToVideo(), fps=24), BARE)
    assert (refused.value.code, refused.value.field) == ("unsupported_feature", "fps")


def test_a_model_that_needs_a_prompt_says_so() -> None:
    with pytest.raises(BadRequest) as refused:
        normalise(VideoSpec(prompt="  ", operation=TextToVideo()), BARE)
    assert refused.value.field == "prompt"


def test_a_picture_for_a_model_of_words_is_refused_in_its_role_and_its_operation() -> None:
    with pytest.raises(BadRequest) as refused:
        normalise(with_pictures("first_frame"), BARE)
    assert {fault.field for fault in refused.value.faults} == {"inputs"}


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 1.5), ("steps", True), ("steps", "9"), ("mood", 1), ("mood", None)]
)
def test_an_option_of_another_type_is_refused(name: str, value: float | str | None) -> None:
    with pytest.raises(BadRequest) as refused:
        normalise(VideoSpec(prompt="x", operation=TextToVideo(), provider_options={name: value}), BARE)
    assert refused.value.field == f"provider_options.{name}"


def test_an_option_of_its_type_passes() -> None:
    options: dict[str, JSON] = {"steps": 9, "mood": "blue"}
    asked = VideoSpec(prompt="x", operation=TextToVideo(), provider_options=options)
    assert normalise(asked, BARE).provider_options == options


class Acme:
    name = "acme"
    capabilities = Capabilities(
        base_url="https://acme.example", base_url_env="X", models=(BARE,), auth=Auth(env=("ACME_KEY",))
    )


@pytest.mark.parametrize("wanted", ["local", "local/local"])
def test_a_model_is_found_by_its_names(wanted: str) -> None:
    assert route(wanted, {"local": Local(), "acme": Acme()}) == ("local", (MODEL,))


def test_a_bare_model_id_will_do_where_only_one_provider_has_it() -> None:
    assert route("acme/v1", {"local": Local(), "acme": Acme()}) == ("acme", (BARE,))


def test_an_unknown_model_is_answered_with_a_near_one() -> None:
    with pytest.raises(BadRequest, match="Did you mean 'local'") as refused:
        route("locla", {"local": Local(), "acme": Acme()})
    assert (refused.value.code, refused.value.field) == ("model_unknown", "model")


def test_the_local_model_costs_nothing_and_an_undated_price_is_not_nothing() -> None:
    assert estimate(normalise(ASKED, MODEL), MODEL) == FREE
    assert estimate(ASKED, BARE) is None


@pytest.mark.parametrize(("duration_s", "micro_usd"), [(5.0, 500_000), (1.0, 300_000)])
def test_a_price_per_second_has_a_minimum(duration_s: float, micro_usd: int) -> None:
    price = Price(per="second", micro_usd=100_000, source="price list", as_of="2025-01-01", minimum_units=3.0)
    model = Model(id="m", operations=("text-to-video",), price=price)
    found = estimate(VideoSpec(prompt="a lake", operation=TextToVideo(), duration_seconds=duration_s), model)
    assert found == Money(micro_usd, "price list", "2025-01-01", units=micro_usd / 100_000, unit="second")


@pytest.mark.parametrize(
    ("lines", "ratio", "size"),
    [
        ("720p", "16:9", (1280, 720)),
        ("720p", "9:16", (720, 1280)),
        ("480p", "16:9", (854, 480)),
        ("180p", "16:9", (320, 180)),
        ("1080p", "1:1", (1080, 1080)),
        ("360p", "21:9", (840, 360)),
    ],
)
def test_sizes_are_even(lines: str, ratio: str, size: tuple[int, int]) -> None:
    assert pixels(lines, ratio) == size


def test_every_size_of_the_local_model_is_even() -> None:
    sizes = [pixels(lines, ratio) for lines in MODEL.resolutions for ratio in MODEL.aspect_ratios]
    assert all(side % 2 == 0 for size in sizes for side in size)


@pytest.mark.parametrize("text", ["", "0:1", "16/9", "16:9:1", "-1:2", "square!"])
def test_what_is_no_ratio_is_none(text: str) -> None:
    assert ratio_of(text) is None


@pytest.mark.parametrize("text", ["", "p", "72p0", "720", "x720", "1x1"])
def test_what_is_no_resolution_is_none(text: str) -> None:
    assert resolution_of(text) is None
