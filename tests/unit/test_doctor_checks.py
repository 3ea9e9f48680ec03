"""What `rushes doctor` sees in the environment and on the disk, and what it says to do."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from rushes.cli.checks import FULL_BYTES, KEYS_OF, LOW_BYTES, NETWORKED, callbacks, disk, kind_of_disk, variables
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


PUBLIC = "https://video.example"
SIGNING = "whsec_" + base64.b64encode(SECRET.encode() * 2).decode()


def told_of_callbacks(public_url: str, **environ: str) -> dict[str, str]:
    checks = callbacks(public_url, ADAPTERS, environ)
    assert all(secret not in check.detail for check in checks for secret in (SECRET, SIGNING))
    return {check.name: f"{check.state}: {check.detail}" for check in checks}


@pytest.mark.parametrize(
    ("public_url", "says"),
    [
        ("video.example", "unusable: it is no whole address"),
        ("https://", "unusable: it is no whole address"),
        ("//video.example", "unusable: it is no whole address"),
        ("http://video.example", "unusable: providers call over https:// alone: put a proxy"),
        ("https://video.example?a=b", "unusable: there is a query"),
        ("https://video.example/#a", "unusable: there is a query"),
        (f"https://{SECRET}@video.example", "unusable: "),
        ("https://video example", "unusable: "),
        ("https://video.example:0", "unusable: "),
        ("https://video.example:99999", "unusable: "),
        ("https://video.example/\n", "unusable: "),
        ("ftp://video.example", "unusable: "),
        ("https://[video", "unusable: "),
        ("https://10.0.0.7", "warning: 10.0.0.7 means nothing outside"),
        ("https://[fd00::1]:8443", "warning: fd00::1 means nothing outside"),
        ("https://169.254.169.254", "warning: 169.254.169.254 means nothing outside"),
        ("https://studio", "warning: studio means nothing outside"),
        ("https://studio.local", "warning: studio.local means nothing outside"),
        ("http://127.0.0.1:8484", "warning: 127.0.0.1 means nothing outside"),
        ("http://localhost:8484", "warning: localhost means nothing outside"),
        ("https://video.example/v1/webhooks/", "warning: it holds /v1/webhooks/"),
        ("", "ok: not set: no provider is asked"),
        (PUBLIC, "ok: https://video.example: `rushes serve`, and no other verb, asks kling, openrouter, replicate"),
        ("https://video.example:8443/studio/", "ok: https://video.example:8443/studio: `rushes serve`"),
        ("https://8.8.8.8", "ok: https://8.8.8.8"),
    ],
)
def test_a_public_address_that_providers_cannot_call_is_told_with_the_way_out(public_url: str, says: str) -> None:
    found = told_of_callbacks(public_url)
    assert list(found) == ["public_url"]
    assert found["public_url"].startswith(says)


@pytest.mark.parametrize(
    ("public_url", "environ", "says"),
    [
        (PUBLIC, {"OPENROUTER_API_KEY": "x"}, "ok: not set: callbacks of openrouter are known by their address alone"),
        (
            "",
            {"OPENROUTER_WEBHOOK_SECRET": SECRET},
            "warning: no provider is asked to call back: set RUSHES_PUBLIC_URL",
        ),
    ],
)
def test_what_a_callback_secret_would_do_is_said(public_url: str, environ: dict[str, str], says: str) -> None:
    assert told_of_callbacks(public_url, **environ)["OPENROUTER_WEBHOOK_SECRET"].startswith(says)


def test_a_callback_secret_that_is_none_is_named_before_a_server_refuses_to_start() -> None:
    for public_url in ("", PUBLIC):
        found = told_of_callbacks(public_url, REPLICATE_WEBHOOK_SECRET=SECRET)
        assert found["REPLICATE_WEBHOOK_SECRET"].startswith("unusable: REPLICATE_WEBHOOK_SECRET cannot be used.")


@pytest.mark.parametrize(
    ("public_url", "environ"),
    [
        (PUBLIC, {"REPLICATE_API_TOKEN": "x", "REPLICATE_WEBHOOK_SECRET": SIGNING}),
        (PUBLIC, {}),  # who has no key is not asked for a clip
        (PUBLIC, {"RUNWAYML_API_SECRET": "x"}),  # who never calls back needs no secret
        ("", {"REPLICATE_API_TOKEN": "x"}),
        ("", {"REPLICATE_WEBHOOK_SECRET": ""}),
    ],
)
def test_control_nothing_is_said_of_secrets_that_are_right(public_url: str, environ: dict[str, str]) -> None:
    assert list(told_of_callbacks(public_url, **environ)) == ["public_url"]
