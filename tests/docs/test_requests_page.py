"""What docs/requests.md shows can be asked for as it stands, and its table is what the door holds."""

from __future__ import annotations

import re
from pathlib import Path

from rushes.adapters.catalogue import route
from rushes.adapters.local import Local
from rushes.intake import MAX_BYTES
from rushes.main import load_settings, with_models
from rushes.video import ROLES, VideoRequest, checked, decode

PAGE = (Path(__file__).parents[2] / "docs" / "requests.md").read_text("utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_every_request_on_the_page_passes_the_door() -> None:
    asked = [checked(decode(block.encode(), VideoRequest)) for block in blocks("json")]
    assert len(asked) == 5


def test_the_model_on_the_page_can_be_added(tmp_path: Path) -> None:
    (tmp_path / "rushes.toml").write_text("".join(blocks("toml")))
    settings = load_settings(environ={"RUSHES_CONFIG": str(tmp_path / "rushes.toml")})
    name, (row,) = route("small", with_models({"local": Local()}, settings.models))
    assert (name, row.id, row.durations_s, row.defaults.resolution) == ("local", "local-small", (5.0, 10.0), "360p")


def test_the_table_has_the_limits_and_the_roles_that_hold() -> None:
    for kind, roles in ROLES.items():
        (row,) = re.findall(rf"\| `{kind}` \| (\d+) MiB.*?\| (.*?) \|", PAGE)
        assert (int(row[0]) * 2**20, tuple(re.findall(r"`(\w+)`", row[1]))) == (MAX_BYTES[kind], roles)
