"""TRL's SFTTrainer with the sub-tasks' own score, and what it reports while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from agenttts.training.checkpoints import save_json, saving
from agenttts.training.events import OnTuneEvent, TuneScore, TuneStep
from pipelines.extras import library

if TYPE_CHECKING:
    from transformers import TrainerCallback
    from transformers.trainer_utils import EvalLoopOutput


def trainer_class(trl: ModuleType) -> type:
    """TRL's SFTTrainer, with the sub-tasks' own score, `eval_score`, at every evaluation.

    Its attributes `examiner`, `on_event`, `clock`, `work_state` and `state_file` are set after it is made;
    `lora_plus`, the ratio of learning rates of LoRA+, where there is one.

    Args:
        trl: The imported module `trl`.
    """

    trainer_of_answers: Any = trl.SFTTrainer

    class Trainer(trainer_of_answers):  # type: ignore[misc]
        lora_plus: float | None = None

        def create_optimizer(self, *arguments: object, **named: object) -> Any:
            if self.lora_plus is not None and getattr(self, "optimizer", None) is None:
                self.optimizer = library("peft.optimizers").create_loraplus_optimizer(
                    self.model,
                    library("torch").optim.AdamW,
                    lr=self.args.learning_rate,
                    loraplus_lr_ratio=self.lora_plus,
                    weight_decay=self.args.weight_decay,
                )
            return super().create_optimizer(*arguments, **named)

        def evaluation_loop(
            self, *arguments: object, metric_key_prefix: str = "eval", **named: object
        ) -> EvalLoopOutput:
            output: EvalLoopOutput = super().evaluation_loop(
                *arguments, metric_key_prefix=metric_key_prefix, **named
            )
            scores = self.examiner.scores(self.model)
            score = sum(scores.values()) / len(scores)
            assert output.metrics is not None
            output.metrics[f"{metric_key_prefix}_score"] = score
            self.on_event(TuneScore(step=self.state.global_step, score=score))
            return output

        def _save_checkpoint(self, *arguments: object, **named: object) -> None:
            with saving(Path(self.args.output_dir)):
                super()._save_checkpoint(*arguments, **named)
                if self.is_world_process_zero():
                    self.work_state["seconds"] = self.clock()
                    save_json(self.state_file, self.work_state)

    return Trainer


def reporter(transformers: ModuleType, on_event: OnTuneEvent) -> TrainerCallback:
    """Make the callback that reports each logged loss with the time left.

    Args:
        transformers: The imported module `transformers`.
        on_event: Is called with each step at which a loss is logged.
    """
    callback: Any = transformers.TrainerCallback

    class Reporter(callback):  # type: ignore[misc]
        def on_train_begin(self, args: object, state: Any, control: object, **_: object) -> None:
            self.started, self.first = time.monotonic(), state.global_step

        def on_log(
            self,
            args: object,
            state: Any,
            control: object,
            logs: Mapping[str, float] | None = None,
            **_: object,
        ) -> None:
            if not logs or "loss" not in logs:
                return
            pace = (time.monotonic() - self.started) / max(1, state.global_step - self.first)
            on_event(
                TuneStep(
                    step=state.global_step,
                    steps=state.max_steps,
                    loss=float(logs["loss"]),
                    seconds_left=pace * (state.max_steps - state.global_step),
                )
            )

    made: TrainerCallback = Reporter()
    return made
