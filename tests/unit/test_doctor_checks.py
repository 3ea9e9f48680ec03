"""What `rushes doctor` sees in the environment and on the disk, and what it says to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from rushes.cli.checks import FULL_BYTES, KEYS_OF, LOW_BYTES, NETWORKED, disk, kind_of_disk, variables
from rushes.main import credentials_of, installed_adapters

ADAPTERS = installed_adapters()
SECRET = "0123456789abcdef"


def told(**environ: str) -> dict[str, str]:
    """What is said of each variable."""
    checks = variables(ADAPTERS, environ)
    assert all(SECRET not in check.detail for check in checks)
    return {check.name: f"{check.state}: {check.detail}" for check in checks}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("REPLICATE_API_TOKEN", "", "warning: it is set and empty"),
        ("REPLICATE_API_TOKEN", "  ", "warning: it is set and empty"),
        ("KLING_SECRET_KEY", "", "warning: it is set and empty"),  # a part of two
        ("REPLICATE_API_TOKEN", f" r8_{SECRET}", "warning: there are blanks"),
        ("REPLICATE_API_TOKEN", f"r8_{SECRET}\n", "warning: there are blanks"),
        ("REPLICATE_API_TOKEN", f'"r8_{SECRET}"', "warning: there are quotation marks"),
        ("REPLICATE_API_TOKEN", f"xai-{SECRET}", "warning: it begins with xai- as keys of xAI do"),
        ("XAI_API_KEY", f"r8_{SECRET}", "warning: it begins with r8_ as keys of Replicate do"),
        ("OPENAI_API_KEY", f"sk-or-{SECRET}", "warning: it begins with sk-or- as keys of OpenRouter do"),
        ("RUNWAYML_API_SECRET", f"AIza{SECRET}", "warning: it begins with AIza as keys of Google do"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json", "warning: it names a file, and there is none"),
        ("RUNWAYML_BASE_URL", "api.example.com", "unusable: it is no address"),
        ("RUNWAYML_BASE_URL", "localhost:8080/v1", "unusable: it is no address"),
        ("RUNWAYML_BASE_URL", "http://api.example.com", "warning: over http:// to another machine"),
        ("RUSHES_DATADIR", "/data", "warning: there is no such setting: is RUSHES_DATA meant?"),
        ("RUSHES_COLOUR", "red", "warning: there is no such setting"),
    ],
)
def test_what_is_wrong_with_a_variable_is_said_with_the_way_out(name: str, value: str, says: str) -> None:
    found = told(**{name: value})
    assert list(found) == [name]
    assert found[name].startswith(says)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"REPLICATE_API_TOKEN": f"r8_{SECRET}", "XAI_API_KEY": f"xai-{SECRET}", "GOOGLE_API_KEY": f"AIza{SECRET}"},
        {"KLINGAI_API_KEY": "anything"},
        {"VEO_PRIVATE_KEY": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"},
        {"GOOGLE_APPLICATION_CREDENTIALS": __file__},
        {"OPENAI_API_KEY": f"sk-or-{SECRET}", "OPENAI_BASE_URL": "https://openrouter.ai/api/v1"},  # a gateway's own
        {"RUNWAYML_BASE_URL": "http://127.0.0.1:9000", "XAI_BASE_URL": "", "KLING_BASE_URL": "https://a.example"},
        {"RUSHES_DATA": "/data", "RUSHES_LOG_LEVEL": "debug", "RUSHES_CONFIG": "a.toml"},
    ],
)
def test_control_nothing_is_said_of_what_is_right(environ: dict[str, str]) -> None:
    assert told(**environ) == {}


def test_every_beginning_is_of_an_adapter_that_there_is() -> None:
    for _, takers in KEYS_OF.values():
        assert takers <= set(ADAPTERS)
    assert credentials_of(ADAPTERS, {"REPLICATE_API_TOKEN": ""}) == {}  # an empty key counts as none: hence the check


TABLE = r"""
/dev/sda1 / ext4 rw 0 0
server:/export /home/me nfs4 rw 0 0
/dev/sdb1 /home/me/local xfs rw 0 0
//nas/films /mnt/my\040films cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/rushes", "ext4"),
        ("/home/me/videos", "nfs4"),
        ("/home/me/local/videos", "xfs"),
        ("/home/metoo", "ext4"),
        ("/mnt/my films/a", "cifs"),
    ],
)
def test_the_disk_is_the_one_that_is_mounted_nearest(path: str, kind: str) -> None:
    assert kind_of_disk(Path(path), TABLE) == kind
    assert kind_of_disk(Path(path), "") == ""  # nothing tells, as on a Mac


def test_a_folder_on_a_network_or_on_a_full_disk_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    seen = disk(folder, f"nas:/x {tmp_path.resolve()} nfs rw 0 0")
    assert (seen.state, "nfs" in seen.detail, "--data" in seen.detail) == ("warning", True, True)
    assert "nfs" in NETWORKED
    assert disk(folder, "", free_bytes=LOW_BYTES - 1).state == "warning"
    assert disk(folder, "", free_bytes=FULL_BYTES - 1).state == "unusable"
    assert disk(folder, "", free_bytes=LOW_BYTES).state == "ok"
    assert "free" in disk(folder).detail  # as it is here
