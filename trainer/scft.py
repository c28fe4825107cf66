"""SCFT: LoRA on the LLM, trained to tell items apart by what their attributes say.

The positive of an item's random view is another view of the same item or, for a share of the visits,
one of an item that stands near it in training sequences. Stands on sentence-transformers' trainer;
here is what that lacks: views drawn afresh at each visit, the false-negative mask, and checkpoints
that resume to the very same weights.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor, nn
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import PrinterCallback, TrainerCallback
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

from llmemb.base_model import BaseModel
from llmemb.catalogue import Attributes
from llmemb.encoder import (
    EncoderSettings,
    best_device,
    best_dtype,
    check_max_tokens,
    length_batches,
    pad,
    tokenize,
)
from llmemb.errors import DataError, ModelError, SettingsError
from llmemb.files import json_bytes
from llmemb.interactions import Sequences
from llmemb.prompt import PromptTemplate
from trainer.contrast import contrastive_loss
from trainer.cooccurrence import neighbours
from trainer.presets import ScftSettings
from trainer.steps import Step

POOLING_MODES = {"mean": "mean", "last": "lasttoken", "eos": "lasttoken"}
STATE = "state.safetensors"  # of a checkpoint: LoRA and loss; a whole one also holds COMPLETE
COMPLETE = "complete"
CHUNK_TOKENS = 1024  # padded tokens in one forward pass on a CPU: less padding, warmer caches


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
    report: Callable[[Step], None] = lambda _: None,
) -> None:
    """Fine-tune and write ``folder/encoder``, a sentence-transformers folder without base weights.

    Args:
        items: attributes of the training items.
        template: how they become text.
        base: the LLM.
        encoder: pooling and the token limit.
        settings: views, loss, LoRA, schedule.
        seed: of views, order, initial LoRA and dropout.
        folder: for checkpoints, ``losses.jsonl`` and the result; an interrupted run resumes here.
        sequences: training sequences, of indices into ``items``.
        report: told of each step.

    Raises:
        ModelError: the base model cannot be loaded or has no layers for LoRA.
        DataError: there are not two items.
        SettingsError: ``report_to`` names a tracker that is not installed.
    """
    if len(items) < 2:
        raise DataError("SCFT needs two items with training interactions to tell apart")
    torch.manual_seed(seed)
    model = _model_with_lora(base, encoder, settings)
    if not settings.epochs:  # LoRA starts as no change at all
        _write_encoder(folder / "encoder", model)
        return
    visits = _visits(len(items), settings.epochs, seed)
    batch_size = min(settings.batch_size, len(items), len(visits["item"]))
    steps = max(1, len(visits["item"]) // (batch_size * settings.accumulation))
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=settings.accumulation,
        activation_checkpointing=settings.gradient_checkpointing,
        learning_rate=settings.learning_rate,
        warmup_steps=min(math.ceil(settings.warmup * steps), steps - 1),
        lr_scheduler_type="cosine",
        bf16=best_dtype(best_device()) == torch.bfloat16,
        use_cpu=best_device().type == "cpu",
        batch_sampler=_in_order,
        dataloader_drop_last=True,
        dataloader_pin_memory=best_device().type == "cuda",
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        logging_steps=1,
        disable_tqdm=True,
        report_to=list(settings.report_to) or "none",
        seed=seed,
    )
    loss = ViewsLoss(model, settings)
    try:
        trainer = _Trainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(visits),
            loss=loss,
            data_collator=ViewsCollator(
                items=items,
                template=template,
                tokenizer=model[0].tokenizer,
                encoder=encoder,
                neighbours=neighbours(sequences, len(items)),
                settings=settings,
                seed=seed,
            ),
            callbacks=[_Reporting(report, batch_size * settings.accumulation)],
        )
    except RuntimeError as error:
        raise SettingsError(f"scft.report_to: {str(error).splitlines()[0]}") from error
    trainer.remove_callback(PrinterCallback)  # ``report`` says it better
    trainer.train(resume_from_checkpoint=_last_complete(folder / "checkpoints"))
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    lines = [json.dumps({"step": entry["step"], "loss": entry["loss"]}) for entry in losses]
    (folder / "losses.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_encoder(folder / "encoder", model)


class ViewsLoss(nn.Module):
    """The contrastive loss over two batches of views; its temperature is trained with the LoRA."""

    def __init__(self, model: SentenceTransformer, settings: ScftSettings) -> None:
        super().__init__()
        self.model = model
        self.contrast = contrastive_loss(settings.loss, settings.temperature, learnable=True)

    def forward(self, views: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Return the loss; ``labels`` are as :class:`ViewsCollator` gives them."""
        x, y = (self.embed(view) for view in views)
        item, partner, left, right = labels.unbind(1)
        same = (
            (item[:, None] == item)
            | (item[:, None] == partner)
            | (partner[:, None] == partner)
            | (left[:, None] == right)
        )
        loss: Tensor = self.contrast(x, y, same)
        return loss

    def embed(self, view: dict[str, Tensor]) -> Tensor:
        """Return the vectors of a batch of views, float32 ``[batch, llm]``, in chunks of like length."""
        lengths = view["attention_mask"].sum(1).tolist()
        budget = (
            CHUNK_TOKENS if view["input_ids"].device.type == "cpu" else sum(lengths) * len(lengths)
        )
        chunks = length_batches(lengths, budget)
        vectors = [
            self.model({name: tensor[chunk, : lengths[chunk[0]]] for name, tensor in view.items()})[
                "sentence_embedding"
            ].float()
            for chunk in chunks
        ]
        order = torch.tensor([i for chunk in chunks for i in chunk], device=vectors[0].device)
        return torch.cat(vectors)[torch.argsort(order)]


@dataclass
class ViewsCollator:
    """Draws the views of a batch, each a function of the seed, the item and its visit alone."""

    items: list[Attributes]
    template: PromptTemplate
    tokenizer: Any
    encoder: EncoderSettings
    neighbours: Sequences
    settings: ScftSettings
    seed: int
    valid_label_columns: tuple[str, ...] = ("label",)  # the trainer asks for it

    def __post_init__(self) -> None:
        # Items that read alike are not each other's negatives.
        prompts = [self.template.render(item) for item in self.items]
        self.groups = np.unique(prompts, return_inverse=True)[1]

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Tensor]:
        """Return token ids and masks of both views, and ``label``, int64 ``[batch, 4]``.

        Its first two columns number the items of the two views, by what they read like; where one
        row's third is another's fourth, the one's first view says just what the other's second does.
        """
        batch: dict[str, Tensor] = {}
        items = np.array([[row["item"], self.partner(row)] for row in rows])
        views = [
            [
                self.view(item, row["visit"], side)
                for item, row in zip(items[:, side], rows, strict=True)
            ]
            for side in (0, 1)
        ]
        for name, statements in zip(("anchor", "positive"), views, strict=True):
            prompts = [self.template.text(view) for view in statements]
            tokens = tokenize(self.tokenizer, prompts, self.encoder)
            padded = pad([t.ids for t in tokens], self.tokenizer.pad_token_id or 0)
            batch |= {f"{name}_{key}": tensor for key, tensor in padded.items()}
        said = ["; ".join(sorted(view)) for side in views for view in side]
        said_numbers = np.unique(said, return_inverse=True)[1].reshape(2, -1).T
        batch["label"] = torch.from_numpy(np.hstack([self.groups[items], said_numbers]))
        return batch

    def partner(self, row: dict[str, int]) -> int:
        """Return the item of the second view: the visit's own, or one that was used near it."""
        item = row["item"]
        rng = np.random.default_rng((self.seed, item, row["visit"], 2))
        near = self.neighbours[item]
        if not len(near) or rng.random() >= self.settings.cooccurrence:
            return item
        return int(rng.choice(near))

    def view(self, item: int, visit: int, side: int) -> list[str]:
        """Return what one view says of an item; ``side`` is 0 or 1."""
        rng = np.random.default_rng((self.seed, int(item), visit, side))
        return self.template.augment(self.items[item], rng, self.settings.drop)


def _visits(n_items: int, epochs: float, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return the order in which items are visited: each epoch its own permutation."""
    rng = np.random.default_rng(seed)
    whole = math.ceil(epochs)
    order = np.concatenate([rng.permutation(n_items) for _ in range(whole)])
    visit = np.repeat(np.arange(whole), n_items)
    kept = max(2, round(epochs * n_items))
    return {"item": order[:kept], "visit": visit[:kept]}


def _in_order(dataset: Dataset, batch_size: int, drop_last: bool, **_: Any) -> BatchSampler:
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


def _model_with_lora(
    base: BaseModel, encoder: EncoderSettings, settings: ScftSettings
) -> SentenceTransformer:
    device = best_device()
    arguments = {
        "dtype": best_dtype(device),
        "use_safetensors": True,
        # On a CPU the fused kernel's backward is slower than plain attention over short prompts.
        "attn_implementation": "eager" if device.type == "cpu" else "sdpa",
    }
    disable_progress_bar()
    try:
        transformer = Transformer(
            str(base.path), model_kwargs=arguments, max_seq_length=encoder.max_tokens
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"base model {base.path}: {str(error).splitlines()[0]}") from error
    check_max_tokens(transformer.model.config, transformer.tokenizer, encoder)
    if transformer.tokenizer.pad_token_id is None:
        transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=_lora_targets(transformer.model, settings.top_layers, base),
        base_model_name_or_path=base.name_or_path,
    )
    transformer.model = get_peft_model(transformer.model, lora)
    pooling = Pooling(transformer.get_embedding_dimension(), POOLING_MODES[encoder.pooling])
    return SentenceTransformer(modules=[transformer, pooling], device=str(device))


def _lora_targets(model: nn.Module, top_layers: float, base: BaseModel) -> list[str]:
    """Return the names of the linear layers inside the top share of the transformer's blocks.

    Below the lowest of them nothing needs a gradient, which saves that part of the backward pass.
    """
    lists = [m for m in model.named_modules() if isinstance(m[1], nn.ModuleList)]
    if not lists:
        raise ModelError(f"base model {base.path} has no list of layers that LoRA could go into")
    name, blocks = max(lists, key=lambda entry: sum(1 for _ in entry[1].modules()))
    first = len(blocks) - math.ceil(top_layers * len(blocks))
    targets = [
        f"{name}.{i}.{inner}"
        for i in range(first, len(blocks))
        for inner, module in blocks[i].named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    if not targets:
        raise ModelError(f"base model {base.path} has no linear layers that LoRA could go into")
    return targets


def _write_encoder(folder: Path, model: SentenceTransformer) -> None:
    model.save_pretrained(str(folder), create_model_card=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form that PEFT leaves
    # PEFT writes sets in no fixed order; the bundle's id is a hash over this file.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_bytes())
    config["target_modules"] = sorted(config["target_modules"])
    config["inference_mode"] = True
    path.write_bytes(json_bytes(config))


def _last_complete(folder: Path) -> str | None:
    """Return the newest checkpoint that was written to its end."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    newest = max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)
    return str(newest) if newest else None


class _Trainer(SentenceTransformerTrainer):
    """Checkpoints the LoRA and the loss's temperature in full precision, nothing else of the model."""

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
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
