"""What `make sdk-parity` calls a difference. The SDKs themselves are not here: it runs them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from parity.compare import Difference, Explained, Said, differences, read_explained, said, verdict, without_repeats
from rushes.emulators.ledger import Line

EXPLAINED = Path(__file__).parents[2] / "parity" / "differences.toml"
MADE = Line(
    provider="acme",
    at=1.0,
    method="POST",
    path="/v1/clips",
    headers={"authorization": "Bearer …", "content-type": "application/json", "user-agent": "acme-python/1"},
    body={"prompt": "a lake", "seconds": 5, "frames": [{"uri": "a"}]},
)


def told(theirs: Line, ours: Line, **names: str) -> list[str]:
    return [*differences([said(theirs, names)], [said(ours, names)])]


def changed(**members: object) -> Line:
    return msgspec.structs.replace(MADE, **members)


def test_the_same_request_has_no_difference() -> None:
    assert told(MADE, changed(at=2.0)) == []


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ({"method": "PUT"}, 'method: "POST", ours "PUT"'),
        ({"path": "/clips"}, 'path: "/v1/clips", ours "/clips"'),
        ({"query": {"wait": "1"}}, 'query.wait: absent, ours "1"'),
        ({"body": None}, None),
        ({"body": {**MADE.body, "prompt": "a pond"}}, 'body.prompt: "a lake", ours "a pond"'),  # type: ignore[dict-item]
        ({"body": {**MADE.body, "seconds": 5.0}}, "body.seconds: 5, ours 5.0"),  # type: ignore[dict-item]
        ({"body": {**MADE.body, "seed": None}}, "body.seed: absent, ours null"),  # type: ignore[dict-item]
        ({"body": {**MADE.body, "frames": []}}, "body.frames: absent, ours []"),  # type: ignore[dict-item]
        ({"headers": {**MADE.headers, "prefer": "wait"}}, 'headers.prefer: absent, ours "wait"'),
    ],
)
def test_one_thing_that_differs_is_a_difference(members: dict[str, object], what: str | None) -> None:
    found = told(MADE, changed(**members))
    assert found
    assert what is None or what in found


def test_how_a_client_calls_itself_and_the_edge_of_a_form_are_none() -> None:
    headers = {**MADE.headers, "user-agent": "rushes/1", "x-stainless-lang": "python"}
    assert told(MADE, changed(headers=headers)) == []
    one, other = ({"content-type": f"multipart/form-data; boundary={edge}"} for edge in "ab")
    assert told(changed(headers=one), changed(headers=other)) == []


def part(name: str, content: str, filename: str = "") -> dict[str, str]:
    return {"name": name, "filename": filename, "media_type": "", "content": content}


def test_the_parts_of_a_form_are_held_together_by_their_names() -> None:
    words, file = [part("model", "m"), part("prompt", "p")], part("image", "i", "a.png")
    assert told(changed(body=[*words, file]), changed(body=[*words[::-1], file])) == []
    assert told(changed(body=words), changed(body=[words[0], part("prompt", "x")])) == [
        'body.part prompt.content: "p", ours "x"'
    ]


def test_a_part_that_comes_after_a_file_is_a_difference() -> None:
    words, file = part("model", "m"), part("image", "i", "a.png")
    assert told(changed(body=[words, file]), changed(body=[file, words])) == [
        'body.after the file: absent, ours "model"'
    ]


def test_ids_that_stand_for_the_same_are_the_same() -> None:
    one, other = changed(path="/v1/clips/a1", body={"id": "a1"}), changed(path="/v1/clips/b2", body={"id": "b2"})
    assert told(one, other) != []
    assert told(one, other, a1="{clip}", b2="{clip}") == []


def test_a_request_that_only_one_of_them_makes_is_a_difference() -> None:
    one, other = said(MADE, {}), Said(method="GET", path="/v1/files")
    assert [*differences([one], [one, other])] == ["request 2, whole: absent, ours GET /v1/files"]
    assert without_repeats([one, one, other, one]) == [one, other, one]


WHAT = "body.seed: 7, ours absent"
FOUND = Difference(sdk="acme", call="clips.create", what=WHAT)
KNOWN = Explained(sdk="acme", calls=("clips.create",), what=WHAT, why="It draws one itself.")


def test_only_a_difference_that_is_explained_passes() -> None:
    assert verdict([FOUND], [KNOWN], ["acme"]) == []
    assert verdict([FOUND], [], ["acme"]) == [f"not explained: acme, clips.create: {WHAT}"]
    other = msgspec.structs.replace(KNOWN, calls=("clips.create", "clips.get"))
    assert verdict([FOUND], [other], ["acme"]) == [f"explained, but gone: acme, clips.get: {WHAT}"]


def test_an_explanation_of_what_is_gone_fails_unless_its_sdk_was_not_run_to_the_end() -> None:
    assert verdict([], [KNOWN], ["acme"]) == [f"explained, but gone: acme, clips.create: {WHAT}"]
    assert verdict([], [KNOWN], []) == []


def test_every_explanation_in_the_file_says_why() -> None:
    explained = read_explained(EXPLAINED)
    assert explained
    places = [(one.sdk, call, one.what) for one in explained for call in one.calls]
    assert len(set(places)) == len(places)


def test_an_explanation_without_a_reason_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "differences.toml"
    file.write_text('[[difference]]\nsdk = "acme"\ncalls = ["a"]\nwhat = "b"\nwhy = ""\n')
    with pytest.raises(msgspec.ValidationError, match="why"):
        read_explained(file)
