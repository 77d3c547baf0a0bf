"""`agenttts tune fit` and `merge` on the zoo's small model: it learns, resumes, and refuses what can't be."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agenttts.errors import UserError
from agenttts.tasktune.data.dataset import load_dataset
from agenttts.tasktune.fit import fit
from agenttts.tasktune.merging import merge, merge_into_base
from agenttts.training.checkpoints import on_one_gpu
from agenttts.training.events import TuneEvent, TuneScore
from agenttts.training.weights import TunedModel, read_tuned, require_base, require_servable, tensors
from datastore import Store
from pipelines.errors import MissingDependency
from pipelines.jsonvalues import JSON
from tests.agenttts.commands import agenttts
from tests.agenttts.p2c.tiny_bert import WORDS, write_backbone
from tests.agenttts.tasktune.museum import ZOO, fit_config, museum

pytestmark = pytest.mark.usefixtures("tuning_libraries")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of 400 rows, and adapters `a` and `b`."""
    made = tmp_path_factory.mktemp("museum")
    museum(made, 400)
    for name, seed in (("a", 0), ("b", 1)):
        fit(fit_config(out=name, seed=seed, lora={"rank": 8}), made)
    return made


def test_it_learns(folder: Path) -> None:
    """The tuned model is far better on rows it did not see; the card says how it came about."""
    made = read_tuned(folder / "a")
    before, after = (scores["read_off"] for scores in (made.card.metrics.before, made.card.metrics.after))
    assert isinstance(before, float) and isinstance(after, float) and after > before + 0.3
    assert made.rank == 8
    assert made.card.dataset_digest == load_dataset(folder / "museum").digest
    assert [point.epoch for point in made.card.curve if point.score is not None] == [1.0, 2.0]
    assert (made.card.peak_bytes or 0) > 1e8
    require_servable(made.path)
    assert not (folder / "a.work").exists()


def test_the_same_call_again_does_nothing(folder: Path) -> None:
    """What is there, of the same configuration and data, is given back; of another it is left alone."""
    before = (folder / "a" / "adapter_model.safetensors").stat().st_mtime_ns
    (made,) = fit(fit_config(out="a", seed=0, lora={"rank": 8}), folder)
    assert made.digest == read_tuned(folder / "a").digest
    with pytest.raises(UserError, match="holds a model of another configuration"):
        fit(fit_config(out="a", seed=5, lora={"rank": 8}), folder)
    assert (folder / "a" / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_the_command_registers_the_model(folder: Path, tmp_path: Path) -> None:
    """Parent, digest, dataset and metrics are in the store."""
    config = fit_config(out="a", seed=0, lora={"rank": 8}).model_dump(mode="json")
    (folder / "fit.yaml").write_text(json.dumps(config))
    done = agenttts("tune", "fit", folder / "fit.yaml", "--db", tmp_path / "s.duckdb", "--json")
    assert done.code == 0, done.err
    with Store.read(tmp_path / "s.duckdb") as store:
        (model,) = store.models()
        (tuning,) = store.tunings()
    made = read_tuned(folder / "a")
    assert model.key == tuning.model_key == f"a@{made.digest[:16]}"
    assert model.parent == str((ZOO / "models/small").resolve())
    assert model.active_params == 102_720 + made.n_params
    assert tuning.dataset_digest == load_dataset(folder / "museum").digest
    assert json.loads(tuning.metrics) == made.card.metrics.model_dump()


def test_a_killed_run_ends_as_an_undisturbed_one(folder: Path) -> None:
    """`kill -9` in the middle: the same command goes on from the last whole checkpoint, to the same score."""
    whole = fit_config(out="whole", epochs=4, patience=None)
    killed = fit_config(out="killed", epochs=4, patience=None)
    (undisturbed,) = fit(whole, folder)
    (folder / "killed.yaml").write_text(json.dumps(killed.model_dump(mode="json")))
    command = [sys.executable, "-c", "from agenttts.cli.main import main; main()", "tune", "fit"]
    command += [str(folder / "killed.yaml"), "--db", str(folder / "k.duckdb")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(folder.glob("killed.work/checkpoint-*/trainer_state.json")):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (folder / "killed").exists()
    broken = folder / "killed.work" / "checkpoint-99999"
    broken.mkdir()
    (broken / "adapter_model.safetensors").write_bytes(b"cut")
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    resumed = read_tuned(folder / "killed")
    assert resumed.card.metrics == undisturbed.card.metrics
    assert resumed.card.steps == undisturbed.card.steps


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"lora": {"target_modules": ["q_proj", "w_pack"]}},
            "has no layer 'w_pack'; it has down_proj, gate_proj",
        ),
        ({"lora": {"target_modules": "qproj"}}, "has no layer 'qproj'"),
        (
            {"lora": {"target_modules": ["q_proj", "lm_head"]}},
            "must not name the embeddings, got 'lm_head': vLLM can't serve",
        ),
        ({"lora": {"target_modules": ".*embed_tokens"}}, "must not name the embeddings, got 'embed_tokens'"),
        ({"tasks": ["write_off"]}, "'write_off' is not in .*museum; it has read_off"),
        ({"base": "./nowhere"}, "base: no such directory, got './nowhere'"),
        ({"data": "nothing"}, "nothing: must be a directory that `agenttts tune data` made"),
        ({"max_tokens": 5}, "no row fits 5 tokens, the shortest has"),
        ({"lora": {"quantize": True}}, "quantize needs a GPU"),
        ({"optimizer": "paged_adamw_8bit"}, "optimizer: paged_adamw_8bit needs a GPU, there is none"),
        ({"attention": "flash_attention_2"}, "attention: flash_attention_2 can't be had: "),
        ({"dpo": {}}, "has no preference pairs"),
    ],
)
def test_what_can_not_be_done(folder: Path, changes: dict[str, object], told: str) -> None:
    """One line with field, law and value; nothing is written."""
    with pytest.raises(UserError, match=told):
        fit(fit_config(out="never", epochs=1, **changes), folder)
    assert not (folder / "never").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lora": {"rank": 1024}}, "lora.rank: must be <= 512, got 1024"),
        ({"lora": {"dora": True}}, "lora.dora needs merge: true"),
        (
            {"lora": {"plus": 16}, "optimizer": "adafactor"},
            "lora.plus needs optimizer: adamw_torch, got adafactor",
        ),
        ({"epoch": 3}, "epoch: unknown key"),
    ],
)
def test_a_wrong_configuration(folder: Path, changes: dict[str, object], told: str) -> None:
    """File, line, field, law and value, with exit code 2."""
    config = {"base": "x", "data": "museum", "out": "never", **changes}
    (folder / "wrong.yaml").write_text(json.dumps(config, indent=1))
    done = agenttts("tune", "fit", folder / "wrong.yaml")
    assert done.code == 2
    assert told in done.err
    assert "wrong.yaml:" in done.err


def test_packed_rows(folder: Path) -> None:
    """A step takes as many rows as without packing, and a model learns as much; no row sees another."""
    import torch
    from transformers import AutoModelForCausalLM

    rows = {"batch_size": 8, "epochs": 1, "optimizer": "adafactor", "attention": "sdpa"}
    (apart,) = fit(fit_config(out="apart", **rows), folder)
    (packed,) = fit(fit_config(out="packed", packing=True, **rows), folder)
    assert packed.card.steps == pytest.approx(apart.card.steps, rel=0.1)
    before, after = packed.card.metrics.before["read_off"], packed.card.metrics.after["read_off"]
    assert after > before + 0.2
    model = AutoModelForCausalLM.from_pretrained(ZOO / "models/small", attn_implementation="sdpa")
    first, second = torch.arange(3, 40)[None], torch.arange(50, 80)[None]
    places = torch.cat([torch.arange(37), torch.arange(30)])[None]
    with torch.no_grad():
        both = torch.cat([first, second], 1)
        together = model(input_ids=both, position_ids=places, use_cache=False).logits  # as TRL calls it
        alone = model(input_ids=second).logits
    assert torch.allclose(together[:, 37:], alone, atol=1e-4)


def test_packing_cuts_no_held_out_row(tmp_path: Path) -> None:
    """Rows to score on that are longer than all training rows have the same loss with packing as without."""
    import datasets

    museum(tmp_path, 40)
    examples = tmp_path / "museum/examples"
    splits: Any = datasets.load_from_disk(str(examples))
    splits["eval"] = splits["eval"].map(
        lambda row: {"messages": [{**one, "content": one["content"] * 3} for one in row["messages"]]}
    )
    splits.save_to_disk(str(tmp_path / "longer"))
    shutil.rmtree(examples)
    (tmp_path / "longer").rename(examples)
    still = {"batch_size": 1, "epochs": 1, "learning_rate": 1e-9}
    cards = [
        fit(fit_config(out=f"packing-{packing}", packing=packing, **still), tmp_path)[0].card
        for packing in (False, True)
    ]
    assert [card.eval_rows_too_long for card in cards] == [0, 0]
    apart, packed = ([p.eval_loss for p in card.curve if p.eval_loss is not None] for card in cards)
    assert packed == pytest.approx(apart, rel=1e-3) and packed


def test_scores_and_checkpoints_by_steps(folder: Path) -> None:
    """With `save_steps` the model is scored in between, and the best checkpoint is the result."""
    config = fit_config(out="steps", epochs=1.5, save_steps=8, learning_rate=2e-2)
    (made,) = fit(config, folder)
    scores = {point.step: point.score for point in made.card.curve if point.score is not None}
    assert list(scores) == [*range(8, made.card.steps, 8), made.card.steps]
    assert made.card.metrics.after["read_off"] == pytest.approx(max(scores.values()), abs=1e-6)


def test_a_training_that_no_longer_helps_ends(folder: Path) -> None:
    """After `patience` scores that are no better, counted on when it was interrupted in between."""
    config = fit_config(out="patient", epochs=3, save_steps=5, patience=2, learning_rate=1e-9)

    def interrupted(event: TuneEvent) -> None:
        if isinstance(event, TuneScore) and event.step == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, folder, on_event=interrupted)
    (made,) = fit(config, folder)
    assert made.card.steps == 15


def test_no_checkpoint_keeps_weights_that_are_lost(folder: Path) -> None:
    """With `save_steps` weights that are not finite stop the training before they are saved."""
    config = fit_config(out="never", save_steps=1, learning_rate=1e39, warmup_share=0)
    with pytest.raises(UserError, match=r"at step 1 of \d+: the weights must be finite"):
        fit(config, folder)
    assert not list(folder.glob("never.work/checkpoint-*"))


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow", "wandb"])
def test_a_tracker_that_is_not_installed(tracker: str, folder: Path) -> None:
    """The command that installs it is named before anything is trained."""
    if importlib.util.find_spec(tracker) is not None:
        pytest.skip(f"{tracker} is installed")
    with pytest.raises(MissingDependency, match=f"report_to needs {tracker}, .*; run: pip install {tracker}"):
        fit(fit_config(out="never", report_to=[tracker]), folder)
    assert not (folder / "never").exists()


def test_tensorboard_gets_loss_and_score(folder: Path) -> None:
    """Its files are beside the result, and hold what the card holds."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (made,) = fit(fit_config(out="tracked", epochs=1, report_to=["tensorboard"]), folder)
    events = EventAccumulator(str(folder / "tracked.runs"))
    events.Reload()
    scores = [point.score for point in made.card.curve if point.score is not None]
    assert [one.value for one in events.Scalars("eval/score")] == pytest.approx(scores, abs=1e-6)
    assert events.Scalars("train/loss")


def test_rows_that_are_too_long_are_counted(folder: Path, tmp_path: Path) -> None:
    """In training and in evaluation alike: they are left out, and the terminal says how many."""
    from transformers import AutoTokenizer

    from agenttts.tasktune.generate import encode_answer, encode_chat

    data, tokenizer = load_dataset(folder / "museum"), AutoTokenizer.from_pretrained(ZOO / "models/small")
    lengths = [
        [len(encode_chat(tokenizer, r.messages) + encode_answer(tokenizer, r.completion)) for r in rows]
        for rows in (data.train, data.eval)
    ]
    limit = sorted(lengths[1])[len(lengths[1]) // 2]
    n_long = [sum(length > limit for length in split) for split in lengths]
    config = fit_config(out=str(tmp_path / "short"), max_tokens=limit, epochs=0.1).model_dump(mode="json")
    (folder / "short.yaml").write_text(json.dumps(config))
    done = agenttts("tune", "fit", folder / "short.yaml", "--db", tmp_path / "s.duckdb")
    assert done.code == 0, done.err
    card = read_tuned(tmp_path / "short").card
    assert [card.rows_too_long, card.eval_rows_too_long] == n_long and min(n_long) > 0
    assert f"{n_long[0]} training rows, {n_long[1]} evaluation rows" in " ".join(done.err.split())


def test_the_options_reach_the_libraries(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The type of the weights, LoRA+'s two learning rates, NEFTune's noise and rsLoRA's scaling are those of
    the training."""
    import torch

    import agenttts.tasktune.fit as module

    seen: dict[str, Any] = {}
    made = module.trainer_class

    def spied(trl: Any) -> type:
        class Spied(made(trl)):  # type: ignore[misc]
            def create_optimizer(self, *arguments: object, **named: object) -> Any:
                optimizer = super().create_optimizer(*arguments, **named)
                rates = {
                    id(parameter): group["lr"]
                    for group in optimizer.param_groups
                    for parameter in group["params"]
                }
                for half in ("lora_A", "lora_B"):
                    seen[half] = {rates[id(p)] for name, p in self.model.named_parameters() if half in name}
                seen["dtype"] = {p.dtype for name, p in self.model.named_parameters() if "lora_" not in name}
                seen["scaling"] = {
                    m.scaling["default"]
                    for m in self.model.modules()
                    if isinstance(getattr(m, "scaling", None), dict)
                }
                seen["noise"] = self.args.neftune_noise_alpha
                return optimizer

        return Spied

    monkeypatch.setattr(module, "trainer_class", spied)
    lora = {"rank": 4, "alpha": 8, "rslora": True, "plus": 16}
    changes = {"dtype": "bfloat16", "neftune": 5, "gradient_checkpointing": True, "learning_rate": 1e-3}
    fit(fit_config(out=str(tmp_path / "options"), lora=lora, epochs=0.1, **changes), folder)
    assert seen["lora_A"] == {1e-3} and seen["lora_B"] == {1.6e-2}
    assert seen["dtype"] == {torch.bfloat16} and seen["noise"] == 5
    assert seen["scaling"] == {4.0}


def test_a_machine_with_several_cards_uses_one() -> None:
    """A process without torchrun trains on one, so that no batch is spread by DataParallel."""
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir="unused", use_cpu=True)
    arguments._n_gpu = 4
    assert arguments.train_batch_size == 32
    assert on_one_gpu(arguments).n_gpu == 1
    assert arguments.train_batch_size == 8


def test_nothing_is_left_in_memory(folder: Path, tmp_path: Path) -> None:
    """After a training no weight, gradient or state of its optimiser is alive, so that a server on the same
    card finds room."""
    from torch import Tensor

    def tensors() -> list[Tensor]:
        every = (one for one in gc.get_objects() if issubclass(type(one), Tensor))
        return [tensor for tensor in every if tensor.numel() > 1]

    earlier = tensors()  # of other tests, whose errors may hold them
    fit(fit_config(out=str(tmp_path / "gone"), epochs=0.1), folder)
    known = set(map(id, earlier))
    assert not [tensor.shape for tensor in tensors() if id(tensor) not in known]


def test_an_adapter_of_another_base(folder: Path) -> None:
    """Its own base is named."""
    with pytest.raises(UserError, match=r"was tuned on .*small .* not on .*medium"):
        require_base(read_tuned(folder / "a"), ZOO / "models/medium")


def test_what_vllm_would_not_load(folder: Path, tmp_path: Path) -> None:
    """Modules saved whole, DoRA, adapters on lm_head, and weights cut short are refused before a start."""
    from safetensors.torch import load_file, save_file

    source = folder / "a"
    for change, told in (
        ({"modules_to_save": ["lm_head"]}, "modules_to_save must be empty"),
        ({"use_dora": True}, "use_dora must be off"),
        ({"r": 1000}, "rank must be from 1 to 512"),
    ):
        made = tmp_path / told.split()[0]
        made.mkdir()
        config = json.loads((source / "adapter_config.json").read_text()) | change
        (made / "adapter_config.json").write_text(json.dumps(config))
        (made / "adapter_model.safetensors").write_bytes((source / "adapter_model.safetensors").read_bytes())
        with pytest.raises(UserError, match=told):
            require_servable(made)
    head = tmp_path / "head"
    head.mkdir()
    (head / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
    weights = load_file(str(source / "adapter_model.safetensors"))
    on_head = {f"base_model.model.lm_head.lora_{half}.weight": next(iter(weights.values())) for half in "AB"}
    weights |= {name: tensor.clone() for name, tensor in on_head.items()}
    save_file(weights, str(head / "adapter_model.safetensors"))
    with pytest.raises(UserError, match="must leave lm_head alone"):
        require_servable(head)
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "adapter_model.safetensors").write_bytes(
        (source / "adapter_model.safetensors").read_bytes()[:-100]
    )
    with pytest.raises(UserError, match="is cut short"):
        require_servable(cut)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_refused(dtype: str, value: str, tmp_path: Path) -> None:
    """In any type, wherever the weights come from; the largest finite numbers are no fault."""
    import torch
    from safetensors.torch import save_file

    kind = getattr(torch, dtype)
    good = torch.tensor([[torch.finfo(kind).max, 0.0, -1.0]], dtype=kind)
    save_file({"a": good, "none": good[:0], "ids": torch.tensor([-1])}, str(tmp_path / "model.safetensors"))
    require_servable(tmp_path)
    bad = torch.tensor([1.0, float(value), 2.0], dtype=kind)
    save_file({"a": good, "b": bad}, str(tmp_path / "model.safetensors"))
    with pytest.raises(UserError, match="must be finite, 1 of 3 values of b"):
        require_servable(tmp_path)


@pytest.mark.parametrize(
    ("shape", "offsets", "told"),
    [
        ([4], [0, 8], r"a must take the 16 bytes of F32 \[4\], got 8"),
        ([2], [0, 16], r"a must take the 8 bytes of F32 \[2\], got 16"),
        ([2, 2], [16, 0], "got -16"),
        ([-4], [0, 16], "the -16 bytes"),
        ([2], [-8, 0], "begins inside its header"),
        ([float("inf")], [0, 8], "must be a safetensors file"),
    ],
)
def test_a_shape_that_does_not_take_its_bytes(
    shape: list[float], offsets: list[int], told: str, tmp_path: Path
) -> None:
    """One line for the person, whichever of the two the header gets wrong."""
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(16)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=told):
        require_servable(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 1e12}, "the loss or its gradients must be finite; lower learning_rate, 1e+12"),
        (
            {"learning_rate": 1e39, "batch_size": 400, "warmup_share": 0},
            "at step 1 of 1: the weights must be",
        ),
    ],
)
def test_a_training_that_is_lost_is_no_success(
    changes: dict[str, object], words: str, folder: Path, tmp_path: Path
) -> None:
    """One line, exit code 2, no adapter and nothing in the store."""
    config = {**fit_config(epochs=1, **changes).model_dump(mode="json"), "data": str(folder / "museum")}
    (tmp_path / "fit.yaml").write_text(json.dumps({**config, "out": "lost"}))
    db = tmp_path / "runs.duckdb"
    done = agenttts("tune", "fit", tmp_path / "fit.yaml", "--db", db)
    assert done.code == 2 and words in done.err and not (tmp_path / "lost").exists()
    if db.exists():
        with Store.read(db) as store:
            assert not store.tunings()


def classifier_config(root: Path, out: str, **settings: float) -> dict[str, JSON]:
    """Write a small backbone and 80 labelled texts; configure a classifier that learns from them."""
    write_backbone(root / "backbone")
    lines = [f"{WORDS[n % 2][n % 4]} {n},{'no' if n % 2 == 0 else 'yes'}\n" for n in range(80)]
    (root / "texts.csv").write_text("text,label\n" + "".join(lines))
    return {
        "base": "backbone",
        "data": "texts.csv",
        "out": out,
        "labels": ["no", "yes"],
        "label": "label",
        "settings": {"method": "plain", "epochs": 2, "max_tokens": 9, **settings},
    }


def test_a_classifier_that_is_lost_is_no_success(tmp_path: Path) -> None:
    """The same for a classifier."""
    from agenttts.p2c.classifier import ClassifierConfig, fit_classifier

    config = classifier_config(tmp_path, "lost", learning_rate=1e12)
    with pytest.raises(UserError, match="must be finite; lower learning_rate, 1e\\+12"):
        fit_classifier(ClassifierConfig.model_validate(config), tmp_path)
    assert not (tmp_path / "lost").exists()


FULL = """
import resource, signal, sys
from pathlib import Path
from agenttts.tasktune.fit import fit
from agenttts.training.checkpoints import on_one_gpu
from agenttts.training.events import TuneScore
from tests.agenttts.tasktune.museum import fit_config
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def limited(event):
    if isinstance(event, TuneScore) and event.step > 25:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

try:
    fit(fit_config(out="full", epochs=3, lora={"rank": 8}), Path(sys.argv[1]), on_event=limited)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk(folder: Path) -> None:
    """Saving fails with a clear error; earlier checkpoints are intact, and with room the run goes on."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("UserError"), done.stdout
    assert "whole checkpoints stay in" in done.stdout
    assert not (folder / "full").exists()
    kept = list((folder / "full.work").glob("checkpoint-*/trainer_state.json"))
    assert kept
    (made,) = fit(fit_config(out="full", epochs=3, lora={"rank": 8}), folder)
    assert made.card.metrics.after["read_off"] > 0.4


def test_a_full_disk_while_a_classifier_trains(tmp_path: Path) -> None:
    """The same one line, with exit code 2; with room the command goes on."""
    config = classifier_config(tmp_path, "full")
    (tmp_path / "c.yaml").write_text(json.dumps(config))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command = [sys.executable, "-c", "from agenttts.cli.main import main; main()", "tune", "classifier"]
    command.append(str(tmp_path / "c.yaml"))
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, preexec_fn=limited)
    assert done.returncode == 2, done.stderr
    assert f"error: {tmp_path / 'full'}: can't be saved: " in done.stderr
    assert f"whole checkpoints stay in {tmp_path / 'full.work'}" in done.stderr
    assert "Traceback" not in done.stderr
    subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert (tmp_path / "full" / "model.safetensors").is_file()


def test_all_weights_and_merging_into_the_base(folder: Path) -> None:
    """Full fine-tuning, and an adapter merged in, give checkpoints that transformers loads."""
    import torch
    from transformers import AutoModelForCausalLM

    (whole,) = fit(fit_config(out="all-weights", method="full", epochs=1, learning_rate=1e-3), folder)
    assert not whole.is_adapter
    assert whole.n_params == 102_720
    merged = merge_into_base(folder / "a", folder / "a-merged")
    assert not merged.is_adapter
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(ZOO / "models/small")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(base, str(folder / "a"))(ids).logits
        ours = AutoModelForCausalLM.from_pretrained(merged.path)(ids).logits
    assert torch.allclose(theirs, ours, atol=1e-4)


def test_merged_adapters(folder: Path) -> None:
    """A sum is exact: its logits are those of both adapters at work at once with their weights."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    made = merge([folder / "a", folder / "b"], folder / "ab", weights=[0.25, 0.75])
    assert made.rank == 16
    assert made.card.settings["lost_energy"] == 0.0
    base = str(ZOO / "models/small")
    ids = torch.arange(3, 40)[None]
    both: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder / "a"), "a")
    both.load_adapter(str(folder / "b"), "b")
    both.base_model.set_adapter(["a", "b"])
    for module in both.modules():
        if hasattr(module, "lora_A") and hasattr(module, "scaling"):
            module.scaling["a"] *= 0.25
            module.scaling["b"] *= 0.75
    with torch.no_grad():
        expected = both(ids).logits
        summed = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(made.path))(
            ids
        ).logits
    assert torch.allclose(expected, summed, atol=1e-4)


def test_a_merge_of_lower_rank(folder: Path) -> None:
    """Its ΔW is the sum's truncated singular value decomposition, and what that loses is on the card."""
    import torch

    exact = _deltas(merge([folder / "a", folder / "b"], folder / "exact", weights=[1.0, 1.0]))
    cut = merge([folder / "a", folder / "b"], folder / "cut", weights=[1.0, 1.0], rank=6)
    assert cut.rank == 6
    lost = energy = 0.0
    for name, delta in _deltas(cut).items():
        u, values, v = torch.linalg.svd(exact[name], full_matrices=False)
        assert torch.allclose(delta, (u[:, :6] * values[:6]) @ v[:6], atol=1e-5), name
        lost, energy = lost + float((values[6:] ** 2).sum()), energy + float((values**2).sum())
    assert cut.card.settings["lost_energy"] == pytest.approx(lost / energy, abs=1e-5)


def test_a_rank_above_a_layers_width(folder: Path) -> None:
    """Layers narrower than the rank are filled up with zeros, so that all have the rank that vLLM expects."""
    (wide,) = fit(fit_config(out="wide", epochs=0.1, lora={"rank": 40}), folder)
    cut = merge([wide.path, wide.path], folder / "wide-cut", rank=70)
    shapes = {tensor.shape for tensor in tensors(cut.path / "adapter_model.safetensors").values()}
    assert all(70 in shape for shape in shapes)
    assert cut.card.settings["lost_energy"] == pytest.approx(0.0, abs=1e-6)
    ours, own = _deltas(cut), _deltas(wide)
    assert all((ours[name] - own[name]).abs().max() < 1e-5 for name in own)


def test_scalings_survive_a_merge(folder: Path) -> None:
    """Equal shares of an adapter with itself add what it adds, its rank-stabilised scaling applied once."""
    import torch

    (made,) = fit(fit_config(out="rs", epochs=1, lora={"rank": 8, "rslora": True}), folder)
    merged = merge([made.path, made.path], folder / "rs-twice")
    assert merged.rank == 16
    for name, delta in _deltas(merged).items():
        assert torch.allclose(delta, _deltas(made)[name], atol=1e-5), name


@pytest.mark.parametrize(("dtype", "weight"), [("bfloat16", 0.3), ("float16", 1e-5)])
def test_half_precision_is_summed_in_float32(folder: Path, tmp_path: Path, dtype: str, weight: float) -> None:
    """Scale and weights, however small, neither round nor lose the factors of adapters in half precision."""
    import torch
    from safetensors.torch import load_file, save_file

    half = tmp_path / "half"
    shutil.copytree(folder / "a", half)
    file = half / "adapter_model.safetensors"
    save_file({name: one.to(getattr(torch, dtype)) for name, one in load_file(file).items()}, file)
    config = json.loads((half / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    merged = merge([half, half], tmp_path / "twice", weights=[weight, weight])
    ours, stored = load_file(merged.path / "adapter_model.safetensors"), load_file(file)
    for name in (name for name in stored if name.endswith(".lora_A.weight")):
        name_b = name.replace(".lora_A.", ".lora_B.")
        delta = ours[name_b].double() @ ours[name].double()
        expected = 2 * weight * scale * stored[name_b].double() @ stored[name].double()
        assert (delta - expected).norm() <= 1e-6 * expected.norm(), name


def _deltas(adapter: TunedModel) -> dict[str, Any]:
    """What peft adds to each layer for an adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(ZOO / "models/small"), str(adapter.path)
    )
    layers = {name: one for name, one in model.named_modules() if hasattr(one, "get_delta_weight")}
    return {name: one.get_delta_weight("default").detach() for name, one in layers.items() if one.scaling}


def test_the_command_that_merges(folder: Path) -> None:
    """It tells rank and lost energy, and refuses methods and ranks that there are not."""
    command = ["tune", "merge", folder / "a", folder / "b", "--db", folder / "m.duckdb", "--out"]
    done = agenttts(*command, folder / "by-command", "--rank", "8")
    assert done.code == 0, done.err
    assert "rank 8, " in done.err
    assert "% of the sum's energy (squared singular values) is lost" in done.err
    for options, reason in (
        (("--method", "ties"), "--method is sum or base, got 'ties'"),
        (("--rank", "16"), "--rank: must be from 1 to 15, below that of the exact sum, got 16"),
    ):
        refused = agenttts(*command, folder / "refused", *options)
        assert refused.code == 2
        assert reason in refused.err


def test_places_that_can_not_be_made(folder: Path) -> None:
    """A file where a directory should be."""
    (folder / "file").write_text("x")
    with pytest.raises(UserError, match="file/x"):
        fit(fit_config(out="file/x", epochs=1), folder)
    with pytest.raises(UserError, match="must be free"):
        fit(fit_config(out="file", epochs=1), folder)
    with pytest.raises(UserError, match="can't be created"):
        merge([folder / "a", folder / "b"], folder / "file" / "x")


def test_adapters_that_do_not_go_together(folder: Path) -> None:
    """A checkpoint among them, a wrong number of weights, a place that is taken."""
    with pytest.raises(UserError, match="must be an adapter, it is a whole checkpoint"):
        merge([folder / "a", ZOO / "models/small"], folder / "x")
    with pytest.raises(UserError, match="one for each of the 2 adapters, got 1"):
        merge([folder / "a", folder / "b"], folder / "x", weights=[1.0])
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"--weight: must be finite numbers, got 1.0, (nan|inf)"):
            merge([folder / "a", folder / "b"], folder / "x", weights=[1.0, wrong])
    with pytest.raises(UserError, match="must be free"):
        merge([folder / "a", folder / "b"], folder / "a")


def test_adapters_of_experts(tmp_path: Path) -> None:
    """Adapters of the experts' parameters are refused: side by side, the factors of the experts would mix."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3}
    base = MixtralForCausalLM(MixtralConfig(**sizes, **heads))
    base.save_pretrained(str(tmp_path / "base"))
    lora = LoraConfig(r=2, target_modules=[], target_parameters=["mlp.experts.down_proj"])
    model: Any = get_peft_model(MixtralForCausalLM.from_pretrained(tmp_path / "base"), lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    model.save_pretrained(str(tmp_path / "experts"))
    with pytest.raises(UserError, match=r"target_parameters must be empty.*\(--method base\)"):
        merge([tmp_path / "experts", tmp_path / "experts"], tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_two_processes(folder: Path) -> None:
    """Under torchrun each process takes half of a step's rows: half the steps, one adapter as good."""
    config = fit_config(out="two", batch_size=8, lora={"rank": 8})
    (folder / "two.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += [str(Path(sys.executable).with_name("agenttts")), "tune", "fit", str(folder / "two.yaml")]
    done = subprocess.run(
        [*command, "--db", str(folder / "two.duckdb")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    made = read_tuned(folder / "two")
    assert made.card.steps == read_tuned(folder / "a").card.steps
    assert made.card.metrics.after["read_off"] > made.card.metrics.before["read_off"] + 0.3


def test_preferences_move_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After DPO the right answer is likelier, relative to the wrong one, than before it; it computes no
    activations twice where the configuration does not say so."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

    from agenttts.tasktune.data.cleaning import Cleaned
    from agenttts.tasktune.data.dataset import write_dataset
    from agenttts.tasktune.data.rows import Gathered, PreferencePair
    from agenttts.tasktune.generate import encode_answer, encode_chat

    data = load_dataset(folder / "museum")
    train = list(data.train[:64])
    others = [row.completion for row in train[1:]] + [train[0].completion]
    pairs = [
        PreferencePair(
            task=row.task,
            messages=row.messages,
            chosen=row.completion,
            rejected=other,
            group=row.group,
            source="s",
        )
        for row, other in zip(train, others, strict=True)
        if row.completion != other
    ]
    write_dataset(
        folder / "pairs",
        [Gathered(pairs=pairs)],
        Cleaned(train),
        (),
        data.tasks,
        domain="museum",
        eval_share=0.2,
        seed=0,
        about={},
    )
    (plain,) = fit(fit_config(data="pairs", out="plain", epochs=1), folder)
    recomputed: list[object] = []
    enable = PreTrainedModel.gradient_checkpointing_enable

    def recorded(model: PreTrainedModel, *arguments: Any, **named: Any) -> None:
        recomputed.append(model)
        enable(model, *arguments, **named)

    monkeypatch.setattr(PreTrainedModel, "gradient_checkpointing_enable", recorded)
    (dpo,) = fit(
        fit_config(data="pairs", out="dpo", epochs=1, dpo={"learning_rate": 1e-3, "epochs": 3}), folder
    )
    assert not recomputed, "gradient_checkpointing is off"
    tokenizer = AutoTokenizer.from_pretrained(ZOO / "models/small")

    def margin(adapter: Path) -> float:
        base = AutoModelForCausalLM.from_pretrained(ZOO / "models/small")
        model = PeftModel.from_pretrained(base, str(adapter)).eval()
        found = []
        for pair in pairs[:20]:
            prompt = encode_chat(tokenizer, pair.messages)
            scores = []
            for text in (pair.chosen, pair.rejected):
                answer = encode_answer(tokenizer, text)
                with torch.no_grad():
                    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
                picked = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])
                scores.append(float(picked.sum()))
            found.append(scores[0] - scores[1])
        return sum(found) / len(found)

    assert margin(dpo.path) > margin(plain.path) + 0.5
