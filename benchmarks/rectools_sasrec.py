"""RecTools' SASRec, the peer. Runs in an environment of its own (requirements/rectools.txt).

    python rectools_sasrec.py FOLDER

Reads ``FOLDER/input.npz`` and ``FOLDER/settings.json``, trains until validation NDCG@10 stops rising and
writes ``FOLDER/output.npz`` and ``FOLDER/epochs.jsonl``; started again, it goes on after the last whole
epoch. Knows nothing of LLMEmb.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet


def main(folder: Path) -> None:
    """Train, then write the vectors of test users and of items."""
    settings = json.loads((folder / "settings.json").read_text())
    data = dict(np.load(folder / "input.npz"))
    watch = Watch(folder / "checkpoint.pt", data, settings)
    seed_everything(settings["seed"] + 1000 * len(watch.history))  # no order of batches comes twice
    lengths = np.diff(data["train_offsets"])
    interactions = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(lengths)), lengths),
            Columns.Item: data["train_items"],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(np.arange(lengths.sum()), unit="s"),
        }
    )
    model = SASRecModel(
        n_blocks=settings["blocks"],
        n_heads=settings["heads"],
        n_factors=settings["width"],
        dropout_rate=settings["dropout"],
        session_max_len=settings["max_length"],
        loss=settings["loss"],
        n_negatives=settings["negatives"],
        lr=settings["learning_rate"],
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        item_net_block_types=(IdEmbeddingsItemNet,),
        get_trainer_func=lambda: Trainer(
            max_epochs=settings["epochs"],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[watch],
        ),
    )
    watch.model = model
    model.fit(Dataset.construct(interactions))
    lines = [json.dumps(epoch) + "\n" for epoch in watch.history]
    (folder / "epochs.jsonl").write_text("".join(lines), encoding="utf-8")
    np.savez(folder / "output.npz", **{name: value.numpy() for name, value in watch.best.items()})


class Watch(Callback):
    """Times epochs, ranks validation targets after each, stops in time and can be resumed."""

    def __init__(self, path: Path, data: dict[str, np.ndarray], settings: dict) -> None:
        self.path, self.data, self.settings = path, data, settings
        self.saved: dict = torch.load(path, weights_only=True) if path.exists() else {}
        self.history: list[dict] = self.saved.get("history", [])
        self.best: dict[str, torch.Tensor] = self.saved.get("best", {})
        self.model: SASRecModel | None = None
        self.began = 0.0

    def __deepcopy__(self, memo: dict) -> "Watch":
        """Stay the one watch: RecTools trains with a copy of the trainer it was given."""
        return self

    def on_train_start(self, trainer: Trainer, module: torch.nn.Module) -> None:
        """Go on from the last whole epoch."""
        if self.saved:
            module.torch_model.load_state_dict(self.saved["model"])
            trainer.optimizers[0].load_state_dict(self.saved["optimizer"])
            trainer.should_stop = self.stops()

    def on_train_epoch_start(self, trainer: Trainer, module: torch.nn.Module) -> None:
        """Start the clock."""
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, module: torch.nn.Module) -> None:
        """Stop the clock; keep the vectors if they are the best so far; save."""
        seconds = time.monotonic() - self.began
        module.torch_model.eval()
        with torch.inference_mode():
            known, items = self.items(module)
            users = self.users(module, "validation")
            ndcg = self.ndcg(users, items, known)
            best = max(self.history, key=lambda epoch: epoch["ndcg"], default=None)
            if best is None or ndcg > best["ndcg"]:
                self.best = {
                    "users": self.users(module, "test"),
                    "items": items,
                    "known": torch.from_numpy(known),
                }
        module.torch_model.train()
        epoch = {"epoch": len(self.history), "ndcg": ndcg, "seconds": seconds}
        self.history.append(epoch)
        print(f"{epoch['epoch']} {ndcg:.5f} {seconds:.1f}", flush=True)
        saved = {
            "history": self.history,
            "best": self.best,
            "model": module.torch_model.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
        }
        torch.save(saved, aside := self.path.with_suffix(".tmp"))
        aside.replace(self.path)
        trainer.should_stop = self.stops()

    def stops(self) -> bool:
        """Return whether there is nothing to be gained by a further epoch."""
        best = max(self.history, key=lambda epoch: epoch["ndcg"])
        waited = len(self.history) - 1 - best["epoch"]
        return waited >= self.settings["patience"] or len(self.history) >= self.settings["epochs"]

    def items(self, module: torch.nn.Module) -> tuple[np.ndarray, torch.Tensor]:
        """Return which items RecTools knows and all items' vectors, unknown ones zero."""
        every = module.torch_model.item_model.get_all_embeddings()
        inside = self.inside()
        vectors = torch.zeros(len(inside), every.shape[1])
        vectors[inside > 0] = every[inside[inside > 0]]
        return inside > 0, vectors

    def inside(self) -> np.ndarray:
        """Return RecTools' own number of each item; 0 (its padding) for an item it does not know."""
        # Items used only before the last max_length + 1 events of their users are not known.
        known = self.model.data_preparator.item_id_map.external_ids
        inside = np.zeros(int(self.data["n_items"]), dtype=np.int64)
        inside[known[1:].astype(np.int64)] = np.arange(1, len(known))
        return inside

    def users(self, module: torch.nn.Module, part: str) -> torch.Tensor:
        """Return the vectors of users after their histories."""
        items, offsets = self.data[f"{part}_items"], self.data[f"{part}_offsets"]
        inside, length = self.inside(), self.settings["max_length"]
        every = module.torch_model.item_model.get_all_embeddings()
        sessions = np.zeros((len(offsets) - 1, length), dtype=np.int64)
        for row, (start, end) in enumerate(pairwise(offsets)):
            known = inside[items[start:end]]
            known = known[known > 0][-length:]
            sessions[row, length - len(known) :] = known
        return torch.cat(
            [
                module.torch_model.encode_sessions({"x": torch.from_numpy(batch)}, every)[:, -1]
                for batch in np.array_split(sessions, max(1, len(sessions) // 256))
            ]
        )

    def ndcg(self, users: torch.Tensor, items: torch.Tensor, known: np.ndarray) -> float:
        """Return NDCG@10 of the validation targets, full ranking; ties count against the model."""
        total, unknown = 0.0, torch.from_numpy(~known)
        targets = torch.from_numpy(self.data["validation_targets"]).long()
        for rows in torch.arange(len(users)).split(128):
            scores = (users[rows] @ items.T).masked_fill(unknown, -torch.inf)
            own = scores.gather(1, targets[rows, None])
            rank = (~(scores < own)).sum(1) - 1
            total += float(((rank < 10) / torch.log2(rank + 2.0)).sum())
        return total / len(users)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
