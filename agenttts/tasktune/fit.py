"""`agenttts tune fit`: LoRA (or all weights) on a task's dataset, by TRL's trainers on peft and transformers.

The loss is on the answer alone. Prompts are rendered by the base model's chat template and tokenised exactly
as vLLM does for a chat, so that training and serving see the same tokens. Checkpoints lie in OUT.work beside
the result until it is whole; a run that was killed goes on from the newest whole one. Several processes:
`torchrun --nproc-per-node 2 $(which agenttts) tune fit fit.yaml`.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from agenttts.errors import UserError
from agenttts.tasktune.data.cleaning import evenly
from agenttts.tasktune.data.dataset import TaskData, load_dataset
from agenttts.tasktune.data.rows import Message, TaskRow
from agenttts.tasktune.data.scoring import mean_by_task
from agenttts.tasktune.data.subtask import SubTask
from agenttts.training.checkpoints import (
    STATE,
    is_first,
    newest_checkpoint,
    peak_bytes,
    precision,
    quiet,
    save_json,
    saving,
    work_state,
)
from agenttts.training.weights import (
    CARD,
    RANKS,
    TunedModel,
    count_parameters,
    read_tuned,
    require_servable,
    weights_digest,
)
from datastore.keys import canonical_json
from pipelines.extras import library
from pipelines.strict import Number, Strict

OnEvent = Callable[[dict[str, Any]], None]
"""Is given {"kind": "tune_step", step, steps, loss, seconds_left} and {"kind": "tune_score", step, score}."""
Rate = Annotated[float, Number]


class LoraSettings(Strict):
    """The adapter (Hu et al. 2021); rsLoRA divides alpha by the root of the rank, DoRA splits off lengths."""

    rank: int = Field(default=16, ge=1, le=RANKS[-1])
    alpha: float | None = Field(default=None, gt=0, description="twice the rank where not given")
    dropout: Rate = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description="names of the layers that get an adapter"
    )
    rslora: bool = False
    dora: bool = Field(default=False, description="needs merge: vLLM serves no DoRA adapter")
    quantize: bool = Field(default=False, description="4-bit base weights (QLoRA); needs a GPU")


class DpoSettings(Strict):
    """Direct preference optimisation on the dataset's pairs, after the supervised part."""

    beta: Rate = Field(default=0.1, gt=0)
    epochs: Rate = Field(default=1.0, gt=0)
    learning_rate: Rate = Field(default=5e-6, gt=0)


class FitConfig(Strict):
    """What `agenttts tune fit` reads. Paths start from the file's directory."""

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
    packing: bool = Field(default=False, description="several rows in one sequence; needs flash attention")
    gradient_checkpointing: bool = False
    eval_rows: int = Field(default=200, gt=0, description="rows of the evaluation split scored in each epoch")
    patience: int | None = Field(
        default=3, gt=0, description="epochs without a better score before it stops; null: never"
    )
    seed: int = 0
    dpo: DpoSettings | None = None

    @model_validator(mode="after")
    def _servable(self) -> FitConfig:
        if self.lora.dora and not self.merge:
            raise ValueError("lora.dora needs merge: true, as vLLM serves no DoRA adapter")
        if self.method == "full" and self.dpo is not None:
            raise ValueError("dpo needs method: lora")
        return self


def fit(config: FitConfig, root: Path, *, on_event: OnEvent = lambda _: None) -> list[TunedModel]:
    """Tune, and give what was made; what is already there, of the same configuration and data, is not redone.

    Raises UserError for what a person must put right (base, dataset, layers, disk), MissingDependency without
    the extra `tune`. Interrupted in whatever way, the same call goes on.
    """
    data = load_dataset(root / config.data)
    names = list(config.tasks or data.tasks)
    unknown = [name for name in names if name not in data.tasks]
    if unknown:
        raise UserError(f"tasks: {unknown[0]!r} is not in {data.path}; it has {', '.join(data.tasks)}")
    if not config.one_each:
        return [_fit(config, data, names, root / config.out, root, on_event)]
    return [_fit(config, data, [name], root / config.out / name, root, on_event) for name in names]


def encode_chat(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a chat up to where the answer starts, as a server makes them.

    UserError when the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; name an instruct model"
        )
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def encode_answer(tokenizer: Any, text: str) -> list[int]:
    """Token ids of an answer and its end."""
    return [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def greedy(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_tokens: Sequence[int], batch: int = 32
) -> list[str]:
    """The greedy answer to each prompt of token ids, at most so many tokens long."""
    torch = library("torch")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = [""] * len(prompts)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = max(len(prompts[i]) for i in chosen)
        ids = torch.full((len(chosen), longest), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chosen):
            ids[row, longest - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[row, longest - len(prompts[i]) :] = 1
        with torch.no_grad():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max(max_tokens[i] for i in chosen),
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=tokenizer.eos_token_id,
            )
        for i, said in zip(chosen, out[:, longest:].tolist(), strict=True):
            found[i] = tokenizer.decode(said[: max_tokens[i]], skip_special_tokens=True)
    model.train(was_training)
    return found


class _Examiner:
    """Scores a model on the evaluation split."""

    def __init__(self, tokenizer: Any, tasks: Mapping[str, SubTask], rows: Sequence[TaskRow]) -> None:
        self._tokenizer = tokenizer
        self._tasks = tasks
        self.rows = rows
        self._prompts = [encode_chat(tokenizer, row.messages) for row in rows]

    def scores(self, model: Any) -> dict[str, float]:
        longest = [self._tasks[row.task].max_tokens for row in self.rows]
        return mean_by_task(self._tasks, self.rows, greedy(model, self._tokenizer, self._prompts, longest))


def _fit(
    config: FitConfig, data: TaskData, names: Sequence[str], out: Path, root: Path, on_event: OnEvent
) -> TunedModel:
    train = [row for row in data.train if row.task in names]
    held = evenly([row for row in data.eval if row.task in names], config.eval_rows)
    if not train:
        raise UserError(f"{data.path} has no rows to learn {', '.join(names)} from")
    if config.dpo is not None and not any(pair.task in names for pair in data.pairs):
        raise UserError(f"dpo: {data.path} has no preference pairs of {', '.join(names)}")
    base = _base(config.base, root)
    fingerprint = _fingerprint(config, data, names, base)
    if (out / CARD).is_file():
        done = read_tuned(out)
        if done.card.get("fingerprint") == fingerprint:
            return done
        raise UserError(f"{out}: holds a model of another configuration; choose another out, or remove it")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out}: must be free; choose another out")
    work = out.with_name(out.name + ".work")
    state = work_state(work, fingerprint)
    try:
        with quiet():
            return _trained(config, data, train, held, out, work, base, fingerprint, state, on_event)
    except OSError as error:
        raise UserError(f"{config.base}: can't be loaded: {' '.join(str(error).split())[:200]}") from None


def _trained(
    config: FitConfig,
    data: TaskData,
    train: Sequence[TaskRow],
    held: Sequence[TaskRow],
    out: Path,
    work: Path,
    base: str,
    fingerprint: str,
    state: dict[str, Any],
    on_event: OnEvent,
) -> TunedModel:
    transformers, trl = library("transformers"), library("trl")
    datasets, torch = library("datasets"), library("torch")
    transformers.set_seed(config.seed)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    except ValueError as error:
        raise UserError(f"base: {base} has no tokenizer: {' '.join(str(error).split())[:200]}") from None
    model = _model(config, base, transformers, torch)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    records = [record for row in train for record in [_record(tokenizer, row)] * row.weight]
    limit = config.max_tokens or _context_length(model)
    fitting = [record for record in records if len(record["input_ids"]) <= limit]
    if not fitting:
        shortest = min(len(record["input_ids"]) for record in records)
        raise UserError(f"max_tokens: no row fits {limit} tokens, the shortest has {shortest}")
    examiner = _Examiner(tokenizer, data.tasks, held)
    checkpoint = newest_checkpoint(work)
    if "before" not in state:
        state["before"] = examiner.scores(model) if held else {}
        if is_first():
            save_json(work / STATE, state)
    peft_config = _peft_config(config, model)
    arguments = _arguments(config, work, limit, held=bool(held), trl=trl, torch=torch)
    trainer = trainer_class(trl)(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(fitting),
        eval_dataset=datasets.Dataset.from_list([_record(tokenizer, row) for row in held]) if held else None,
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=[_reporter(transformers, on_event)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.examiner, trainer.patience, trainer.on_event = examiner, config.patience, on_event
    started = time.monotonic() - float(state.get("seconds", 0.0))
    trainer.clock = lambda: time.monotonic() - started
    trainer.state_file, trainer.kept = work / STATE, state
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    curve = _curve(trainer.state.log_history)
    model = trainer.model
    if config.dpo is not None:
        model = _prefer(config, config.dpo, model, tokenizer, data, train, work, limit, trl, datasets, torch)
    after = examiner.scores(model) if held else {}
    card = {
        "fingerprint": fingerprint,
        "base": base,
        "base_digest": weights_digest(Path(base)) if Path(base).is_dir() else None,
        "base_params": _base_params(base, model),
        "dataset": str(data.path.resolve()),
        "dataset_digest": data.digest,
        "tasks": sorted({row.task for row in train}),
        "settings": config.model_dump(mode="json"),
        "curve": curve,
        "metrics": {"before": state["before"], "after": after},
        "rows": len(train),
        "rows_too_long": len(records) - len(fitting),
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - started, 1),
        "peak_bytes": peak_bytes(torch),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, trl, library("peft"))},
    }
    if trainer.is_world_process_zero():
        with saving(work):
            _keep(config, model, tokenizer, card, out)
        shutil.rmtree(work)
    trainer.accelerator.wait_for_everyone()
    return read_tuned(out)


def _prefer(
    config: FitConfig,
    dpo: DpoSettings,
    model: Any,
    tokenizer: Any,
    data: TaskData,
    train: Sequence[TaskRow],
    work: Path,
    limit: int,
    trl: Any,
    datasets: Any,
    torch: Any,
) -> Any:
    """The model after DPO on the pairs of its sub-tasks; the reference is the model as it comes in."""
    names = {row.task for row in train}
    pairs = [pair for pair in data.pairs if pair.task in names]

    class Trainer(trl.DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    records = [
        {
            "prompt_ids": encode_chat(tokenizer, pair.messages),
            "chosen_ids": encode_answer(tokenizer, pair.chosen),
            "rejected_ids": encode_answer(tokenizer, pair.rejected),
        }
        for pair in pairs
    ]
    records = [
        one
        for one in records
        if len(one["prompt_ids"]) + max(len(one["chosen_ids"]), len(one["rejected_ids"])) <= limit
    ]
    if not records:
        raise UserError(f"dpo: no preference pair fits {limit} tokens")
    trainer = Trainer(
        model=model,
        args=trl.DPOConfig(
            output_dir=str(work / "dpo"),
            beta=dpo.beta,
            num_train_epochs=dpo.epochs,
            learning_rate=dpo.learning_rate,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulate,
            max_length=None,
            seed=config.seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **precision(torch),
        ),
        train_dataset=datasets.Dataset.from_list(records),
        processing_class=tokenizer,
    )
    trainer.remove_callback(library("transformers").PrinterCallback)
    trainer.train()
    if "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")
    return trainer.model


def _record(tokenizer: Any, row: TaskRow) -> dict[str, list[int]]:
    prompt = encode_chat(tokenizer, row.messages)
    answer = encode_answer(tokenizer, row.completion)
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def trainer_class(trl: Any) -> Any:
    class Trainer(trl.SFTTrainer):  # type: ignore[misc]
        """TRL's, with the sub-tasks' own score at every evaluation, and a stop when it no longer rises."""

        def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
            with saving(Path(self.args.output_dir)):
                super()._save_checkpoint(*arguments, **named)

        def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
            measured: dict[str, float] = super().evaluate(*arguments, **named)
            scores = self.examiner.scores(self.model)
            score = sum(scores.values()) / len(scores)
            measured["eval_score"] = score
            self.log({"eval_score": score})
            self.on_event({"kind": "tune_score", "step": self.state.global_step, "score": score})
            past = [entry["eval_score"] for entry in self.state.log_history if "eval_score" in entry]
            since_best = len(past) - 1 - past.index(max(past))
            if self.patience is not None and since_best >= self.patience:
                self.control.should_training_stop = True
            self.kept["seconds"] = self.clock()
            if self.is_world_process_zero():
                save_json(self.state_file, self.kept)
            return measured

    return Trainer


def _reporter(transformers: Any, on_event: OnEvent) -> Any:
    class Reporter(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started, self.first = time.monotonic(), state.global_step

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            done = state.global_step - self.first
            pace = (time.monotonic() - self.started) / max(1, done)
            on_event(
                {
                    "kind": "tune_step",
                    "step": state.global_step,
                    "steps": state.max_steps,
                    "loss": float(logs["loss"]),
                    "seconds_left": pace * (state.max_steps - state.global_step),
                }
            )

    return Reporter()


def _arguments(config: FitConfig, work: Path, limit: int, *, held: bool, trl: Any, torch: Any) -> Any:
    scored = (
        {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "eval_score"}
        if held
        else {"eval_strategy": "no"}
    )
    return trl.SFTConfig(
        output_dir=str(work),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_share,
        weight_decay=config.weight_decay,
        max_length=limit if config.packing else None,
        packing=config.packing,
        gradient_checkpointing=config.gradient_checkpointing,
        logging_steps=10,
        save_strategy="epoch",
        save_total_limit=2,
        seed=config.seed,
        report_to="none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        greater_is_better=True if held else None,
        **scored,
        **precision(torch),
    )


def _model(config: FitConfig, base: str, transformers: Any, torch: Any) -> Any:
    gpu = torch.cuda.is_available()
    more: dict[str, Any] = {}
    if config.lora.quantize:
        if not gpu:
            raise UserError("lora.quantize needs a GPU, there is none; leave it out")
        library("bitsandbytes", "lora.quantize", extra=None)
        more["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    dtype = (
        torch.bfloat16
        if gpu and torch.cuda.is_bf16_supported() and config.method == "lora"
        else torch.float32
    )
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype, **more)
    except (ValueError, KeyError) as error:
        raise UserError(f"base: {base} can't be loaded: {' '.join(str(error).split())[:200]}") from None


def _peft_config(config: FitConfig, model: Any) -> Any:
    """None for full fine-tuning. UserError when the model has none of the layers that are named."""
    if config.method == "full":
        return None
    lora, wanted = config.lora, config.lora.target_modules
    if wanted != "all-linear":
        names = [name for name, _ in model.named_modules()]
        if isinstance(wanted, str):  # a pattern for whole names, as peft takes it
            missing = [] if any(re.fullmatch(wanted, name) for name in names) else [wanted]
        else:
            present = {name.rsplit(".", 1)[-1] for name in names}
            missing = [name for name in wanted if name.rsplit(".", 1)[-1] not in present]
        if missing:
            linear = {
                name.rsplit(".", 1)[-1]
                for name, module in model.named_modules()
                if "Linear" in type(module).__name__
            }
            raise UserError(
                f"lora.target_modules: {config.base} has no layer {missing[0]!r}; "
                f"it has {', '.join(sorted(linear - {'lm_head'}))}"
            )
    return library("peft").LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha or 2 * lora.rank,
        lora_dropout=lora.dropout,
        target_modules=wanted if isinstance(wanted, str) else list(wanted),
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _keep(config: FitConfig, model: Any, tokenizer: Any, card: Mapping[str, Any], out: Path) -> None:
    """Write beside, check that vLLM would take it, move into place."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if config.method == "lora" and config.merge:
            model = model.merge_and_unload()
        if config.method == "full" or config.merge:
            tokenizer.save_pretrained(str(partial))
        model.save_pretrained(str(partial), safe_serialization=True)
        (partial / "README.md").unlink(missing_ok=True)  # peft's form, not filled in
        require_servable(partial)
        save_json(partial / CARD, card)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _base(name: str, root: Path) -> str:
    local = root / Path(name).expanduser()
    if local.is_dir():
        return str(local.resolve())
    if name.startswith((".", "/", "~")):
        raise UserError(f"base: no such directory, got {name!r}")
    return name


def _base_params(base: str, model: Any) -> int:
    files = sorted(Path(base).glob("*.safetensors")) if Path(base).is_dir() else []
    if files:
        return sum(count_parameters(file) for file in files)
    return sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)


def _fingerprint(config: FitConfig, data: TaskData, names: Sequence[str], base: str) -> str:
    told = {
        "config": config.model_dump(mode="json", exclude={"out", "data"}),
        "data": data.digest,
        "tasks": list(names),
        "base": weights_digest(Path(base)) if Path(base).is_dir() else base,
    }
    return hashlib.sha256(canonical_json(told).encode()).hexdigest()


def _curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The logged figures by step: {step, epoch, loss, eval_loss, score}."""
    by_step: dict[int, dict[str, float]] = {}
    for entry in history:
        point = by_step.setdefault(int(entry["step"]), {"step": int(entry["step"]), "epoch": entry["epoch"]})
        for name, key in (("loss", "loss"), ("eval_loss", "eval_loss"), ("eval_score", "score")):
            if name in entry and math.isfinite(entry[name]):
                point[key] = round(float(entry[name]), 6)
    return [by_step[step] for step in sorted(by_step)]


def _context_length(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 1 << 20)
