"""What often is wrong around a data folder: variables, disks, clocks. Each check says what to do."""

from __future__ import annotations

import asyncio
import difflib
import ipaddress
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp
from msgspec import Struct

from rushes.adapters.base import Adapter, read_json
from rushes.adapters.callbacks import PATH, base_of, verifier_of
from rushes.api.auth import is_loopback
from rushes.api.protocol import Problem
from rushes.cli.screen import size
from rushes.faults import BadRequest
from rushes.main import PREFIX, Settings, credentials_of

State = Literal["ok", "warning", "unusable"]


class Check(Struct, frozen=True):
    """One thing that was looked at. A warning stops nothing."""

    name: str
    state: State
    detail: str


# ── variables ─────────────────────────────────────────────────────────────────────────────────────────────────────────

KEYS_OF: Final[Mapping[str, tuple[str, frozenset[str]]]] = {
    "r8_": ("Replicate", frozenset({"replicate"})),
    "key_": ("Runway", frozenset({"runway"})),
    "sk-or-": ("OpenRouter", frozenset({"openrouter"})),
    "sk-proj-": ("OpenAI", frozenset({"sora"})),
    "sk-ant-": ("Anthropic", frozenset()),
    "xai-": ("xAI", frozenset({"xai"})),
    "AIza": ("Google", frozenset({"omni", "veo_gemini"})),
}
"""How keys begin, whose they are, and who takes them here: by the providers' pages, and tools that find leaked keys."""
PEM: Final = "-----BEGIN"


def variables(adapters: Mapping[str, Adapter], environ: Mapping[str, str]) -> list[Check]:
    """What is wrong with keys, addresses and settings in the environment. Values are never shown."""
    found = {check.name: check for check in [*_keys(adapters, environ), *_addresses(adapters, environ)]}
    return [*found.values(), *_settings(adapters, environ)]


def _keys(adapters: Mapping[str, Adapter], environ: Mapping[str, str]) -> Iterator[Check]:
    takers: dict[str, set[str]] = {}
    files: set[str] = set()
    for name, adapter in adapters.items():
        auth = adapter.capabilities.auth
        for variable in (part for one in (auth.env if auth else ()) for part in one.split("+")):
            takers.setdefault(variable, set()).add(name)
        files |= auth.files if auth else frozenset()
    elsewhere = {name for name, adapter in adapters.items() if environ.get(adapter.capabilities.base_url_env)}
    for variable, names in takers.items():
        value = environ.get(variable)
        if value is not None and (wrong := _wrong_key(value, names, names & elsewhere, variable in files)):
            yield Check(variable, "warning", wrong)


def _wrong_key(value: str, takers: set[str], elsewhere: set[str], is_file: bool) -> str:
    """What is wrong with a key, and what to do; empty where nothing is seen."""
    if not value.strip():
        return "it is set and empty: put the key into it, or unset it"
    if value != value.strip() and PEM not in value:
        return "there are blanks or line breaks around its value: take them away"
    if value[0] in "'\"" and value[-1] == value[0]:
        return "there are quotation marks in its value: take them away"
    if is_file:
        return "" if Path(value).expanduser().is_file() else "it names a file, and there is none: give the path of one"
    for beginning, (whose, ours) in KEYS_OF.items():
        if value.startswith(beginning) and not (takers & ours or elsewhere):
            return f"it begins with {beginning} as keys of {whose} do: are two keys in each other's place?"
    return ""


def _addresses(adapters: Mapping[str, Adapter], environ: Mapping[str, str]) -> Iterator[Check]:
    data = [adapter.capabilities for adapter in adapters.values()]
    names = [one.base_url_env for one in data] + [its.env for one in data for its in one.services.values()]
    for variable in dict.fromkeys(names):
        value = environ.get(variable, "")
        parts = urlsplit(value)
        if value and not (re.match(r"https?://", value) and parts.hostname):
            yield Check(variable, "unusable", "it is no address: write it whole, as in https://api.example.com/v1")
        elif parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            yield Check(
                variable, "warning", "over http:// to another machine a key can be read on the way: use https://"
            )


def _settings(adapters: Mapping[str, Adapter], environ: Mapping[str, str]) -> Iterator[Check]:
    known = {PREFIX + name.upper() for name in (*Settings.__struct_fields__, "config")}
    known |= {adapter.capabilities.base_url_env for adapter in adapters.values()}
    for variable in sorted(name for name in environ if name.startswith(PREFIX) and name not in known):
        close = difflib.get_close_matches(variable, known, n=1, cutoff=0.6)
        yield Check(variable, "warning", f"there is no such setting{f': is {close[0]} meant?' if close else ''}")


# ── disks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

NETWORKED: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "drvfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
    | {f"fuse.{name}" for name in ("ceph", "gcsfuse", "glusterfs", "rclone", "s3fs", "sshfs")}
)
MOUNTS: Final = Path("/proc/mounts")  # Linux
LOW_BYTES: Final = 2**30  # some dozens of takes
FULL_BYTES: Final = 50 * 2**20


def disk(folder: Path, mounts: str | None = None, free_bytes: int | None = None) -> Check:
    """What kind of disk the folder is on, and how much room there is; both are read where they are not given."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if mounts is None:
        mounts = MOUNTS.read_text("utf-8", "replace") if MOUNTS.is_file() else ""
    kind = kind_of_disk(there.resolve(), mounts)
    if kind in NETWORKED:
        told = f"{folder} is on a network ({kind}), where locks and syncs do not always hold"
        return Check("disk", "warning", f"{told}: give a folder on this machine's own disk with --data")
    free_bytes = shutil.disk_usage(there).free if free_bytes is None else free_bytes
    if free_bytes < LOW_BYTES:
        state: State = "unusable" if free_bytes < FULL_BYTES else "warning"
        return Check("disk", state, f"{size(free_bytes)} free: make room, or give another folder with --data")
    return Check("disk", "ok", f"{size(free_bytes)} free{f', {kind}' if kind else ''}")


def kind_of_disk(path: Path, mounts: str) -> str:
    """The file system that a path is on, by a table of mounts as Linux has it; empty where that does not say."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) > 2:
            point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[1])
            if path.is_relative_to(point) and len(point) >= best:  # a later one lies on top
                best, kind = len(point), fields[2]
    return kind


# ── clocks ────────────────────────────────────────────────────────────────────────────────────────────────────────────

ASK_S: Final = 5.0
SKEW_S: Final = 60.0  # signatures and signed addresses allow some minutes at the most


async def providers_online(addresses: Sequence[str]) -> list[Check]:
    """Whether the servers at these addresses can be reached, and what time it is there. Nothing but that is asked."""
    if not addresses:
        return [Check("clock", "ok", "there is nobody to compare it with: no provider has a key")]
    timeout = aiohttp.ClientTimeout(total=ASK_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return list(await asyncio.gather(*(_online(session, address) for address in addresses)))


async def _online(session: aiohttp.ClientSession, address: str) -> Check:
    host = urlsplit(address).netloc
    began = time.time()
    try:
        async with session.head(address, allow_redirects=False) as reply:
            at = parsedate_to_datetime(reply.headers["Date"]).timestamp()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        told = f"{host} cannot be reached ({type(error).__name__}): look at the network, and at a firewall or a proxy"
        return Check("clock", "warning", told)
    except (KeyError, ValueError):
        return Check("clock", "ok", f"{host} answers, and does not say what time it is")
    ahead_s = (began + time.time()) / 2 - at
    if abs(ahead_s) > SKEW_S:
        told = f"it is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} {host}"
        return Check("clock", "warning", f"{told}: set it, or signatures and links will not be taken for valid")
    return Check("clock", "ok", f"it agrees with {host}")


# ── callbacks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PUBLIC: Final = "public_url"
HERE_ALONE: Final = (".localhost", ".local", ".internal", ".home.arpa", ".lan")  # names that mean nothing elsewhere
ANSWER_BYTES: Final = 65_536
PROBLEM: Final = "urn:rushes:problem:"
FORWARD: Final = f"have the proxy forward POST {PATH}… to `rushes serve`, and the Host that was asked for with it"


def callbacks(public_url: str, adapters: Mapping[str, Adapter], environ: Mapping[str, str]) -> list[Check]:
    """What is wrong with where providers shall call back, and with the secrets that they sign with. Nobody is asked."""
    hooks = {name: hook for name, one in adapters.items() if (hook := one.capabilities.webhook) is not None}
    checks = [_public_url(public_url, ", ".join(hooks))]
    for name, hook in hooks.items():
        if secret := environ.get(hook.env, ""):
            try:
                verifier_of(hook, secret)
            except BadRequest as error:
                checks.append(Check(hook.env, "unusable", error.detail))
            else:
                unused = f"no provider is asked to call back: set {PREFIX}PUBLIC_URL too, or unset it"
                checks += [] if public_url else [Check(hook.env, "warning", unused)]
        elif public_url and credentials_of({name: adapters[name]}, environ):
            told = f"not set: callbacks of {name} are known by their address alone; with it they must be signed as well"
            checks.append(Check(hook.env, "ok", told))
    return checks


def _public_url(public_url: str, callers: str) -> Check:
    if not public_url:
        return Check(PUBLIC, "ok", "not set: no provider is asked to call back")
    if wrong := _wrong_address(public_url):
        return Check(PUBLIC, "unusable", wrong)
    base, host = base_of(public_url)
    if _is_here_alone(host):
        told = f"{host} means nothing outside this machine or its network: give a name that providers can reach"
        return Check(PUBLIC, "warning", f"{told}; only emulators here can call it")
    if PATH.rstrip("/") in base:
        return Check(PUBLIC, "warning", f"it holds {PATH}, which is put behind it anyway: take that away")
    return Check(PUBLIC, "ok", f"{base}: `rushes serve`, and no other verb, asks {callers} to call back")


def _wrong_address(public_url: str) -> str:
    """Why nobody could start with it, and what to do; empty where it can be used."""
    try:
        base_of(public_url)
    except BadRequest as error:
        told = error.detail
    else:
        return ""
    scheme, _, rest = public_url.partition("://")
    if not rest:
        return "it is no whole address: write it as https://HOST"
    if scheme == "http":
        return "providers call over https:// alone: put a proxy with TLS before the server, and give its address"
    if set("?#") & set(rest):
        return "there is a query or a fragment in it, and every callback has its own: take it away"
    return told


def _is_here_alone(host: str) -> bool:
    """Whether a host can be found from this machine or its network alone, as far as its name tells."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(HERE_ALONE)


async def callbacks_online(public_url: str, adapters: Mapping[str, Adapter], server: str) -> list[Check]:
    """Whether a callback would come in, as far as that can be seen from here.

    What is asked is refused by a good server: the address has no code. `server` is where ours answers; empty: nowhere.
    """
    name = next((name for name, one in adapters.items() if one.capabilities.webhook is not None), "")
    if not (public_url and name) or _wrong_address(public_url):
        return []
    if not server:
        return [Check("callbacks", "ok", "not tried: no server runs that would hear them")]
    base, _ = base_of(public_url)
    timeout = aiohttp.ClientTimeout(total=ASK_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            state, told = _called(*await _said(session, "POST", f"{base}{PATH}{name}"))
            if state == "ok" and (await _said(session, "GET", f"{base}/v1/jobs/doctor"))[1] == "not_found":
                state = "warning"
                told = f"it lets anybody in, not callbacks alone, and there are no keys: {FORWARD}, and nothing else"
    except aiohttp.ClientSSLError as error:
        state = "warning"
        told = f"its TLS is not good ({type(error).__name__}): put a proxy with a good certificate before the server"
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        state = "warning"
        told = f"it cannot be reached ({type(error).__name__}): look at its name, at the proxy and at a firewall"
    return [Check("callbacks", state, told)]


async def _said(session: aiohttp.ClientSession, method: str, url: str) -> tuple[int, str]:
    """The status, and the code of the problem where it was rushes that told one."""
    async with session.request(method, url, allow_redirects=False) as reply:
        body = bytearray()
        async for chunk in reply.content.iter_any():
            body += chunk
            if len(body) > ANSWER_BYTES:
                break
    problem = read_json(bytes(body), Problem)
    return reply.status, problem.code if problem and problem.type.startswith(PROBLEM) else ""


def _called(status: int, code: str) -> tuple[State, str]:
    """What the answer to a callback without a code means."""
    if code == "forbidden":
        return "ok", "rushes answers there, as far as can be seen from this machine"
    if code:
        told = f"rushes answers there, and takes nothing for a callback ({status} {code})"
        return "warning", f"{told}: start `rushes serve` with this public_url, and {FORWARD}"
    if 300 <= status < 400:
        return "warning", f"it leads elsewhere ({status}), which providers do not follow: give where that ends instead"
    return "warning", f"it is not rushes that answers there ({status}): {FORWARD}"
