"""Names that older services used for whole families of models, and what they stand for today.

`veo-3.1-fast`, `gemini`, `sora`, `kling`: at the addresses that were made for them these mean the first model of the
family that can be used here now and takes the request; the answer has both names. Anywhere else they mean nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from msgspec import Struct

from rushes.adapters.catalogue import Named, is_gone


class Family(Struct, frozen=True):
    """Models that are one thing to callers."""

    name: str  # what answers call their provider
    begins: tuple[str, ...]  # the names that mean it begin so
    among: tuple[str, ...]  # provider/model, or how that begins, in the order in which they are tried


FAMILIES: Final = (
    Family("gemini", ("veo", "gemini"), ("veo/", "omni/", "veo_gemini/", "runway/veo", "openrouter/google/veo")),
    Family("openai", ("sora", "openai"), ("sora/",)),
    Family("klingai", ("kling",), ("kling/", "kling_legacy/")),
)
DEFAULT: Final = "veo-3.1-fast"  # at those addresses


def family_of(wanted: str) -> Family | None:
    """The family that a name stands for."""
    return next((family for family in FAMILIES if wanted.lower().startswith(family.begins)), None)


def members(
    wanted: str, adapters: Mapping[str, Named], today: str = "", explicit: Collection[str] = ()
) -> Iterator[str]:
    """What a name may mean, as provider/model, the likeliest first: ids that begin like it, then the family's order.

    Models that were switched off by `today` are left out, but for providers whose address was set (`explicit`).
    """
    family = family_of(wanted)
    if family is None:
        return
    every = [
        f"{each.name}/{name}"
        for each in adapters.values()
        for name in dict.fromkeys(model.id for model in each.capabilities.models)
        if each.name in explicit or not is_gone(each, name, today)
    ]
    mine = [name for begin in family.among for name in every if name.startswith(begin)]
    yield from sorted(mine, key=lambda name: not _alike(wanted, name))


def _alike(wanted: str, name: str) -> bool:
    """Whether an id is the wanted name and no more than words that tell a release: veo-3.1-fast-generate-001."""
    rest = name.rpartition("/")[2].lower().removeprefix(wanted.lower())
    return rest != name.rpartition("/")[2].lower() and rest in {"", "-generate-001", "-generate-preview"}
