"""SCFT: LoRA on the LLM, trained to tell items apart by what their attributes say.

An item's random view is told apart from other items' views in the batch, or from a learnt vector of
every item; its positives are the item itself and those that stand near it in training sequences. Stands
on sentence-transformers' trainer; here is what that lacks: views drawn afresh at each visit, the
false-negative mask, and checkpoints that resume to the very same weights.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import Tensor
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import PrinterCallback, TrainerCallback

from llmemb.base_model import BaseModel
from llmemb.catalogue import Attributes
from llmemb.device import best_device
from llmemb.encoder import EncoderSettings
from llmemb.errors import DataError, SettingsError
from llmemb.interactions import Sequences
from llmemb.prompt import PromptTemplate
from trainer import processes
from trainer.cooccurrence import neighbours
from trainer.lora import model_with_lora, training_dtype, write_encoder
from trainer.presets import ScftSettings
from trainer.scft_loss import CatalogueContrast, CatalogueLoss, ViewsLoss
from trainer.steps import LOSSES, Step
from trainer.views import PairsCollator, ViewsCollator, reading_groups, visits

STATE = "state.safetensors"  # of a checkpoint: LoRA and loss; a whole one also holds COMPLETE
COMPLETE = "complete"


def train_scft(
    items: list[Attributes],
    template: PromptTemplate,
    base: BaseModel,
    encoder: EncoderSettings,
    settings: ScftSettings,
    *,
    seed: int,
    folder: Path,
    sequences: Sequences,
    untuned: NDArray[np.floating] | None = None,
    report: Callable[[Step], None] = lambda _: None,
) -> None:
    """Fine-tune and write ``folder/encoder``, a sentence-transformers folder without base weights.

    Of several processes (``trainer.processes``) each takes its share of every batch; the first writes. A run
    may be resumed by another number of them: a checkpoint, a batch and its views know none of it.

    Args:
        items: attributes of the training items.
        template: how they become text.
        base: the LLM.
        encoder: pooling and the token limit.
        settings: views, loss, LoRA, schedule.
        seed: of views, order, initial LoRA and dropout.
        folder: for checkpoints, ``losses.jsonl`` and the result; an interrupted run resumes here.
        sequences: training sequences, of indices into ``items``.
        untuned: the items' vectors by the LLM as it is, float ``[items, llm]``; needed by the
            catalogue loss alone.
        report: told of each step.

    Raises:
        ModelError: the base model cannot be loaded or has no layers for LoRA.
        DataError: there are not two items.
        SettingsError: a batch cannot be shared equally, or 4 bits are asked for where there are none.
    """
    if len(items) < 2:
        raise DataError("SCFT needs two items with training interactions to tell apart")
    torch.manual_seed(seed)
    if not settings.epochs:  # LoRA starts as no change at all
        if processes.first():
            whole = settings.model_copy(update={"shard": False, "qlora": False})
            write_encoder(folder / "encoder", model_with_lora(base, encoder, whole))
        return
    order = visits(len(items), settings.epochs, seed)
    batch_size = min(settings.batch_size, len(items), len(order["item"]))
    if batch_size % processes.count():
        raise SettingsError(
            f"a batch of {batch_size} items cannot be shared equally by {processes.count()} processes; "
            f"set scft.batch_size to a multiple of {processes.count()} below that, or start fewer"
        )
    model = model_with_lora(base, encoder, settings)
    steps = max(1, len(order["item"]) // (batch_size * settings.accumulation))
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=batch_size,  # of all processes together
        accelerator_config={"split_batches": True},
        gradient_accumulation_steps=settings.accumulation,
        activation_checkpointing=settings.gradient_checkpointing,
        learning_rate=settings.learning_rate,
        warmup_steps=min(math.ceil(settings.warmup * steps), steps - 1),
        lr_scheduler_type="cosine",
        bf16=training_dtype(best_device()) == torch.bfloat16,
        use_cpu=best_device().type == "cpu",
        batch_sampler=_in_order,
        dataloader_drop_last=True,
        dataloader_pin_memory=best_device().type == "cuda",
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",  # ``report`` is told, and tells whoever tracks
        seed=seed,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # a process has one; more take more processes
    near, groups = neighbours(sequences, len(items)), reading_groups(items, template)
    views = (items, template, model[0].tokenizer, encoder, settings, seed)
    cache = settings.gradient_cache
    loss: ViewsLoss | CatalogueLoss
    if settings.loss == "catalogue" and untuned is not None:
        loss = CatalogueLoss(model, CatalogueContrast(untuned, near, groups, settings), cache)
        collator = ViewsCollator(*views)
    else:
        loss = ViewsLoss(model, settings)
        collator = PairsCollator(*views, neighbours=near, groups=groups)
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(order),
        loss=loss,
        data_collator=collator,
        callbacks=[_Reporting(report, batch_size * settings.accumulation), _Seeding(seed)],
    )
    trainer.remove_callback(PrinterCallback)  # ``report`` says it better
    processes.begin_alike(trainer.trained())
    trainer.train(resume_from_checkpoint=_last_complete(folder / "checkpoints"))
    if not processes.first():
        return
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    lines = [json.dumps({"step": entry["step"], "loss": entry["loss"]}) for entry in losses]
    (folder / LOSSES).write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_encoder(folder / "encoder", model)


def _in_order(dataset: Dataset, batch_size: int, drop_last: bool, **_: Any) -> BatchSampler:
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


def _last_complete(folder: Path) -> str | None:
    """Return the newest checkpoint that was written to its end."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    newest = max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)
    return str(newest) if newest else None


class _Trainer(SentenceTransformerTrainer):
    """Checkpoints the LoRA and what the loss learns in full precision, nothing else of the model.

    They are all that ranks have to agree on. The library would wrap the model alone (DDP), to which a
    loss with parameters, a sharded LLM and activations that are computed twice are each a special case.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Keep the library from wrapping the model; gradients are averaged in ``training_step``."""
        super().create_accelerator_and_postprocess()
        prepare = self.accelerator.prepare_model
        self.accelerator.prepare_model = partial(prepare, evaluation_mode=True)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss; after the last batch of an optimiser step all ranks have its gradients."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            processes.average_gradients(self.trained())
        return loss

    def trained(self) -> list[Tensor]:
        """Return the LoRA's parameters and the loss's."""
        return [parameter for parameter in self.loss.parameters() if parameter.requires_grad]

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Collect nothing for a model card: the bundle has its own."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self._state()}, folder / STATE)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        tensors = load_file(Path(checkpoint_path) / STATE)
        loss = {n.removeprefix("loss."): t for n, t in tensors.items() if n.startswith("loss.")}
        self.loss.contrast.load_state_dict(loss)
        lora = {n.removeprefix("lora."): t for n, t in tensors.items() if n.startswith("lora.")}
        set_peft_model_state_dict(self.model[0].model, lora)

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in get_peft_model_state_dict(self.model[0].model).items():
            yield f"lora.{name}", value
        for name, value in self.loss.contrast.state_dict().items():
            yield f"loss.{name}", value


class _Reporting(TrainerCallback):
    """Passes each step on, and marks a checkpoint whose last file is written."""

    def __init__(self, report: Callable[[Step], None], items_per_step: int) -> None:
        self.report = report
        self.items_per_step = items_per_step

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = time.monotonic()
        self.first = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            items = (state.global_step - self.first) * self.items_per_step
            rate = items / (time.monotonic() - self.began)
            self.report(Step(state.global_step, state.max_steps, logs["loss"], rate))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        processes.wait()  # each writes the state of its random numbers
        if processes.first():
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


class _Seeding(TrainerCallback):
    """Gives each rank's dropout a seed of its own at each step, so that no state has to be resumed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if processes.count() > 1:
            seeds = np.random.SeedSequence((self.seed, state.global_step, processes.rank()))
            torch.manual_seed(int(seeds.generate_state(1)[0]))
