"""Kling's bill for a task: cash, units of a pack that was paid before, or both."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from rushes.units import Billed, Money


class Charge(Struct, frozen=True):
    """One line of it."""

    charge_type: str  # cash, unit
    amount: Annotated[str, Meta(pattern=r"^\d{1,9}(\.\d{1,9})?$")]
    currency: str = "units"  # of cash its own


class Bill(Struct, frozen=True):
    """All of it."""

    charges: list[Charge]

    def cost(self) -> Money | None:
        """The dollars, with the units beside them; None where dollars are not all. A pack's units have no price."""
        cash = [charge for charge in self.charges if charge.charge_type == "cash"]
        units = [float(charge.amount) for charge in self.charges if charge.charge_type == "unit"]
        if not cash or any(charge.currency != "USD" for charge in cash):
            return None
        micro_usd = round(sum(Decimal(charge.amount) for charge in cash) * 1_000_000)
        return Money(
            micro_usd, source="kling's bill", units=sum(units) if units else None, unit="unit" if units else ""
        )

    def told(self) -> dict[str, str]:
        """As a job's metadata."""
        text = ", ".join(f"{charge.amount} {charge.currency}" for charge in self.charges)
        return {"billing": text} if text else {}

    def billed(self) -> Billed:
        """Whether a task that failed was: it is not, unless the bill says so."""
        return "yes" if any(Decimal(charge.amount) for charge in self.charges) else "no"


def bill_of(told: object) -> Bill:
    """What an answer says; an empty one where it cannot be read: the clip counts more."""
    try:
        return Bill(msgspec.convert(told or [], list[Charge]))
    except msgspec.ValidationError:
        return Bill([])
