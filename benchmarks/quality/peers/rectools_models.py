"""RecTools' SASRec, BERT4Rec, HSTU and eSASRec (LiGR blocks) on a split.

Recipe: full softmax, d 64, 2 blocks, 1 head, dropout 0.3, length 200 (eSASRec 100), batches of
32, Adam 1e-3, at most 60 epochs of which the best on validation is kept. `-scaled` multiplies the
item embeddings by √d, which the library leaves off. The library trains only on the last length + 1
events of a user: here the windows of a whole history are given as users of their own. Events carry
distinct times, so that the library's sorting keeps the explicit order. HSTU reads positions, not
times: its time attention asks for the time of the event to predict, which nobody knows.
"""

from common import Task, one_thread

one_thread()

import time  # noqa: E402
import warnings  # noqa: E402

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytorch_lightning as lightning  # noqa: E402
import torch  # noqa: E402
from rectools import Columns  # noqa: E402
from rectools.dataset import Dataset  # noqa: E402
from rectools.models import BERT4RecModel, HSTUModel, SASRecModel  # noqa: E402
from rectools.models.nn.item_net import IdEmbeddingsItemNet  # noqa: E402
from rectools.models.nn.transformers.ligr import LiGRLayers  # noqa: E402

BATCH = 32
SCALED = {"pos_encoding_kwargs": {"use_scale_factor": True}}
MODELS = {
    "sasrec": (SASRecModel, {}),
    "sasrec-scaled": (SASRecModel, SCALED),
    "esasrec": (SASRecModel, {"transformer_layers_type": LiGRLayers}),
    "esasrec-scaled": (SASRecModel, {"transformer_layers_type": LiGRLayers} | SCALED),
    "bert4rec": (BERT4RecModel, {"mask_prob": 0.2}),
    "hstu": (HSTUModel, {"relative_time_attention": False}),
}


def main() -> None:
    task = Task(__doc__, tuple(MODELS))
    task.epochs = task.epochs or 60
    kind, extra = MODELS[task.model]
    length = 100 if task.model.startswith("esasrec") else 200
    lightning.seed_everything(task.seed)
    windows = [part for sequence in task.learnt for part in cut(sequence, length + 1, length)]

    def module() -> torch.nn.Module:
        return model.lightning_model.torch_model

    @torch.inference_mode()
    def scores(users: np.ndarray, sequences: list[np.ndarray]) -> np.ndarray:
        known = model.data_preparator.get_known_item_ids().astype(int)
        number = np.full(task.items, -1)
        number[known] = model.data_preparator.get_known_items_sorted_internal_ids()
        batch = [(number[sequences[user]].tolist(), [], {}) for user in users]
        rows = model.data_preparator._collate_fn_recommend(batch)
        vectors = module().item_model.get_all_embeddings()
        last = module().encode_sessions(rows, vectors)[:, -1]
        logits = module().similarity_module(last, vectors).numpy()
        table = np.full((len(users), task.items), -np.inf, np.float32)
        table[:, known] = logits[:, number[known]]
        return table

    def trainer() -> lightning.Trainer:
        return lightning.Trainer(
            max_epochs=task.epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[task.keep_best(lightning.Callback, scores, module)],
        )

    model = kind(
        n_blocks=2, n_heads=1, n_factors=64, dropout_rate=0.3, session_max_len=length, lr=1e-3,
        batch_size=BATCH, loss="softmax", item_net_block_types=(IdEmbeddingsItemNet,),
        get_trainer_func=trainer, **extra,
    )  # fmt: skip

    fitted = dataset(windows)
    task.train(
        lambda: model.fit(fitted),
        sequences=len(windows),
        events=sum(len(window) - 1 for window in windows),
        parameters=lambda: sum(p.numel() for p in module().parameters()),
    )
    read = dataset([task.sequences[user] for user in task.scored])

    def lists(*, seen: bool) -> np.ndarray:
        table = model.recommend(np.arange(len(task.scored)), read, k=10, filter_viewed=not seen)
        table = table.sort_values([Columns.User, Columns.Rank])
        return table[Columns.Item].to_numpy().reshape(-1, 10)

    begin = time.process_time()
    novel = lists(seen=False)
    seconds = time.process_time() - begin
    task.write(novel, lists(seen=True) if task.meta["repeats"] else None, seconds)


def cut(sequence: np.ndarray, width: int, step: int) -> list[np.ndarray]:
    """Windows of `width` events, `step` apart from the newest backwards, with 2 events at least."""
    ends = range(len(sequence), 1, -step)
    return [sequence[max(0, end - width) : end] for end in ends]


def dataset(sequences: list[np.ndarray]) -> Dataset:
    """One user per sequence, one second between events."""
    lengths = [len(sequence) for sequence in sequences]
    places = np.concatenate([np.arange(count) for count in lengths])
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(sequences)), lengths),
            Columns.Item: np.concatenate(sequences),
            Columns.Weight: 1,
            Columns.Datetime: pd.Timestamp(2000, 1, 1) + pd.to_timedelta(places, unit="s"),
        }
    )
    return Dataset.construct(frame)


if __name__ == "__main__":
    main()
