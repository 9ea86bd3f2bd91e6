"""What a fine-tuning is worth, in words: its report, and its model card (Mitchell et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seq_ml.encoder.finetuning.worth import PROBE, SHARE

if TYPE_CHECKING:
    from seq_ml.encoder.finetuning.tuned import FineTuned
    from seq_ml.encoder.finetuning.worth import Worth


def worth_markdown(worth: Worth) -> str:
    """Return the report as Markdown: the verdict, who was judged, losses and ROC-AUC."""
    first, last = worth.origins
    names = {
        worth.method: f"fine-tuned ({worth.method})",
        PROBE: f"encoder as it is, with a head ({PROBE})",
        SHARE: "share of yes alone",
    }
    rows = [
        f"| {names[name]} | {loss:.4f} | {_number(worth.roc_auc[name])} |"
        for name, loss in worth.loss.items()
    ]
    return f"""{worth.verdict}

{worth.task}: {worth.labels["test"]:,} labels of {worth.people["test"]:,} people who decided
nothing, at origins from {first:%Y-%m-%d} to {last:%Y-%m-%d}. The weights are fitted to
{worth.people["fit"]:,} others, the best step is chosen on {worth.people["validation"]:,}. The
encoder saw nothing from the first origin on.

| | loss, nats | ROC-AUC |
|---|---|---|
{chr(10).join(rows)}

Other people, the same days: a later month may differ from these. The interval (95 %, people drawn
again) is that of the paired difference.
"""


def card(tuned: FineTuned, worth: Worth) -> str:
    """Return the model card as Markdown."""
    result, base = tuned.result, tuned.base
    return f"""# Model card: {worth.task} {result.version}

## What it is for

The probability of a yes to '{worth.task}' for each user, from the events before an instant. For
ranking and for deciding about many; not as a statement about one person, not as the effect of an
action, not for another business's data.

## What it is

- Encoder {base.version} (preset {base.config.name}), fitted to events before
  {base.fitted_before:%Y-%m-%d %H:%M} UTC.
- Fine-tuned by {worth.method}: {tuned.trained:,} parameters, {result.steps:,} steps, best at step
  {result.best_step:,}.
- {sum(worth.labels.values()):,} labels of {sum(worth.people.values()):,} people, known by
  {result.fitted_before:%Y-%m-%d %H:%M} UTC: do not judge it on days before.
- `finetuned.safetensors` and `finetuned.json` hold what was trained, to be laid on that encoder
  alone: `FineTuned.load(folder, encoder)`.

## What it is worth

{worth_markdown(worth)}"""


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"
