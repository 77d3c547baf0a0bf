"""Tuned models on real vLLM servers: loaded while they run, as good as in transformers, used by a search."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from agenttts import search
from agenttts.errors import UserError
from agenttts.tasktune.data.dataset import load_dataset
from agenttts.tasktune.data.rows import mean_by_task
from agenttts.tasktune.evaluation import evaluate
from agenttts.tasktune.fit import fit
from agenttts.tasktune.generate import encode_chat, greedy
from agenttts.tasktune.improve import improve
from agenttts.tasktune.rivals import rivals_spec
from agenttts.tasktune.serving import adaptable, ask_each, load_adapter, served
from agenttts.training.weights import read_tuned
from datastore import Store
from pipelines.runtime.sampler import Sampler
from pipelines.runtime.values import VERIFYING
from pipelines.servers.clients import ModelClients
from pipelines.servers.group import ServerGroup, commands, free_port
from pipelines.spec.files import load_spec
from pipelines.spec.models import ModelSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.variants import Verifier
from tests.agenttts.commands import agenttts
from tests.agenttts.p2c.tiny_bert import WORDS, write_backbone
from tests.agenttts.tasktune.museum import ZOO, fit_config, museum
from tests.live.conftest import write_spec

pytestmark = pytest.mark.usefixtures("tuning_libraries")


@pytest.fixture(scope="module")
def lora_spec(live_spec: PipelineSpec, tmp_path_factory: pytest.TempPathFactory) -> PipelineSpec:
    """The same servers, with more questions."""
    folder = tmp_path_factory.mktemp("lora")
    return load_spec(write_spec(folder, ["small", "medium"], n_search=40, n_test=20, served=live_spec))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the museum and an adapter for it."""
    folder = tmp_path_factory.mktemp("museum")
    museum(folder, 400, 60)
    fit(fit_config(out="adapter"), folder)
    return folder


def test_a_hot_loaded_adapter_answers_as_in_transformers(lora_spec: PipelineSpec, tuned: Path) -> None:
    """The same greedy answers, and a gain over its base with an interval clear of zero."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    url = lora_spec.models["small"].base_url
    data = load_dataset(tuned / "museum")
    load_adapter(url, "museum-tuned", tuned / "adapter")
    load_adapter(url, "museum-tuned", tuned / "adapter")  # it is there: nothing to do
    with Store.open(tuned / "eval.duckdb") as store:
        places = {"zoo-small": url, "museum-tuned": url}
        found = asyncio.run(
            evaluate(data, places, store=store, reference="zoo-small", log_dir=tuned / "logs")
        )
        scores = {one.model: one for one in found.scores}
        again = asyncio.run(
            evaluate(data, places, store=store, reference="zoo-small", log_dir=tuned / "logs")
        )
    assert again.to_json_dict() == found.to_json_dict()
    gain = scores["museum-tuned"].against
    assert gain is not None
    assert gain.low > 0
    base = str(ZOO / "models/small")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tuned / "adapter"))
    prompts = [encode_chat(tokenizer, row.messages) for row in data.test]
    texts = greedy(model, tokenizer, prompts, [8] * len(prompts))
    expected = mean_by_task(data.tasks, data.test, texts)["read_off"]
    assert scores["museum-tuned"].score.mean == pytest.approx(expected, abs=2.5 / len(prompts))


def test_a_tuned_server_takes_further_adapters(vllm: None, tuned: Path, tmp_path: Path) -> None:
    """What `tune serve` starts takes an adapter of another rank by `tune serve --into`."""
    (wide,) = fit(fit_config(out=str(tmp_path / "wide"), epochs=0.1, lora={"rank": 32}), tuned)
    spec = rivals_spec({"narrow": str(tuned / "adapter")}, port=free_port())
    servers = [adaptable(command, 32) for command in commands(spec)]
    url = spec.models["narrow"].base_url
    with ServerGroup(servers, log_dir=tmp_path):
        done = agenttts("tune", "serve", wide.path, "--into", url, "--db", tmp_path / "s.duckdb")
        assert done.code == 0, done.err
        other = rivals_spec({"narrow": url, "wide": url})
        ask_each(other, ["narrow", "wide"])


def test_a_refused_adapter(lora_spec: PipelineSpec, tuned: Path) -> None:
    """The server's reason is told, and what it needs."""
    with pytest.raises(UserError, match=r"refuses the adapter nothing .*--enable-lora"):
        load_adapter(lora_spec.models["small"].base_url, "nothing", tuned / "no-such-adapter")


def test_improve(lora_spec: PipelineSpec, tmp_path: Path) -> None:
    """From a live search to a tuned choice and back: the test split stays sealed, and a second call spends
    nothing."""
    db = tmp_path / "run.duckdb"
    searched = search(lora_spec, budget=50, db=db, trials=4, proposer="insights")
    made = improve(
        lora_spec,
        db=db,
        run_id=searched.run_id,
        stage="retrieve",
        models=["small"],
        tune_share=0.6,
        trials=6,
        fit_settings={"epochs": 2, "learning_rate": 2e-3, "lora": {"rank": 8}},
    )
    (model,) = made.models
    assert model == "small-tuned-retrieve"
    assert made.bought.samples_drawn > 0
    assert made.data_cost is not None
    assert (made.data_cost.examples, made.data_cost.examples_left) == (24, 16)
    assert made.data_cost.units and made.data_cost.samples > made.bought.rows["train"]
    assert json.loads((made.path / "improve.json").read_text())["data_cost"]["examples"] == 24
    new = load_spec(made.path / "pipeline.yaml")
    assert new.models[model].parent == "small"
    assert (new.models[model].active_params or 0) > (new.models["small"].active_params or 0)
    assert model in new.stage("retrieve").models
    assert model not in new.stage("answer").models
    data = load_dataset(made.path / "data")
    left = {json.loads(line)["id"] for line in (made.path / "search.jsonl").read_text().splitlines()}
    learnt = {row.group for row in [*data.train, *data.eval]}
    assert learnt
    assert not learnt & left
    assert all(name.startswith("search") for name in learnt | left)
    (one,) = made.comparisons
    assert one.difference.n == 20
    assert one.budget_units == 50
    with Store.read(db) as store:
        assert any(record.name == model and record.parent for record in store.models())
        assert [tuning.path for tuning in store.tunings()] == [
            str(read_tuned(made.path / "adapters/small").path)
        ]
        samples = store.sql("SELECT count(*) AS n FROM samples").n[0]
    again = agenttts(
        *("improve", Path(lora_spec.root) / "pipeline.yaml", "--db", db),  # the run that was not its own
        *("--stage", "retrieve", "--model", "small", "--tune-share", 0.6, "--trials", 6, "--epochs", 2),
        *("--learning-rate", 2e-3, "--rank", 8, "--json"),
    )
    assert again.code == 0, again.err
    assert again.json["comparisons"] == made.to_json_dict()["comparisons"]
    with Store.read(db) as store:
        assert store.sql("SELECT count(*) AS n FROM samples").n[0] == samples


def test_served_names_who_does_not_answer(lora_spec: PipelineSpec, tmp_path: Path) -> None:
    """A model that the server does not know."""
    models = {**lora_spec.models}
    models["small"] = models["small"].model_copy(update={"served_name": "stranger"})
    wrong = lora_spec.model_copy(update={"models": models})
    with (
        pytest.raises(UserError, match="small gives no completion"),
        served(wrong, ["small"], log_dir=tmp_path),
    ):
        pass


def test_a_verifier_behind_vllm_says_what_it_says_here(vllm: None, tmp_path: Path) -> None:
    """The exported classifier, served as the spec's verifier: the same probabilities to 1e-4, and banked."""
    from agenttts.p2c.settings import P2CSettings
    from agenttts.p2c.texts import LabelledText
    from agenttts.p2c.trainer import train_classifier

    write_backbone(tmp_path / "backbone")
    texts = [LabelledText(text=" ".join(WORDS[i % 2][: 1 + i % 4]), label=i % 2) for i in range(32)]
    settings = P2CSettings(method="plain", epochs=4, learning_rate=3e-3, max_tokens=16)
    made = train_classifier(
        str(tmp_path / "backbone"), ["wrong", "right"], texts, texts, settings, tmp_path / "work"
    )
    made.export(tmp_path / "verifier")
    spec = load_spec(write_spec(tmp_path, ["small"], n_search=4, n_test=4))
    place = f"http://127.0.0.1:{free_port()}/v1"
    verifier = ModelSpec(
        base_url=place, path=str(tmp_path / "verifier"), active_params=3e4, context_length=64
    )
    stage = spec.stage("answer").model_copy(update={"aggregator": Verifier(model="verifier")})
    spec = spec.model_copy(
        update={"models": {**spec.models, "verifier": verifier}, "stages": (spec.stage("retrieve"), stage)}
    )
    asked = ["bright quick", "dull grey slow", "warm " * 200]

    async def ask() -> list[float]:
        clients = ModelClients(spec, rng=random.Random(0))
        try:
            with Store.open(tmp_path / "s.duckdb") as store:
                sampler = Sampler(spec, store, clients, run_id=None, replay=False, gate=None)
                found = [
                    await sampler.samples("answer", "verifier", {"classify": text}, VERIFYING, 1)
                    for text in asked
                ]
                again = await sampler.samples("answer", "verifier", {"classify": asked[0]}, VERIFYING, 1)
                assert (again.n_drawn, again.calls) == (0, 0)
                assert found[0].prompt_tokens == 4
                return [float(json.loads(one.samples[0].text)[-1]) for one in found]
        finally:
            await clients.aclose()

    with ServerGroup(commands(spec, ["verifier"], device="cpu"), log_dir=tmp_path / "logs"):
        served_probs = asyncio.run(ask())
    assert served_probs[:2] == pytest.approx(made.predict(asked[:2]).probs[:, 1].tolist(), abs=1e-4)
    assert 0 <= served_probs[2] <= 1, "a text that is too long is cut, not refused"
