"""What of an encoder may learn: sets `requires_grad`, and adds the small modules of a method.

LoRA (Hu et al. 2022) and AdaLoRA (Zhang et al. 2023) come from peft; they change the linear layers
of the backbone. Everything else stays as it was pre-trained, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from seq_ml.encoder.finetuning.adapters import Bottleneck, Prefix
from seq_ml.encoder.model.backbones import Attention

if TYPE_CHECKING:
    from seq_ml.encoder.finetuning.config import FineTuning
    from seq_ml.encoder.model.behaviour import BehaviourModel

OUTPUTS = (".attention.output", ".feed_forward.down", ".output.dense")
"""Last layers of the halves of a block, before they are added: ours, and a Hugging Face BERT's."""
ADAPTER = "default"
"""peft's name of the one adapter."""
ORTHOGONAL = 0.1
"""AdaLoRA: weight of the penalty that keeps its vectors orthogonal."""


def prepare(model: BehaviourModel, settings: FineTuning) -> Any:
    """Let exactly those parameters of the model learn that the method trains, in place.

    Returns peft's tuner around the model for lora and adalora, else None. ValueError when the
    backbone has no place for the method, or a named layer does not exist.
    """
    if settings.method in ("lora", "adalora"):
        return _low_rank(model, settings)
    model.requires_grad_(settings.method == "full")
    if settings.method == "partial":
        _unfreeze(model, settings.layers)
    elif settings.method == "adapter":
        for layer in _linear_layers(model, "adapter", OUTPUTS).values():
            layer.adapter = Bottleneck(layer.out_features, settings.bottleneck)
            layer.register_forward_hook(_adapted)
    elif settings.method == "prefix":
        blocks = [part for part in _backbone(model).modules() if isinstance(part, Attention)]
        if not blocks:
            raise _impossible("prefix", "attention of our own")
        for block in blocks:
            width = block.key.out_features // block.heads
            block.prefix = Prefix(block.heads, settings.prefix, width)
    model.to(model.bias.device)
    return None


def allocate(tuner: Any, step: int) -> None:
    """AdaLoRA: give the ranks to the matrices that need them; after the update `step`, from 1."""
    for parameter in tuner.model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)  # of a layer that this loss did not reach
    tuner.update_and_allocate(step)


def orthogonality(tuner: Any) -> torch.Tensor:
    """AdaLoRA: mean distance of PᵀP and QQᵀ from the identity, to be added to the loss."""
    distances = []
    for name, parameter in tuner.model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            rows = parameter if "lora_A" in name else parameter.T
            distances.append(
                torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows)).to(rows))
            )
    return ORTHOGONAL * torch.stack(distances).mean()


def settled_from(settings: FineTuning) -> int:
    """First step whose weights may be kept: AdaLoRA's only when its ranks are allocated."""
    return settings.steps - _last_phase(settings) if settings.method == "adalora" else 0


def _last_phase(settings: FineTuning) -> int:
    """Return the number of steps that AdaLoRA trains with its final ranks."""
    return settings.steps // 3


def _low_rank(model: BehaviourModel, settings: FineTuning) -> Any:
    import peft

    layers = list(_linear_layers(model, settings.method))
    if settings.method == "lora":
        config = peft.LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules=layers, lora_dropout=0.0
        )
        return peft.LoraModel(model, config, ADAPTER)
    config = peft.AdaLoraConfig(
        init_r=2 * settings.rank,
        target_r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=layers,
        lora_dropout=0.0,
        tinit=settings.steps // 10,
        tfinal=_last_phase(settings),
        deltaT=1,
        total_step=settings.steps,
    )
    return peft.AdaLoraModel(model, config, ADAPTER)


def _linear_layers(
    model: BehaviourModel, method: str, endings: tuple[str, ...] = ("",)
) -> dict[str, nn.Linear]:
    """Linear layers of the backbone by their name, on request those with certain endings."""
    layers = {
        f"backbone.{name}": part
        for name, part in _backbone(model).named_modules()
        if isinstance(part, nn.Linear) and f".{name}".endswith(endings)
    }
    if not layers:
        raise _impossible(method, "linear layers")
    return layers


def _backbone(model: BehaviourModel) -> nn.Module:
    return model.backbone  # type: ignore[return-value]


def _impossible(method: str, what: str) -> ValueError:
    return ValueError(
        f"'{method}' needs {what} in the backbone, which this encoder's backbone does not have; "
        "use full, frozen or partial"
    )


def _unfreeze(model: BehaviourModel, layers: tuple[str, ...]) -> None:
    for layer in layers:
        parameters = [
            p for name, p in model.named_parameters() if f"{name}.".startswith(f"{layer}.")
        ]
        if not parameters:
            names = sorted(
                {name.rpartition(".")[0] or name for name, _ in model.named_parameters()}
            )
            raise ValueError(f"partial: no layer '{layer}' in the encoder; it has {names}")
        for parameter in parameters:
            parameter.requires_grad_()


def _adapted(layer: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return layer.adapter(output)  # type: ignore[operator]
