"""What a provider must be told besides the key, and where it was reached: as the recorded traffic shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Final

from msgspec.structs import replace

from rushes.actors import messages as m
from rushes.adapters.base import Adapter, Ask, Failed, Request
from rushes.adapters.capabilities import Setting
from rushes.faults import RushesError
from rushes.flight import Exchange
from rushes.replay.recording import Recording
from rushes.replay.traffic import body_of, question_of
from rushes.replay.verify import Line
from rushes.video import JSON

ELSEWHERE: Final = ("download", "callback")
VALUE: Final = r"[A-Za-z0-9._:-]+"


def base_of(adapter: Adapter, ask: Ask, exchanges: Sequence[Exchange]) -> str | None:
    """Where the adapter's relative addresses began: at home, or where it was told; None: this request does not say."""
    own, url = adapter.address(), ask.url
    urls = [one.url for one in exchanges if one.provider == adapter.name and one.flow not in ELSEWHERE]
    if any(one.startswith(own) for one in urls):
        return own
    if "://" in url or url.startswith("@"):
        return None
    bare = (text for one in urls for text in (one, one.partition("?")[0]))
    return next((text.removesuffix(url) for text in bare if text.endswith(url)), None)


def informed(adapter: Adapter, recording: Recording, lines: Sequence[Line]) -> Adapter:
    """The adapter with its settings as they were, as far as the traffic shows them; with what it has itself else."""
    open_ones = {name for name, one in adapter.capabilities.settings.items() if not one.value}
    if not open_ones:
        return adapter
    words = {name: _word(name) for name in open_ones}
    request = first_request(_with(adapter, words), lines)
    if request is None:
        return adapter
    asked = question_of(1, "submit", adapter, request, "")
    patterns = [*_marked(asked.url), *_marked(body_of(asked.body))]
    seen: dict[str, str] = {}
    for exchange in recording.exchanges:
        if (exchange.flow, exchange.provider) == ("submit", adapter.name):
            for text in (exchange.url, *_texts(body_of(exchange.asked.body))):
                for pattern in patterns:
                    if found := pattern.search(text):
                        seen |= {name: value for name, value in found.groupdict().items() if name not in seen}
    return _with(adapter, {name: value for name, value in seen.items() if name in open_ones})


def _word(name: str) -> str:
    return f"rushes-setting-{name}"


def _with(adapter: Adapter, values: dict[str, str]) -> Adapter:
    """The adapter itself is left as it is."""
    settings: dict[str, Setting] = {
        name: replace(one, value=values.get(name, one.value or one.default))
        for name, one in adapter.capabilities.settings.items()
    }
    other = copy(adapter)
    other.capabilities = replace(adapter.capabilities, settings=settings)
    return other


def first_request(adapter: Adapter, lines: Sequence[Line]) -> Request | None:
    """What the first send to this provider would be; None where there was none."""
    requested, prepared = lines[0].event, dict[str, str]()
    for line in lines:
        match line.event:
            case m.InputsPrepared(prepared=now):
                prepared = now
            case m.SubmissionStarted(target=target, key=key) if target.provider == adapter.name:
                assert isinstance(requested, m.JobRequested)
                flow = adapter.submit(requested.spec, target, prepared, key)
                try:
                    ask = next(flow)
                except (Failed, RushesError, StopIteration):  # the re-run says why
                    return None
                finally:
                    flow.close()
                return ask if isinstance(ask, Request) else None
            case _:
                continue
    return None


def _marked(node: JSON) -> Iterator[re.Pattern[str]]:
    """A pattern of each text that a setting's word stands in."""
    for text in _texts(node):
        pattern, seen = re.escape(text), set[str]()
        for name in re.findall(re.escape(_word("")) + r"(\w+)", text):
            word = re.escape(_word(name))
            again = f"(?P={name})" if name in seen else f"(?P<{name}>{VALUE})"
            pattern = pattern.replace(word, again, 1)
            seen.add(name)
        if seen:
            yield re.compile(pattern)


def _texts(node: JSON) -> Iterator[str]:
    """The texts in JSON."""
    match node:
        case str():
            yield node
        case list():
            for one in node:
                yield from _texts(one)
        case dict():
            for one in node.values():
                yield from _texts(one)
        case _:
            return
