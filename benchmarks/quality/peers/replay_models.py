"""RePlay's SasRec and Bert4Rec on a split.

Recipe: full cross-entropy, d 64, 2 blocks, 1 head, dropout 0.3, length 200 (512 for Complete
Journey) over windows of the whole history, Adam 1e-3, batches of 32, at most 60 epochs of which the
best on validation is kept. SasRec pads with the number of items; Bert4Rec has no embedding of that
number and pads with 0, which its mask hides.
"""

from common import Task, one_thread

one_thread()

import warnings  # noqa: E402

warnings.filterwarnings("ignore")

import lightning  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from replay.data import FeatureHint, FeatureSource, FeatureType  # noqa: E402
from replay.data.nn import (  # noqa: E402
    PandasSequentialDataset,
    TensorFeatureInfo,
    TensorFeatureSource,
    TensorSchema,
)
from replay.models.nn.optimizer_utils import FatOptimizerFactory  # noqa: E402
from replay.models.nn.sequential import Bert4Rec, SasRec  # noqa: E402
from replay.models.nn.sequential.bert4rec import (  # noqa: E402
    Bert4RecPredictionDataset,
    Bert4RecTrainingDataset,
)
from replay.models.nn.sequential.sasrec import (  # noqa: E402
    SasRecPredictionDataset,
    SasRecTrainingDataset,
)
from torch.utils.data import DataLoader  # noqa: E402

BATCH = 32


def main() -> None:
    task = Task(__doc__, ("sasrec", "bert4rec"))
    task.epochs = task.epochs or 60
    length = 512 if task.meta["repeats"] else 200
    lightning.seed_everything(task.seed, verbose=False)
    schema = TensorSchema(
        TensorFeatureInfo(
            "item",
            FeatureType.CATEGORICAL,
            is_seq=True,
            feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item")],
            cardinality=task.items,
            padding_value=task.items if task.model == "sasrec" else 0,
            embedding_dim=64,
        )
    )

    def data(sequences: list[np.ndarray]) -> PandasSequentialDataset:
        frame = pd.DataFrame({"user": np.arange(len(sequences)), "item": sequences})
        return PandasSequentialDataset(schema, "user", "item", frame)

    shape = {
        "tensor_schema": schema, "block_count": 2, "head_count": 1, "hidden_size": 64,
        "max_seq_len": length, "dropout_rate": 0.3, "loss_type": "CE",
        "optimizer_factory": FatOptimizerFactory(learning_rate=1e-3),
    }  # fmt: skip
    kind, training_kind, scoring_kind = {
        "sasrec": (SasRec, SasRecTrainingDataset, SasRecPredictionDataset),
        "bert4rec": (Bert4Rec, Bert4RecTrainingDataset, Bert4RecPredictionDataset),
    }[task.model]
    model = kind(**shape)
    training = training_kind(data(task.learnt), length, sliding_window_step=length)

    @torch.inference_mode()
    def scores(users: np.ndarray, sequences: list[np.ndarray]) -> np.ndarray:
        rows = scoring_kind(data([sequences[user] for user in users]), length)
        (batch,) = DataLoader(rows, len(users))
        return model.predict(batch).numpy()

    trainer = lightning.Trainer(
        max_epochs=task.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[task.keep_best(lightning.Callback, scores, lambda: model)],
    )
    task.train(
        lambda: trainer.fit(model, DataLoader(training, BATCH, shuffle=True)),
        sequences=len(training),
        events=sum(len(sequence) - 1 for sequence in task.learnt),
        parameters=lambda: sum(p.numel() for p in model.parameters() if p.requires_grad),
    )
    model.eval()
    task.recommend(scores)


if __name__ == "__main__":
    main()
