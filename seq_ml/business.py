"""What a business tells Seqline about itself: the `business:` part of a source mapping.

Kept apart from the operator's settings: these values change the numbers in the tables, so they
travel with the data (`sources/<name>.yaml` in the bucket), not with a machine.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from seq_ml.roles import (
    BROWSING,
    CONVERSION,
    COUNTED,
    MOST_BEHAVIOURS,
    OTHER,
    SALE,
    STANDARD,
    Role,
)
from seq_ml.settings import FIRST_DAY

if TYPE_CHECKING:
    import polars as pl

RULES_VERSION = "5"
"""Version of the code in `seq_ml.clean`: raise it with every change of what a rule decides."""


DERIVED = "Empty: by the rule of `seq_ml.periods`, from the rhythm of the business."


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Action(_Part):
    """Something that keeps users, and what the business assumes it does."""

    name: str = Field(min_length=1, description="What is done, such as coupon.")
    cost: float = Field(ge=0, description="Currency units for one user, discounts included.")
    save_rate: float = Field(
        gt=0,
        le=1,
        description="Share of those who would churn that it keeps: the business's own assumption "
        "(from an earlier test, say), never measured by Seqline.",
    )


class Churn(_Part):
    """Definitions of churn: silence (no order), decline (spend falls), non-renewal of contracts."""

    silence_active_weeks: int | None = Field(
        None, ge=1, le=104, description=f"At least one order in so many weeks. {DERIVED}"
    )
    silence_weeks: int | None = Field(
        None, ge=1, le=52, description=f"No order in the next weeks is churn. {DERIVED}"
    )
    decline_active_orders: int | None = Field(
        None, ge=1, description=f"At least so many orders in the window. {DERIVED}"
    )
    decline_weeks: int | None = Field(
        None, ge=1, le=52, description=f"Weeks whose spend is compared. {DERIVED}"
    )
    decline_share: float = Field(0.5, gt=0, lt=1, description="Spend below this share is churn.")
    renewal_days: int = Field(
        31, ge=1, le=365, description="Contracts that run out within so many days are asked about."
    )
    renewal_grace_days: int = Field(
        7, ge=0, le=90, description="A next term that starts so much later still is a renewal."
    )
    actions: tuple[Action, ...] = Field(
        (), description="What can be done to keep a user; empty: by rule, without a gain."
    )


class Inventory(_Part):
    """Replenishment terms."""

    # Together at most 25 weeks, so that the 26 that a forecast looks back on hold two of them.
    lead_time_days: int = Field(7, ge=0, le=120, description="Days from order to delivery.")
    review_period_days: int = Field(7, ge=1, le=55, description="Days between orders.")
    service_level: float = Field(0.95, gt=0.5, lt=1, description="Probability of no stock-out.")


class Recommendations(_Part):
    """Length of the lists and their business rules."""

    horizon_days: int | None = Field(
        None, ge=1, le=364, description=f"Window that a purchase is predicted for. {DERIVED}"
    )
    per_user: int = Field(20, ge=1, le=200, description="Rows per user.")
    allow_repeats: bool | None = Field(
        None,
        description="Whether people are offered what they had before; empty: where at least a "
        "tenth of the conversions are repeats.",
    )
    new_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of a list that goes to new items; 0: none. Empty: as many as people "
        "buy, at most half and at least one where something is new.",
    )
    deny_items: tuple[str, ...] = Field((), description="Items never shown.")


class Ads(_Part):
    """Cost, budget and exploration of campaigns."""

    contact_cost: float = Field(0.5, ge=0, description="Currency units for one contact.")
    explore_share: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Share decided by chance, to learn what a contact changes; 0: never.",
    )
    budget: int | None = Field(
        None,
        ge=0,
        description="Contacts that one prediction day may make, over all campaigns; empty: every "
        "contact that pays. An amount of money is so many contacts: amount / contact_cost.",
    )


class Windows(_Part):
    """How far features look back and values ahead."""

    window_days: int | None = Field(
        None, ge=28, le=728, description=f"What features read of the past. {DERIVED}"
    )
    recent_days: int | None = Field(
        None, ge=7, le=364, description=f"What counts as lately, and who is new. {DERIVED}"
    )
    value_days: int | None = Field(
        None, ge=14, le=364, description=f"Days over which spend is expected. {DERIVED}"
    )
    origin_step_days: int | None = Field(
        None, ge=7, le=364, description=f"Days between two training origins. {DERIVED}"
    )


class Cleaning(_Part):
    """What makes an event unfit; a change cleans every day anew."""

    future_tolerance_minutes: int = Field(
        60,
        ge=0,
        le=1440,
        description="How much later than its file's arrival an event may claim to be.",
    )
    lateness_days: int | None = Field(
        None, ge=0, description="Events that arrive later are quarantined; empty: never too late."
    )
    duplicate_window_seconds: float = Field(
        0, ge=0, description="Equal browsing events so close together are one (double clicks)."
    )
    bot_events_per_minute: int = Field(
        120, ge=1, description="Who browses faster is a bot in that minute."
    )
    bot_regular_events: int = Field(
        200, ge=10, description="So many browsing events of a day at an even pace are a scraper's."
    )
    max_quantity: float = Field(10_000, gt=0, description="More units in one event are absurd.")
    max_unit_price: float = Field(
        100_000, gt=0, description="Higher prices in the business's currency are absurd."
    )


class Business(_Part):
    """Calendar, money and task terms of one business."""

    timezone: str = Field("UTC", description="Zone whose midnights cut days and weeks.")
    currency: str = Field("USD", description="ISO 4217 code.", min_length=3, max_length=3)
    conversion: tuple[str, ...] = Field(
        (),
        description="Behaviours that are the conversion: what recommendations, churn, ads and "
        "values speak of. Empty: those whose role is conversion, purchase among them.",
    )
    behaviours: dict[str, Role] = Field(
        {},
        description="The business's own behaviours, each with its role; those that a mapping "
        "names are added to them.",
    )
    cleaning: Cleaning = Cleaning()
    windows: Windows = Windows()
    churn: Churn = Churn()
    inventory: Inventory = Inventory()
    recommendations: Recommendations = Recommendations()
    ads: Ads = Ads()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"'{name}' is no time zone; write one like Europe/Berlin") from error
        return name

    @field_validator("currency")
    @classmethod
    def _as_codes_are_written(cls, code: str) -> str:
        return code.upper()

    @field_validator("conversion", mode="before")
    @classmethod
    def _one_or_several(cls, names: object) -> object:
        return (names,) if isinstance(names, str) else names

    @model_validator(mode="after")
    def _roles_agree(self) -> Business:
        for name, role in self.behaviours.items():
            if STANDARD.get(name, role) != role:
                raise ValueError(
                    f"'{name}' is a standard behaviour with the role {STANDARD[name]}, not {role}: "
                    "give your own behaviour another name"
                )
            if self.conversion and (role == CONVERSION) != (name in self.conversion):
                raise ValueError(
                    f"behaviours give '{name}' the role {role}, but conversion is "
                    f"{', '.join(self.conversion)}: let the two agree"
                )
        if len(self.roles) > MOST_BEHAVIOURS:
            raise ValueError(
                f"{len(self.roles)} behaviours are named, the {len(STANDARD)} standard ones among "
                f"them, and at most {MOST_BEHAVIOURS} can be told apart: translate similar ones to "
                "one name with `values`"
            )
        return self

    @property
    def roles(self) -> dict[str, Role]:
        """The role of every behaviour, the standard ones first; the conversion is as said here.

        >>> Business(conversion="rate").roles["rate"], Business(conversion="rate").roles["purchase"]
        ('conversion', 'other')
        """
        own = {**self.behaviours, **dict.fromkeys(self.conversion, CONVERSION)}
        roles = {**STANDARD, **own}
        if self.conversion:
            others = {name for name, role in roles.items() if role == CONVERSION} - {*own}
            roles |= dict.fromkeys(others, OTHER)
        return roles

    def named(self, *roles: Role) -> tuple[str, ...]:
        """Return the behaviours that have one of the roles."""
        return tuple(name for name, role in self.roles.items() if role in roles)

    @property
    def sells(self) -> bool:
        """Whether the conversions are purchases, by their name.

        >>> Business().sells, Business(conversion="play").sells
        (True, False)
        """
        return self.named("conversion") == (SALE,)

    def of_role(self, *roles: Role) -> pl.Expr:
        """Return where `event_type` has one of the roles: what asks for behaviour anywhere."""
        import polars as pl

        return pl.col("event_type").is_in(self.named(*roles))

    def cleaning_version(self, first_day: date = FIRST_DAY) -> str:
        """Return the version of what decides which events are kept: another cleans every day anew.

        A hash of `cleaning`, the rules' own version, and, where they are not the standard ones, the
        currency, and the behaviours with what cleaning asks of their roles; beside it the
        operator's first day.
        """
        content = f"{RULES_VERSION}:{self.cleaning.model_dump_json()}"
        if self.currency != Business().currency:
            content += self.currency
        asked = {n: (role in BROWSING, role in COUNTED) for n, role in self.roles.items()}
        if asked != {n: (role in BROWSING, role in COUNTED) for n, role in STANDARD.items()}:
            content += json.dumps(asked, sort_keys=True)
        version = hashlib.blake2b(content.encode(), digest_size=6).hexdigest()
        return version if first_day == FIRST_DAY else f"{version}:{first_day}"

    def conversion_noun(self, *, many: bool = True) -> str:
        """Return what the business calls its conversions; many: several of them.

        >>> Business().conversion_noun(), Business(conversion="rate").conversion_noun(many=False)
        ('purchases', 'rating')
        >>> Business(conversion="trial_started").conversion_noun()
        'trial_started events'
        """
        names = self.named("conversion")
        word = {"rate": "rating"}.get(*names, *names) if len(names) == 1 else "conversion"
        if "_" in word:
            word += " event"
        return f"{word}s" if many else word

    def midnight(self, day: date) -> datetime:
        """Return the instant (UTC) at which a business day begins."""
        local = datetime.combine(day, time(), tzinfo=ZoneInfo(self.timezone))
        return local.astimezone(ZoneInfo("UTC"))

    def day_of(self, instant: datetime) -> date:
        """Return the business day of an instant."""
        return instant.astimezone(ZoneInfo(self.timezone)).date()

    def midnight_after(self, instant: datetime, days: int) -> datetime:
        """Return the midnight `days` business days after (before: negative) that of the instant.

        Where clocks change on the way it is not a multiple of 24 hours away.
        """
        return self.midnight(self.day_of(instant) + timedelta(days=days))
