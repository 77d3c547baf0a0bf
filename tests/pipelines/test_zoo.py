"""The zoo is what it says: disjoint worlds, three sizes of one family, and a full bank of what they drew."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from agenttts.replay.bank import BankOutcomes
from datastore import Store
from pipelines.allocation import Allocation, StageChoice
from pipelines.dataset.splits import load_examples
from pipelines.spec.files import load_spec
from pipelines.zoo import SPEC
from pipelines.zoo.training import make_data
from pipelines.zoo.training.lexicon import CIVIC, MUSEUM
from pipelines.zoo.training.rows import read_rows
from pipelines.zoo.training.worlds import Difficulty, make_rows

ZOO = SPEC.parent
SIZES = ("small", "medium", "large")


def facts(path: Path) -> set[str]:
    """Every sentence of a split's documents."""
    return {sentence for row in read_rows(path) for sentence in row.candidates}


def test_the_shipped_questions_are_those_that_the_script_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m pipelines.zoo.training.make_data` gives the same files, byte for byte."""
    monkeypatch.setattr("sys.argv", ["make_data", "--out", str(tmp_path)])
    make_data.main()
    made = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_bytes() for file in (ZOO / "data").glob("*.jsonl")}
    assert len(made) == 4


def test_train_search_and_test_share_no_fact() -> None:
    """No sentence about an entity is in two of the splits, so that nothing can be known by heart."""
    search, test = facts(ZOO / "data/search.jsonl"), facts(ZOO / "data/test.jsonl")
    rows = make_rows(0, CIVIC, "train", Difficulty(), prefix="train", n_rows=3000)
    train = {sentence for row in rows for sentence in row.candidates}
    assert len(train) > 5000
    assert not search & test and not search & train and not test & train


def test_the_domain_kept_out_has_relations_of_its_own() -> None:
    """The museum domain shares no relation with the one that the models were trained on."""
    assert not set(CIVIC.relations) & set(MUSEUM.relations)
    held_out = facts(ZOO / "data/heldout_train.jsonl") | facts(ZOO / "data/heldout_eval.jsonl")
    assert not held_out & facts(ZOO / "data/search.jsonl")


def test_three_sizes_one_tokenizer_and_small_files() -> None:
    """Parameters as the spec says, about 1 : 6 : 16; nothing shipped is over 25 MB."""
    spec = load_spec(SPEC)
    counted = {}
    for size in SIZES:
        folder = ZOO / "models" / size
        with (folder / "model.safetensors").open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
        counted[size] = sum(rows * (columns[0] if columns else 1) for rows, *columns in shapes)
        assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert counted == {size: spec.models[size].active_params for size in SIZES}
    assert counted["medium"] > 5 * counted["small"] and counted["large"] > 15 * counted["small"]
    assert len({(ZOO / "models" / size / "tokenizer.json").read_bytes() for size in SIZES}) == 1
    assert all(file.stat().st_size < 25e6 for file in ZOO.rglob("*") if file.is_file())


@pytest.mark.parametrize("split", ["search", "test"])
async def test_the_bank_answers_every_allocation(split: str, tmp_path: Path) -> None:
    """Drawn at random from all allocations, none misses a sample; the first samples are those of fewer."""
    spec = load_spec(SPEC)
    rng = random.Random(7)
    with Store.open(tmp_path / "bank.duckdb") as store:
        store.attach_bank(ZOO / "bank/zoo.parquet")
        examples = load_examples(spec, split)  # type: ignore[arg-type]
        bank = BankOutcomes(spec, store, rng.sample(examples, 60))
        for _ in range(40):
            drawn = {s.name: StageChoice(rng.choice(s.models), rng.randint(1, 32)) for s in spec.stages}
            trial = await bank.replay(Allocation(drawn))
            assert trial is not None, drawn
            assert set(trial.scores.values()) <= {0.0, 1.0}


def test_the_bank_holds_what_three_models_drew() -> None:
    """32 samples of every prompt, from all three models, with tokens and log-probabilities."""
    table = pq.read_table(ZOO / "bank/zoo.parquet")
    assert set(table["model_key"].to_pylist()) == {"zoo-small", "zoo-medium", "zoo-large"}
    samples = table["samples"].to_pylist()
    assert {len(drawn) for drawn in samples} == {32}
    some = [sample for drawn in samples[:: len(samples) // 50] for sample in drawn]
    assert all(sample["mean_logprob"] <= 0 and sample["generated_tokens"] > 0 for sample in some)
    assert len({sample["text"] for sample in some}) > 100
