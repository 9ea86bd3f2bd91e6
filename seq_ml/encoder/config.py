"""Configuration of the encoder: what is read, how the model is built, how it is trained.

Four presets: `tiny` (tests, seconds), `small` (two CPU cores, minutes), `base` (one GPU), `large`
(several GPUs). A YAML file changes single values of a preset: `load_config`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from seq_ml.business import Business  # noqa: TC001  a doctest uses it

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
CHECKED = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
"""How pydantic reads values: no unknown key, no other type, and the text below a field tells."""
Backbone = Literal["causal", "bidirectional", "lstm", "gru", "language"]
Loss = Literal["full", "sampled", "gbce"]
Augmentation = Literal["crop", "mask", "reorder", "ties"]


class UnusableError(ValueError):
    """Values that each may be, but do not work together; the message says what to change."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the backbone and of the heads on it."""

    __pydantic_config__: ClassVar = CHECKED
    backbone: Backbone = "causal"
    """What reads the events: a transformer that reads causally (Llama-type) or from both sides
    (BERT-type), an LSTM, a GRU, or a pretrained language model over the behaviour as text."""
    dim: int = 64
    """Width of all embeddings and of the user vector."""
    layers: int = 2
    heads: int = 2
    feed_forward: int = 192
    """Inner width of the feed-forward blocks."""
    dropout: float = 0.2
    context: int = 128
    """Newest events that the backbone reads; the repeat head reads the whole sequence."""
    positions: Literal["calendar", "baskets", "events"] = "calendar"
    """What the transformer counts: baskets, when the order inside one means nothing, and days;
    baskets alone; or events."""
    fields: tuple[str, ...] = (
        "category", "behaviour", "gap", "price", "quantity", "hour", "weekday",
    )  # fmt: skip
    """What of an event is read beside its item."""
    text: bool = False
    """Add a projection of the item's text vector to its embedding: an unseen item has a score."""
    id_dropout: float = 0.0
    """Share of items whose own embedding is hidden in a training step, so that category and text
    learn to stand alone (Volkovs et al. 2017, DropoutNet)."""
    repeat_head: bool = True
    """Add a learned score to the items of the user's own history (recency, frequency, rhythm)."""
    interest: tuple[str, ...] = (
        "view", "click", "add_to_cart", "wishlist", "purchase", "ad_click", "rate", "review",
    )  # fmt: skip
    """Behaviours whose items are predicted and copied; the others are only read. A business with
    behaviours or a conversion of its own has its own list (`for_business`)."""
    conversions: tuple[str, ...] = ("purchase",)
    """Behaviours whose next time, number and value are foreseen; of the business likewise."""
    pretrained: str = "all-MiniLM-L6-v2"
    """Text model: the shipped one, or any name or path that `from_pretrained` takes."""


@dataclass(frozen=True, kw_only=True)
class Mechanics:
    """What every training loop reads, whatever it trains."""

    __pydantic_config__: ClassVar = CHECKED
    steps: int = 240
    optimizer: Literal["adamw", "sgd", "adafactor"] = "adamw"
    learning_rate: float = 3e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 40
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    evaluate_every: int = 50
    patience: int = 0
    """Evaluations without improvement after which training stops early; 0: never."""
    checkpoint_every: int = 50
    threads: int = 2
    """CPU threads; part of the configuration because sums depend on it."""
    seed: int = 7


@dataclass(frozen=True)
class TrainingConfig(Mechanics):
    """How pre-training goes; counted in steps, so that the clock never decides a result."""

    warm_steps: float = 0.1
    """Share of `steps` and `warmup_steps` in a training that continues from an earlier encoder."""
    replay_share: float = 0.5
    """Share of its windows that hold no event the earlier encoder did not see."""
    windows: int = 32
    """Windows of one user's events in a batch."""
    accumulate: int = 1
    """Batches whose gradients are averaged before one update."""
    next_event: float = 0.0
    """Weight of: the item of the very next event, asked at every event (SASRec)."""
    next_basket: float = 1.0
    """Weight of: the set of items of the coming days, asked at ticks and after some baskets; with
    it what users do is foreseen: `wait`, `counts` and `spend`."""
    wait: float = 0.5
    """Weight, beside the items', of: when the next conversion comes."""
    counts: float = 0.25
    """Weight of: how many visits and lines convert."""
    spend: float = 0.25
    """Weight of: what is spent."""
    following: float = 0.25
    """Weight of: the behaviour of the next event and when it comes, asked after every basket."""
    masked_item: float = 0.0
    """Weight of: single hidden items, read from both sides (BERT4Rec)."""
    masked_span: float = 0.0
    """Weight of: a hidden run of events, read from both sides."""
    queries: int = 12
    """Ticks and baskets drawn from each window, at which next_basket asks for items."""
    horizon_days: int = 30
    """Items of strictly later baskets within so many days are the targets of next_basket."""
    masked: int = 16
    """Most items hidden in a window."""
    mask_share: float = 0.2
    loss: Loss = "sampled"
    """Softmax over all items, over sampled ones with log-Q correction, or gBCE."""
    negatives: int = 2048
    """Items sampled for each batch by `sampled` and `gbce`."""
    gbce_t: float = 0.75
    """How far gBCE undoes the overconfidence of negative sampling, 0 (plain BCE) to 1."""
    average: float = 0.0
    """Decay of the running average of the weights, which is then judged and kept; 0: off."""
    adversarial: float = 0.0
    """Size of the FGM perturbation of the embeddings (Miyato et al. 2017); 0: off."""
    augment: tuple[Augmentation, ...] = ()
    """Random changes of the windows (CL4SRec, Xie et al. 2022), one of these for each window."""
    augment_share: float = 0.5
    """Share of the windows that are changed."""
    held_out_share: float = 0.05
    """Share of users that training never sees; their loss picks the best weights."""
    bf16: bool = True
    """On a GPU: compute in bfloat16. On a CPU nothing happens."""
    compile: bool = False
    """On a GPU: `torch.compile` the backbone."""


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides the encoder, given the data."""

    __pydantic_config__: ClassVar = CHECKED
    name: str
    min_users: int = 5
    """Distinct users that give an item a token of its own."""
    max_events: int = 4096
    """Newest events of a user that are kept in a sequence."""
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot work together; UnusableError says what to change."""
        model, training = self.model, self.training
        weights = objective_weights(training)
        if not weights:
            raise UnusableError(
                f"{self.name}: every pre-training task has weight 0; give one of "
                f"{', '.join(OBJECTIVES)} a weight above 0"
            )
        if "next_event" in weights and model.backbone in ("bidirectional", "language"):
            raise UnusableError(
                f"{self.name}: the backbone '{model.backbone}' reads later events too and cannot "
                "learn next_event; use masked_item, masked_span or next_basket"
            )
        if model.repeat_head and "next_basket" not in weights:
            raise UnusableError(
                f"{self.name}: the repeat head learns only from next_basket; give it a weight or "
                "set repeat_head to false"
            )
        if model.repeat_head and training.loss == "gbce":
            raise UnusableError(
                f"{self.name}: gbce does not train the repeat head; take the loss 'sampled' or set "
                "repeat_head to false"
            )
        if model.dim % model.heads or (model.dim // model.heads) % 2:
            raise UnusableError(
                f"{self.name}: dim {model.dim} must be an even multiple of heads {model.heads}"
            )

    def to_bytes(self) -> bytes:
        """Serialise as JSON."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> EncoderConfig:
        """Read what `to_bytes` wrote; ValueError names an unknown key."""
        values: dict[str, Any] = json.loads(data)
        return changed(PRESETS["small"], values, where="config.json")


def for_business(config: EncoderConfig, business: Business) -> EncoderConfig:
    """Return `config` with what converts and what shows interest to this business.

    Unless it says the latter itself.

    >>> shop = Business(conversion="booking", behaviours={"look": "browse"})
    >>> " ".join(for_business(PRESETS["tiny"], shop).model.interest)
    'view click add_to_cart wishlist ad_click rate review look booking'
    """
    conversions = tuple(business.named("conversion"))
    config = replace(config, model=replace(config.model, conversions=conversions))
    if config.model.interest != ModelConfig().interest:
        return config
    chosen = business.named("browse", "intent", "conversion", "response", "feedback")
    interest = tuple(
        name for name in chosen if business.roles[name] == "conversion" or name not in NO_INTEREST
    )
    return replace(config, model=replace(config.model, interest=interest))


NO_INTEREST = ("remove_from_cart", "coupon_redeem")
"""A step back from an item; and a coupon, which is of many items or of none."""

OBJECTIVES = ("next_event", "next_basket", "masked_item", "masked_span")


def objective_weights(training: TrainingConfig) -> dict[str, float]:
    """Pre-training tasks with a weight, in the order of `OBJECTIVES`."""
    weights = {name: float(getattr(training, name)) for name in OBJECTIVES}
    return {name: weight for name, weight in weights.items() if weight > 0}


def changed(config: Config, values: Any, *, where: str) -> Config:
    """Return `config` with some values replaced; ValueError says which key or value is wrong.

    values: keys with values; those of a part of the configuration, such as `model`, likewise.
    Raises UnusableError when each may be, but not together.
    """
    old = asdict(config)
    if isinstance(values, dict):
        parts = {name: old[name] | new for name, new in values.items()
                 if isinstance(new, dict) and isinstance(old.get(name), dict)}  # fmt: skip
        values = old | values | parts
    try:
        return TypeAdapter(type(config)).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        first = error.errors()[0]
    if first["type"] == "value_error":  # said by __post_init__
        raise first["ctx"]["error"]
    *part, key = [where, *map(str, first["loc"])]
    if first["type"] == "unexpected_keyword_argument":
        known = old if len(part) == 1 else old[part[-1]]
        raise ValueError(f"{': '.join(part)}: unknown key '{key}'; known: {', '.join(known)}")
    expected = first["msg"].replace("Input should be", "expected")
    raise ValueError(f"{': '.join([*part, key])}: {expected}, found {first['input']!r}")


def load_config(preset: str) -> EncoderConfig:
    """Return a preset by name, or what a YAML file says: `preset: small` and changed values.

    Raises ValueError for an unknown preset, key or value.
    """
    if preset in PRESETS:
        return PRESETS[preset]
    path = Path(preset)
    if not path.is_file():
        raise ValueError(
            f"'{preset}' is no preset ({', '.join(PRESETS)}) and no file: name a preset or a YAML "
            "file that changes one"
        )
    values: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    base = values.pop("preset", "small")
    if base not in PRESETS:
        raise ValueError(f"{path}: preset '{base}' is not one of {', '.join(PRESETS)}")
    return changed(PRESETS[base], {"name": path.stem} | values, where=str(path))


PRESETS = {
    "tiny": EncoderConfig(
        "tiny",
        min_users=3,
        max_events=512,
        model=ModelConfig(dim=16, layers=1, heads=1, feed_forward=32, context=64),
        training=TrainingConfig(
            steps=60,
            windows=8,
            warmup_steps=5,
            learning_rate=1e-2,
            held_out_share=0.1,
            evaluate_every=20,
            checkpoint_every=20,
        ),
    ),
    "small": EncoderConfig("small"),
    "base": EncoderConfig(
        "base",
        max_events=16_384,
        model=ModelConfig(dim=256, layers=4, heads=4, feed_forward=768, context=1024),
        training=TrainingConfig(
            steps=10_000,
            windows=64,
            queries=16,
            masked=32,
            loss="sampled",
            negatives=4096,
            learning_rate=1e-3,
            warmup_steps=500,
            evaluate_every=500,
            checkpoint_every=500,
            compile=True,
        ),
    ),
    "large": EncoderConfig(
        "large",
        max_events=16_384,
        model=ModelConfig(dim=768, layers=12, heads=12, feed_forward=2304, context=2048),
        training=TrainingConfig(
            steps=50_000,
            windows=64,
            queries=16,
            masked=64,
            loss="sampled",
            negatives=8192,
            learning_rate=4e-4,
            warmup_steps=2_000,
            evaluate_every=1_000,
            checkpoint_every=1_000,
            compile=True,
        ),
    ),
}
