"""The bucket's source mappings as ingest sees them: a broken one stops only its own files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from seq_ml.business import Business
from seq_ml.ingest.mapping.source import MappingError, parse_mapping
from seq_ml.roles import Role
from seq_ml.storage.layout import SOURCES_PREFIX, source_of

if TYPE_CHECKING:
    from seq_ml.ingest.mapping.source import FileMapping, SourceMapping
    from seq_ml.storage.objects import ObjectStore

NO_MAPPING = "none"


@dataclass(frozen=True)
class Broken:
    """A mapping that cannot be used: why not, and the hash of its text."""

    reason: str
    version: str


@dataclass(frozen=True)
class Sources:
    """Every source by name, and the business behind them.

    business: None when it is not known, `unclear` says why.
    """

    usable: dict[str, SourceMapping]
    broken: dict[str, Broken]
    business: Business | None
    unclear: str = ""
    _versions: dict[tuple[str, str], str] = field(default_factory=dict, compare=False)

    def entry(self, key: str) -> tuple[SourceMapping, FileMapping]:
        """Return the mapping and its entry that read a drop; MappingError when there is none."""
        name, path = source_of(key)
        if name in self.broken:
            raise MappingError(self.broken[name].reason)
        if name not in self.usable:
            raise MappingError(
                f"{key} belongs to no source: there is no {SOURCES_PREFIX}/{name}.yaml in the "
                "bucket; land it with `seqline run --source FILE.yaml DIR`."
            )
        mapping = self.usable[name]
        entry = mapping.file_for(path)
        if entry is None:
            patterns = ", ".join(e.match for e in mapping.files)
            raise MappingError(
                f"{key} fits no entry of source '{name}' (patterns: {patterns}): it belongs to "
                "another source, or the mapping lacks an entry."
            )
        if self.business is None and _needs_currency(entry):
            raise MappingError(f"{key} needs the currency of the business. {self.unclear}")
        return mapping, entry

    def version(self, key: str) -> str:
        """Return the identity of what decides how a drop is read; it changes with the mapping."""
        name, path = source_of(key)
        if name in self.broken:
            return self.broken[name].version
        mapping = self.usable.get(name)
        if mapping is None:
            return NO_MAPPING
        entry = mapping.file_for(path)
        if entry is None:
            return ""
        if (name, entry.match) not in self._versions:
            version = mapping.entry_version(path)
            if _needs_currency(entry):
                version += f":{self.currency}"
            self._versions[name, entry.match] = version
        return self._versions[name, entry.match]

    def can_read(self, key: str) -> bool:
        """Tell whether there is a usable entry for a drop."""
        name, path = source_of(key)
        mapping = self.usable.get(name)
        entry = mapping.file_for(path) if mapping else None
        return entry is not None and not (self.business is None and _needs_currency(entry))

    @property
    def currency(self) -> str:
        """Currency of events that name none; "" when it is not known."""
        return self.business.currency if self.business else ""


def load_sources(objects: ObjectStore) -> Sources:
    """Read `sources/*.yaml`; of those that cannot be used, or share a name, the reason is kept."""
    usable: dict[str, SourceMapping] = {}
    broken: dict[str, Broken] = {}
    origins: dict[str, str] = {}
    described: list[tuple[str, Business | None]] = []
    named: list[tuple[str, dict[str, Role] | None]] = []
    for info in objects.list(f"{SOURCES_PREFIX}/"):
        if not info.key.endswith((".yaml", ".yml")):
            continue
        body = objects.get(info.key)
        try:
            mapping = parse_mapping(_text(body, info.key), info.key)
        except MappingError as error:
            content = _content(body)
            name = str(content.get("name", PurePosixPath(info.key).stem))
            broken[name] = Broken(str(error), info.etag)
            if "business" in content or (not content and b"business" in body):
                described.append((name, _business(content)))
            if "behaviours" in content or (not content and b"behaviours" in body):
                named.append((name, _behaviours(content)))
            continue
        named.append((mapping.name, mapping.behaviours))
        if mapping.business:
            described.append((mapping.name, mapping.business))
        if mapping.name in origins:
            reason = (
                f"{info.key} and {origins[mapping.name]} both have the name '{mapping.name}': put "
                "the files of one source into one mapping."
            )
            earlier = usable.pop(mapping.name, mapping).version
            broken[mapping.name] = Broken(reason, f"{earlier}-{mapping.version}")
        else:
            usable[mapping.name] = mapping
        origins[mapping.name] = info.key
    business, unclear = _the_business(described)
    if business is not None:
        business, unclear = _with_behaviours(business, named)
    return Sources(usable, broken, business, unclear)


def load_business(objects: ObjectStore) -> Business:
    """Return the business that the mappings describe; the defaults when none does.

    A mapping that is broken elsewhere still tells it. Raises MappingError when two sources describe
    it differently, and when it cannot be read.
    """
    sources = load_sources(objects)
    if sources.business is None:
        raise MappingError(sources.unclear)
    return sources.business


def _the_business(described: list[tuple[str, Business | None]]) -> tuple[Business | None, str]:
    """Return the one business that the mappings describe, or None and what to do."""
    each = (one for _, one in described if one is not None)
    distinct = list({one.model_dump_json(): one for one in each}.values())
    names = ", ".join(sorted(name for name, _ in described))
    if len(distinct) > 1:
        return None, (
            f"The sources {names} describe the business differently: keep `business:` in one of "
            "them."
        )
    if described and not distinct:
        return None, f"The business is described by {names}, whose mapping cannot be read: mend it."
    return (distinct[0] if distinct else Business()), ""


def business_of(mapping: SourceMapping) -> Business:
    """Return the business as far as one mapping tells it; MappingError for a contradiction."""
    business, unclear = _with_behaviours(
        mapping.business or Business(), [(mapping.name, mapping.behaviours)]
    )
    if business is None:
        raise MappingError(unclear)
    return business


def _with_behaviours(
    business: Business, named: list[tuple[str, dict[str, Role] | None]]
) -> tuple[Business | None, str]:
    """Return the business with the behaviours of all mappings, or None and what to do.

    named: source and its behaviours; None where they cannot be read. To do without them would take
    their events out of what is published.
    """
    if unread := ", ".join(sorted(source for source, behaviours in named if behaviours is None)):
        return None, f"Behaviours are named by {unread}, whose mapping cannot be read: mend it."
    origin = dict.fromkeys(business.behaviours, "business")
    behaviours = dict(business.behaviours)
    for source, its_own in sorted(named, key=lambda one: one[0]):
        for name, role in (its_own or {}).items():
            if behaviours.setdefault(name, role) != role:
                return None, (
                    f"'{name}' has the role {behaviours[name]} in {origin[name]} and the role "
                    f"{role} in {source}: a behaviour has one role; change one, or its name."
                )
            origin.setdefault(name, source)
    try:
        described = business.model_dump(exclude_unset=True)
        return Business.model_validate({**described, "behaviours": behaviours}), ""
    except ValidationError as error:
        why = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        return None, f"The business cannot be read: {why}."


def _needs_currency(entry: FileMapping) -> bool:
    has_currency = "currency" in entry.contract.names
    return has_currency and any("currency" not in record for record in entry.records)


def _text(body: bytes, key: str) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise MappingError(f"{key} is no UTF-8 text: {error}; save it as UTF-8.") from error


def _content(body: bytes) -> dict[str, Any]:
    try:
        content = yaml.safe_load(body)
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _business(content: dict[str, Any]) -> Business | None:
    """Return the business that a broken mapping still tells: other sources depend on it."""
    try:
        return Business.model_validate(content.get("business"))
    except ValidationError:
        return None


def _behaviours(content: dict[str, Any]) -> dict[str, Role] | None:
    """Return the behaviours that a broken mapping still names; None where they cannot be read."""
    try:
        return TypeAdapter(dict[str, Role]).validate_python(content.get("behaviours"))
    except ValidationError:
        return None
