"""`agenttts tune fit`: LoRA (or all weights) on a task's dataset, by TRL's trainers on peft and transformers.

The loss is on the answer alone. Checkpoints are in OUT.work beside the result until it is whole; a run that
was killed resumes from the newest whole one. Several processes share the rows, and by FSDP or DeepSpeed the
model: see `launching`.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from pydantic import Field, model_validator

from agenttts.errors import UserError
from agenttts.tasktune.adapter import peft_config
from agenttts.tasktune.data.cleaning import evenly
from agenttts.tasktune.data.dataset import TaskData, load_dataset
from agenttts.tasktune.data.rows import TaskRow, mean_by_task
from agenttts.tasktune.data.subtask import SubTask
from agenttts.tasktune.generate import encode_answer, encode_chat, greedy
from agenttts.tasktune.trainer import reporter, trainer_class
from agenttts.training.checkpoints import (
    STATE,
    is_first,
    newest_checkpoint,
    on_one_gpu,
    one_line,
    peak_bytes,
    precision,
    quiet,
    release_memory,
    save_json,
    saving,
    work_state,
)
from agenttts.training.events import OnTuneEvent
from agenttts.training.finite import finite_or_stop
from agenttts.training.lora import LoraSettings, Rate
from agenttts.training.weights import (
    CARD,
    BeforeAfter,
    CurvePoint,
    TunedModel,
    TuningCard,
    base_digest,
    count_parameters,
    read_tuned,
    require_servable,
)
from datastore.keys import canonical_json
from pipelines.extras import library
from pipelines.files import whole
from pipelines.spec.strict import Strict

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from trl import SFTConfig

Tracker: TypeAlias = Literal["tensorboard", "wandb", "mlflow"]

_NO_LIMIT = 1 << 20  # tokens, of a model that names no context length


class DpoSettings(Strict):
    """Direct preference optimisation (arXiv 2305.18290) on the dataset's pairs, after the supervised part.

    Experimental: it has not been measured what it is worth.

    Attributes:
        beta: How strongly the model is held to what it was before.
        epochs: How often each pair is seen.
        learning_rate: The learning rate.
    """

    beta: Rate = Field(default=0.1, gt=0)
    epochs: Rate = Field(default=1.0, gt=0)
    learning_rate: Rate = Field(default=5e-6, gt=0)


class FitConfig(Strict):
    """What `agenttts tune fit` reads. Paths start from the file's directory.

    Attributes:
        base: The directory or hub name of the model to tune.
        data: The directory of the dataset.
        out: The directory of the adapter or checkpoint.
        tasks: The sub-tasks to learn; empty: all of the dataset's.
        one_each: Tune an adapter for each sub-task, in OUT/NAME.
        method: `lora` tunes an adapter, `full` all weights.
        lora: The adapter.
        merge: Write a whole checkpoint, the adapter merged in.
        epochs: How often each row is seen.
        batch_size: The rows of a batch on each process.
        accumulate: The batches of a step.
        learning_rate: The largest learning rate.
        schedule: How the learning rate falls.
        warmup_share: The share of the steps over which the learning rate rises.
        weight_decay: The weight decay of AdamW.
        max_tokens: Rows that are longer are left out. None: the model's context length.
        packing: Put the rows of a batch into sequences without padding; no row sees another. Sequences are as
            long as a batch's rows are together on average, and at least as long as the longest row,
            held-out ones included.
        attention: How attention is computed. None: as transformers chooses.
        optimizer: The optimiser. None: TRL's own, AdamW. Those of 8 bits need bitsandbytes and a GPU.
        gradient_checkpointing: Compute activations again instead of keeping them.
        dtype: The type of the base's weights. `auto`: bfloat16 for adapters on a GPU that has it, else
            float32.
        neftune: The size of the noise on embeddings in training (NEFTune, arXiv 2310.05914). None: none.
        eval_rows: The most rows of the evaluation split that are scored each time.
        save_steps: Score, and keep a checkpoint, every so many steps. None: each epoch. The checkpoint with
            the best score is the result.
        patience: Stop when the score was not better so many times in a row. None: never.
        report_to: Trackers that get loss and scores, besides `tuning.json`. TensorBoard's files go to
            OUT.runs, unless TENSORBOARD_LOGGING_DIR names another place.
        seed: Decides initial adapters and batches.
        dpo: Preference optimisation after the supervised part; None: none.
    """

    base: str = Field(description="directory or hub name of the model to tune")
    data: str = Field(description="directory that `agenttts tune data` made")
    out: str = Field(description="directory of the adapter or checkpoint")
    tasks: tuple[str, ...] = Field(default=(), description="sub-tasks to learn; empty: all of the dataset's")
    one_each: bool = Field(default=False, description="an adapter for each sub-task, in OUT/NAME")
    method: Literal["lora", "full"] = "lora"
    lora: LoraSettings = LoraSettings()
    merge: bool = Field(default=False, description="write a whole checkpoint, the adapter merged in")
    epochs: Rate = Field(default=3.0, gt=0)
    batch_size: int = Field(default=16, gt=0, description="rows of a step on each process")
    accumulate: int = Field(default=1, gt=0, description="batches of a step")
    learning_rate: Rate = Field(default=2e-4, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_share: Rate = Field(default=0.03, ge=0, lt=1)
    weight_decay: Rate = Field(default=0.0, ge=0)
    max_tokens: int | None = Field(default=None, gt=0, description="longer rows are left out")
    packing: bool = Field(default=False, description="a batch's rows in sequences without padding")
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = Field(
        default=None, description="how attention is computed; null: as transformers chooses"
    )
    optimizer: Literal["adamw_torch", "adafactor", "adamw_8bit", "paged_adamw_8bit"] | None = Field(
        default=None, description="null: AdamW; those of 8 bits need bitsandbytes and a GPU"
    )
    gradient_checkpointing: bool = False
    dtype: Literal["auto", "bfloat16", "float32"] = Field(default="auto", description="of the base's weights")
    neftune: Rate | None = Field(default=None, gt=0, description="noise on embeddings (NEFTune), such as 5")
    eval_rows: int = Field(default=200, gt=0, description="rows of the evaluation split scored each time")
    save_steps: int | None = Field(
        default=None, gt=0, description="score and keep a checkpoint every so many steps; null: each epoch"
    )
    patience: int | None = Field(
        default=3, gt=0, description="times without a better score before it stops; null: never"
    )
    report_to: tuple[Tracker, ...] = Field(default=(), description="trackers that get loss and scores too")
    seed: int = 0
    dpo: DpoSettings | None = Field(default=None, description="experimental: preference optimisation")

    @model_validator(mode="after")
    def _servable(self) -> FitConfig:
        if self.lora.dora and not self.merge:
            raise ValueError("lora.dora needs merge: true, as vLLM serves no DoRA adapter")
        if self.method == "full" and self.dpo is not None:
            raise ValueError("dpo needs method: lora")
        if self.method == "full" and self.lora.plus is not None:
            raise ValueError("lora.plus needs method: lora")
        if self.lora.plus is not None and self.optimizer not in (None, "adamw_torch"):
            raise ValueError(f"lora.plus needs optimizer: adamw_torch, got {self.optimizer}")
        return self


def fit(config: FitConfig, root: Path, *, on_event: OnTuneEvent = lambda _: None) -> list[TunedModel]:
    """Tune a model. A model that is there already, of the same configuration and data, is not tuned again.

    Interrupted in whatever way, the same call resumes.

    Args:
        config: The configuration.
        root: The directory from which its paths start.
        on_event: Is called with loss and time left now and then, and with the score after each epoch.

    Returns:
        The model, or with `one_each` a model for each sub-task.

    Raises:
        UserError: There is something that a person must put right: base, dataset, layers, disk.
        MissingDependency: The extra `tune` is not installed.
    """
    data = load_dataset(root / config.data)
    names = list(config.tasks or data.tasks)
    unknown = [name for name in names if name not in data.tasks]
    if unknown:
        raise UserError(f"tasks: {unknown[0]!r} is not in {data.path}; it has {', '.join(data.tasks)}")
    if not config.one_each:
        return [_fit(config, data, names, root / config.out, root, on_event)]
    return [_fit(config, data, [name], root / config.out / name, root, on_event) for name in names]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One model to tune: what it learns from, and where it goes."""

    config: FitConfig
    data: TaskData
    train: Sequence[TaskRow]
    held_out: Sequence[TaskRow]
    base: str
    out: Path
    fingerprint: str

    @property
    def work(self) -> Path:
        return self.out.with_name(self.out.name + ".work")


class _Examiner:
    """Scores a model on rows of the evaluation split, whose tokens and answers fit a limit."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Mapping[str, SubTask],
        rows: Sequence[TaskRow],
        limit: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._tasks = tasks
        self._rows = rows
        self._limit = limit
        self._prompts = [encode_chat(tokenizer, row.messages) for row in rows]

    def scores(self, model: PreTrainedModel) -> dict[str, float]:
        """The mean score of each sub-task."""
        if not self._rows:
            return {}
        longest = [self._tasks[row.task].max_tokens for row in self._rows]
        answers = greedy(model, self._tokenizer, self._prompts, longest, limit=self._limit)
        return mean_by_task(self._tasks, self._rows, answers)


class _Record(TypedDict):
    """A row as the trainer takes it. Labels of -100 are not learnt."""

    input_ids: list[int]
    labels: list[int]


def _fit(
    config: FitConfig, data: TaskData, names: Sequence[str], out: Path, root: Path, on_event: OnTuneEvent
) -> TunedModel:
    train = [row for row in data.train if row.task in names]
    if not train:
        raise UserError(f"{data.path} has no rows to learn {', '.join(names)} from")
    if config.dpo is not None and not any(pair.task in names for pair in data.pairs):
        raise UserError(f"dpo: {data.path} has no preference pairs of {', '.join(names)}")
    base = _base(config.base, root)
    job = _Job(
        config=config,
        data=data,
        train=train,
        held_out=evenly([row for row in data.eval if row.task in names], config.eval_rows),
        base=base,
        out=out,
        fingerprint=_fingerprint(config, data, names, base),
    )
    if (out / CARD).is_file():
        tuned = read_tuned(out)
        if tuned.card.fingerprint == job.fingerprint:
            return tuned
        raise UserError(f"{out}: holds a model of another configuration; choose another out, or remove it")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out}: must be free; choose another out")
    state = work_state(job.work, job.fingerprint)
    try:
        with quiet():
            return _trained(job, state, on_event)
    except OSError as error:
        raise UserError(f"{config.base}: can't be loaded: {one_line(error)}") from None
    finally:
        release_memory(library("torch"))


def _trained(job: _Job, state: dict[str, Any], on_event: OnTuneEvent) -> TunedModel:
    transformers, trl = library("transformers"), library("trl")
    datasets, torch = library("datasets"), library("torch")
    config, work = job.config, job.work
    transformers.set_seed(config.seed)
    for tracker in config.report_to:
        library(tracker, "report_to", extra=None)
    tokenizer, model = _loaded(config, job.base, transformers, torch)
    adapter = peft_config(config.lora, model) if config.method == "lora" else None
    limit = config.max_tokens or int(getattr(model.config, "max_position_embeddings", None) or _NO_LIMIT)
    records = [record for row in job.train for record in [_record(tokenizer, row)] * row.weight]
    fitting = [record for record in records if len(record["input_ids"]) <= limit]
    if not fitting:
        shortest = min(len(record["input_ids"]) for record in records)
        raise UserError(f"max_tokens: no row fits {limit} tokens, the shortest has {shortest}")
    of_rows = [(row, _record(tokenizer, row)) for row in job.held_out]
    short_rows = [row for row, record in of_rows if len(record["input_ids"]) <= limit]
    held_out = [record for _, record in of_rows if len(record["input_ids"]) <= limit]
    lengths, scored_lengths = ([len(record["input_ids"]) for record in some] for some in (fitting, held_out))
    length = _packed_length(config, lengths, scored_lengths, limit)
    arguments = _arguments(config, work, length, scored=bool(held_out), trl=trl, torch=torch)
    examiner = _Examiner(tokenizer, job.data.tasks, short_rows, limit)
    checkpoint = newest_checkpoint(work)
    base_params = _base_params(job.base, model)
    trainer = trainer_class(trl)(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(fitting),
        eval_dataset=datasets.Dataset.from_list(held_out) if held_out else None,
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=_callbacks(config, transformers, on_event, scored=bool(held_out)),
    )
    is_sharded = bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
    if is_sharded:
        _whole_models_only(config)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.examiner, trainer.on_event, trainer.lora_plus = examiner, on_event, config.lora.plus
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, transformers.integrations.TensorBoardCallback):
            callback.logging_dir = callback.logging_dir or str(job.out.with_name(job.out.name + ".runs"))
    trainer.add_callback(_examined_before(transformers, examiner, work / STATE, state))
    started = time.monotonic() - float(state.get("seconds", 0.0))
    trainer.clock = lambda: time.monotonic() - started
    trainer.state_file, trainer.work_state = work / STATE, state
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    curve = _curve(trainer.state.log_history)
    model = trainer.model
    if config.dpo is not None:
        model = _preference_optimised(job, config.dpo, model, tokenizer, limit)
    after = examiner.scores(model)
    card = TuningCard(
        fingerprint=job.fingerprint,
        base=job.base,
        base_digest=base_digest(job.base),
        base_params=base_params,
        dataset=str(job.data.path.resolve()),
        dataset_digest=job.data.digest,
        tasks=tuple(sorted({row.task for row in job.train})),
        settings=config.model_dump(mode="json"),
        curve=curve,
        metrics=BeforeAfter(before=state["before"], after=after),
        rows=len(job.train),
        rows_too_long=len(records) - len(fitting),
        eval_rows_too_long=len(of_rows) - len(held_out),
        steps=trainer.state.global_step,
        seconds=round(time.monotonic() - started, 1),
        peak_bytes=peak_bytes(torch),
        versions={m.__name__: m.__version__ for m in (torch, transformers, trl, library("peft"))},
    )
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if is_sharded else None
    if trainer.is_world_process_zero():
        with saving(work):
            _save(config, trainer.accelerator.unwrap_model(model), weights, tokenizer, card, job.out)
        shutil.rmtree(work)
    trainer.accelerator.wait_for_everyone()
    return read_tuned(job.out)


def _preference_optimised(
    job: _Job, dpo: DpoSettings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, limit: int
) -> PreTrainedModel:
    """The model after DPO on the pairs of its sub-tasks; the reference is the model as it comes in."""
    trl, datasets, torch = library("trl"), library("datasets"), library("torch")
    names = {row.task for row in job.train}

    trainer_of_pairs: Any = trl.DPOTrainer

    class Trainer(trainer_of_pairs):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: object, *_: object, **__: object) -> object:
            return dataset

    records = [
        {
            "prompt_ids": encode_chat(tokenizer, pair.messages),
            "chosen_ids": encode_answer(tokenizer, pair.chosen),
            "rejected_ids": encode_answer(tokenizer, pair.rejected),
        }
        for pair in job.data.pairs
        if pair.task in names
    ]
    fitting = [
        one
        for one in records
        if len(one["prompt_ids"]) + max(len(one["chosen_ids"]), len(one["rejected_ids"])) <= limit
    ]
    if not fitting:
        raise UserError(f"dpo: no preference pair fits {limit} tokens")
    trainer = Trainer(
        model=model,
        args=on_one_gpu(
            trl.DPOConfig(
                output_dir=str(job.work / "dpo"),
                beta=dpo.beta,
                num_train_epochs=dpo.epochs,
                learning_rate=dpo.learning_rate,
                per_device_train_batch_size=job.config.batch_size,
                gradient_accumulation_steps=job.config.accumulate,
                gradient_checkpointing=job.config.gradient_checkpointing,
                max_length=None,
                seed=job.config.seed,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                **precision(torch),
            )
        ),
        train_dataset=datasets.Dataset.from_list(fitting),
        processing_class=tokenizer,
        callbacks=[finite_or_stop(dpo.learning_rate)],
    )
    trainer.remove_callback(library("transformers").PrinterCallback)
    trainer.train()
    if "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")
    optimised: PreTrainedModel = trainer.model
    return optimised


def _record(tokenizer: PreTrainedTokenizerBase, row: TaskRow) -> _Record:
    prompt = encode_chat(tokenizer, row.messages)
    answer = encode_answer(tokenizer, row.completion)
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def _callbacks(
    config: FitConfig, transformers: ModuleType, on_event: OnTuneEvent, *, scored: bool
) -> list[TrainerCallback]:
    callbacks = [reporter(transformers, on_event), finite_or_stop(config.learning_rate)]
    if scored and config.patience is not None:
        callbacks.append(transformers.EarlyStoppingCallback(config.patience))
    return callbacks


def _whole_models_only(config: FitConfig) -> None:
    """UserError when the configuration has what needs the whole model in each process."""
    if config.merge and config.method == "lora":
        raise UserError(
            "merge: needs the whole model in one process, and FSDP and DeepSpeed divide it; leave it out, "
            "then `agenttts tune merge ADAPTER --method base --out DIRECTORY`"
        )
    if config.dpo is not None:
        raise UserError("dpo: needs the whole model in each process, and FSDP and DeepSpeed divide it")


def _examined_before(
    transformers: ModuleType, examiner: _Examiner, state_file: Path, state: dict[str, Any]
) -> TrainerCallback:
    """Scores the untrained model where the trainer has put it, and remembers that.

    An adapter changes nothing before its first step.
    """
    callback: Any = transformers.TrainerCallback

    class Examined(callback):  # type: ignore[misc]
        def on_train_begin(
            self, args: object, state_of: Any, control: object, model: Any, **_: object
        ) -> None:
            if "before" not in state:
                state["before"] = examiner.scores(model)
                if is_first():
                    save_json(state_file, state)

    examined: TrainerCallback = Examined()
    return examined


def _arguments(
    config: FitConfig, work: Path, packed: int | None, *, scored: bool, trl: ModuleType, torch: ModuleType
) -> SFTConfig:
    """TRL's arguments. `packed` is the length of a sequence that takes the rows of a batch."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_score"} if scored else {}
    rhythm = "epoch" if config.save_steps is None else "steps"
    steps = (
        {} if config.save_steps is None else dict.fromkeys(("save_steps", "eval_steps"), config.save_steps)
    )
    arguments: SFTConfig = trl.SFTConfig(
        output_dir=str(work),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size if packed is None else 1,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_share,
        weight_decay=config.weight_decay,
        max_length=packed,
        packing=packed is not None,
        eval_packing=False,
        gradient_checkpointing=config.gradient_checkpointing,
        logging_steps=10,
        eval_strategy=rhythm if scored else "no",
        save_strategy=rhythm,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,
        seed=config.seed,
        report_to=list(config.report_to) or "none",
        run_name=config.out,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        greater_is_better=True if scored else None,
        **best,
        **steps,
        **({} if config.optimizer is None else {"optim": config.optimizer}),
        neftune_noise_alpha=config.neftune,
        **precision(torch),
    )
    return on_one_gpu(arguments)


def _packed_length(
    config: FitConfig, lengths: Sequence[int], held_out_lengths: Sequence[int], limit: int
) -> int | None:
    """The length of packed sequences, in tokens; None where there are none.

    TRL cuts the held-out rows to it as well, so that it takes the longest of these too.
    """
    if not config.packing:
        return None
    return min(
        limit, max(*lengths, *held_out_lengths, round(config.batch_size * sum(lengths) / len(lengths)))
    )


def _loaded(
    config: FitConfig, base: str, transformers: ModuleType, torch: ModuleType
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """The base model and its tokenizer."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    except ValueError as error:
        raise UserError(f"base: {base} has no tokenizer: {one_line(error)}") from None
    gpu = torch.cuda.is_available()
    if config.optimizer is not None and "8bit" in config.optimizer:
        if not gpu:
            raise UserError(f"optimizer: {config.optimizer} needs a GPU, there is none; leave it out")
        library("bitsandbytes", "optimizer", extra=None)
    quantization = None
    if config.lora.quantize:
        if not gpu:
            raise UserError("lora.quantize needs a GPU, there is none; leave it out")
        library("bitsandbytes", "lora.quantize", extra=None)
        quantization = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    half = gpu and torch.cuda.is_bf16_supported() and config.method == "lora"
    dtype = ("bfloat16" if half else "float32") if config.dtype == "auto" else config.dtype
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base,
            dtype=getattr(torch, dtype),
            quantization_config=quantization,
            attn_implementation=config.attention,
        )
    except ImportError as error:
        raise UserError(f"attention: {config.attention} can't be had: {one_line(error)}") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"base: {base} can't be loaded: {one_line(error)}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model


def _save(
    config: FitConfig,
    model: Any,
    weights: Mapping[str, Any] | None,
    tokenizer: PreTrainedTokenizerBase,
    card: TuningCard,
    out: Path,
) -> None:
    """Write the weights, the model's own unless gathered ones are given; check that vLLM would take them."""
    if config.method == "lora" and config.merge:
        model = model.merge_and_unload()
    with whole(out) as beside:
        beside.mkdir()
        if config.method == "full" or config.merge:
            tokenizer.save_pretrained(str(beside))
        model.save_pretrained(str(beside), state_dict=weights, safe_serialization=True)
        (beside / "README.md").unlink(missing_ok=True)  # peft's form, not filled in
        require_servable(beside)
        save_json(beside / CARD, card.to_json_dict())


def _base(name: str, root: Path) -> str:
    """The directory or hub name of the base model."""
    local = root / Path(name).expanduser()
    if local.is_dir():
        return str(local.resolve())
    if name.startswith((".", "/", "~")):
        raise UserError(f"base: no such directory, got {name!r}")
    return name


def _base_params(base: str, model: PreTrainedModel) -> int:
    files = sorted(Path(base).glob("*.safetensors")) if Path(base).is_dir() else []
    if files:
        return sum(count_parameters(file) for file in files)
    return sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)


def _fingerprint(config: FitConfig, data: TaskData, names: Sequence[str], base: str) -> str:
    """The digest of everything that decides a training."""
    content = {
        "config": config.model_dump(mode="json", exclude={"out", "data", "report_to"}),
        "data": data.digest,
        "tasks": list(names),
        "base": base_digest(base) or base,
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _curve(history: Sequence[Mapping[str, Any]]) -> tuple[CurvePoint, ...]:
    """The logged figures by step."""
    by_step: dict[int, dict[str, Any]] = {}
    for entry in history:
        point = by_step.setdefault(int(entry["step"]), {"step": int(entry["step"]), "epoch": entry["epoch"]})
        for name, key in (("loss", "loss"), ("eval_loss", "eval_loss"), ("eval_score", "score")):
            if name in entry and math.isfinite(entry[name]):
                point[key] = round(float(entry[name]), 6)
    return tuple(CurvePoint(**by_step[step]) for step in sorted(by_step))
