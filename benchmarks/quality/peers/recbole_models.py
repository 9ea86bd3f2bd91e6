"""RecBole's SASRec and GRU4Rec on leave-one-out splits.

Recipe: cross-entropy, d 64, 2 layers, 1 head, dropout 0.3, length 20, batches of 2048, Adam 1e-3.
The library trains on one sample per prefix of a history, so that an epoch costs eight times those
of the others: it stops after 360 processor seconds, and the best epoch on validation is kept. Times
are the explicit order of the events. Its own metrics never mask items seen before: the lists are
made here from its scores.
"""

from common import Task, one_thread

one_thread()

import contextlib  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

LENGTH = 20
SECONDS = 360
MODELS = {
    "sasrec": ("SASRec", {
        "n_layers": 2, "n_heads": 1, "hidden_size": 64, "inner_size": 256,
        "hidden_dropout_prob": 0.3, "attn_dropout_prob": 0.3,
    }),
    "gru4rec": ("GRU4Rec", {
        "embedding_size": 64, "hidden_size": 128, "num_layers": 1, "dropout_prob": 0.3,
    }),
}  # fmt: skip


def main() -> None:
    task = Task(__doc__, tuple(MODELS))
    task.epochs = task.epochs or 50
    if task.meta["repeats"]:
        raise SystemExit("this runner knows leave-one-out only: give it a split of ml-100k")
    name, shape = MODELS[task.model]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # it writes logs there
        (Path(folder) / "events").mkdir()
        events = task.history[["user", "item", "position"]]
        events.columns = ["user_id:token", "item_id:token", "timestamp:float"]
        events.to_csv(Path(folder) / "events" / "events.inter", sep="\t", index=False)
        config = Config(
            model=name,
            dataset="events",
            config_dict=shape
            | {
                "data_path": folder, "checkpoint_dir": folder, "seed": task.seed, "device": "cpu",
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                "eval_args": {"split": {"LS": "valid_only"}, "order": "TO", "mode": "full"},
                "MAX_ITEM_LIST_LENGTH": LENGTH, "loss_type": "CE", "train_neg_sample_args": None,
                "train_batch_size": 2048, "learning_rate": 1e-3, "show_progress": False,
            },
        )  # fmt: skip
        init_seed(task.seed, reproducibility=True)
        data = create_dataset(config)
        training = data_preparation(config, data)[0]
        model = get_model(name)(config, training.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    number = data.token2id("item_id", [str(item) for item in range(task.items)])

    @torch.inference_mode()
    def scores(users: np.ndarray, sequences: list[np.ndarray]) -> np.ndarray:
        items = np.zeros((len(users), LENGTH), np.int64)
        lengths = [min(LENGTH, len(sequences[user])) for user in users]
        for row, user in enumerate(users):
            items[row, : lengths[row]] = number[sequences[user][-LENGTH:]]
        fields = {
            data.item_id_list_field
            if hasattr(data, "item_id_list_field")
            else "item_id_list": items,
            "item_length": lengths,
        }
        batch = Interaction({field: torch.as_tensor(value) for field, value in fields.items()})
        return model.full_sort_predict(batch).view(len(users), -1)[:, number].numpy()

    def fit() -> None:
        begin = time.process_time()
        for epoch in range(1, task.epochs + 1):
            trainer._train_epoch(training, epoch, show_progress=False)
            used = time.process_time() - begin
            if task.judge(epoch, model, scores) or used + used / epoch > SECONDS:
                break
        task.restore(model, epoch)

    task.train(
        fit,
        sequences=len(training.dataset),
        events=len(training.dataset),
        parameters=lambda: sum(p.numel() for p in model.parameters()),
    )
    model.eval()
    task.recommend(scores)


if __name__ == "__main__":
    main()
