"""What OpenRouter says that a video has cost."""

from __future__ import annotations

from decimal import Decimal

from msgspec import Struct

from rushes.units import Billed, Money


class Usage(Struct):
    """Of one video; no figure until there is one."""

    cost: Decimal | None = None  # US dollars
    is_byok: bool = False  # the maker was paid with the caller's own key: `cost` is OpenRouter's fee alone

    def money(self) -> Money | None:
        """What it cost."""
        if self.cost is None or not self.cost.is_finite():
            return None
        source = "openrouter's usage.cost" + (", its fee alone" if self.is_byok else "")
        return Money(round(self.cost * 1_000_000), source=source, units=float(self.cost), unit="usd")

    def billed(self) -> Billed:
        """Nothing of what has failed is free unless they say so; the maker's own bill to a caller is not seen."""
        return "yes" if self.cost else "unknown" if self.cost is None or self.is_byok else "no"
