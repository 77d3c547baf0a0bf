"""Retrieve → rerank → answer: what is retrieved, what a search chooses of it, and how one takes it over."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agenttts import load_run, search
from datastore import Store
from pipelines import Allocation, Example, StageChoice, load_spec
from pipelines.dataset.splits import load_splits, with_data
from pipelines.errors import ConfigurationError, DatasetError, MissingDependency, SpecError
from pipelines.rag.corpus import main, pooled, read_passages, write_passages
from pipelines.rag.retrievers import retrieve
from pipelines.rag.scoring import evidence_recall, passage_numbers
from pipelines.runtime import Runtime
from pipelines.servers.clients import ModelClients
from pipelines.servers.patience import Patience
from pipelines.spec.files import spec_digest
from pipelines.spec.pipeline import PipelineSpec
from tests.agenttts.commands import agenttts
from tests.real_data import need
from tests.servers import Request, ScriptedServer

FAMILY = Path(__file__).parents[2] / "pipelines/rag"
TOWNS = 24
SKILL = {"small": 0.6, "large": 0.95}
ADDED = '''

class InOrder:
    """Ranks passages in the order of the corpus, whatever the question."""

    def __init__(self, passages, encoder):
        self.n_passages = len(passages)

    def search(self, question, top_k):
        if "Town3 " in question and top_k == 5:
            raise RuntimeError("the index is down")
        return Ranking(places=range(min(top_k, self.n_passages)))


RETRIEVERS = {**RETRIEVERS, "in-order": InOrder}
'''
OPTIONS = """\
    options:
      bm25-1: {retriever: bm25, top_k: 1}
      bm25-3: {retriever: bm25, top_k: 3}
      in-order-1: {retriever: in-order, top_k: 1}
      in-order-3: {retriever: in-order, top_k: 3}
      in-order-5: {retriever: in-order, top_k: 5}
"""


def reader(request: Request, index: int) -> str:
    """Names the passage that says who chairs the town's council, and answers from it, as well as it can."""
    town = re.findall(r"council of (Town\d+) ", request.prompt)[-1]
    shown = re.findall(r"^(?:(\d+)\.|-) (?:towns: )?(.*)$", request.prompt, re.MULTILINE)
    right = [(number, text) for number, text in shown if text.endswith(f"chairs the council of {town} now.")]
    if "Name the numbers" in request.prompt:
        return ", ".join(number for number, _ in right) or "none"
    is_right = random.Random(f"{request.model}{request.prompt}{index}").random() < SKILL[request.model]
    return right[0][1].partition(" ")[0] if right and is_right else f"Nobody{index}"


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], Path]:
    """`own(base_url)` takes the family over for texts of one's own, with a retriever more."""

    def make(base_url: str) -> Path:
        copied = agenttts("init", tmp_path / "mine", "--from", "2wiki-rag")
        assert copied.code == 0, copied.err
        file = tmp_path / "mine/pipeline.yaml"
        text = file.read_text()
        text = re.sub(r"  qwen.*\n", "", text)
        models = "".join(
            f"  {name}: {{base_url: '{base_url}', active_params: {size}}}\n"
            for name, size in (("small", 3e9), ("large", 12e9))
        )
        text = text.replace("models:\n", f"models:\n{models}", 1)
        text = text.replace("models: [qwen-7b, qwen-32b, qwen-72b]", "models: [small, large]")
        text = re.sub(r"    options:\n(?:      .*\n)+    costs: .*\n    metric: .*\n", OPTIONS, text)
        text = text.replace("corpus: corpus.jsonl", "corpus: docs")
        text = re.sub(
            r"^metric: .*\nmetrics:\n.*\n", "metric: {kind: squad_f1, label: answer}\n", text, flags=re.M
        )
        text = text[: text.index("dataset:")]
        text += "dataset: {pool: rows.jsonl, search: 12, test: 12}\nbudget: {units: 200}\n"
        file.write_text(text)
        (tmp_path / "mine/docs").mkdir()
        passages = [f"Ada{n} chairs the council of Town{n} now." for n in range(TOWNS)]
        passages += [f"Who chairs the council of Town{n} is not recorded, who chairs." for n in range(TOWNS)]
        (tmp_path / "mine/docs/towns.md").write_text("\n\n".join(passages))
        rows = [
            {"question": f"Who chairs the council of Town{n} now?".replace(" now", " "), "answer": f"Ada{n}"}
            for n in range(TOWNS)
        ]
        (tmp_path / "mine/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with (tmp_path / "mine/retrievers.py").open("a") as module:
            module.write(ADDED)
        return file

    return make


@pytest.fixture
async def runtime_of(tmp_path: Path) -> AsyncIterator[Callable[[PipelineSpec], Runtime]]:
    """`runtime_of(spec)` gives a runtime of its own on one store."""
    opened: list[ModelClients] = []
    with Store.open(tmp_path / "samples.duckdb") as store:

        def make(spec: PipelineSpec) -> Runtime:
            patience = Patience(retry_s=0.1)
            opened.append(ModelClients(spec, rng=random.Random(0), patience=patience, backoff_s=0.01))
            return Runtime(spec, store, opened[-1], run_id=None)

        yield make
        for clients in opened:
            await clients.aclose()


def test_the_retriever_that_finds_the_passage_wins_and_a_replay_decides_the_same(
    own: Callable[[str], Path], tmp_path: Path
) -> None:
    """Over retriever, top_k, model and n; the replay, from another directory too, makes no call."""
    pytest.importorskip("bm25s")
    with ScriptedServer({"small": 9000, "large": 9000}, answer=reader) as server:
        file = own(server.base_url)
        result = search(file, trials=12, db=tmp_path / "live.duckdb", policy="fixed")
        (at_work,) = load_run(tmp_path / "live.duckdb").run(
            [{"question": "Who chairs the council of Town5 ?"}]
        )
        n_answered = server.n_answered
        file.parent.rename(tmp_path / "moved")
        again = search(
            tmp_path / "moved/pipeline.yaml",
            trials=12,
            db=tmp_path / "again.duckdb",
            policy="fixed",
            replay=True,
            banks=[tmp_path / "live.duckdb"],
        )
    assert result.best is not None and again.best is not None
    assert result.best.allocation["retrieve"].model == "bm25-3" and result.best.search_score > 0.5
    assert at_work["output"] == "Ada5" and at_work["stages"]["rerank"]
    assert {t.allocation["retrieve"].model for t in result.trials} > {"bm25-3"}
    assert server.n_answered == n_answered > 0
    assert [(t.allocation, t.score) for t in again.trials] == [(t.allocation, t.score) for t in result.trials]
    assert again.best.allocation == result.best.allocation


async def test_a_fault_of_a_retriever_makes_the_example_missing(
    own: Callable[[str], Path], runtime_of: Callable[[PipelineSpec], Runtime]
) -> None:
    """It is no score of 0, the reason is given, and other questions are answered."""
    with ScriptedServer({"small": 9000, "large": 9000}, answer=reader) as server:
        spec = load_spec(own(server.base_url))
        allocation = Allocation(
            {
                "retrieve": StageChoice("in-order-5", 1),
                "rerank": StageChoice("large", 1),
                "answer": StageChoice("large", 5),
            }
        )
        runtime = runtime_of(spec)
        outcomes = {}
        for n in (2, 3):
            row = {"question": f"Who chairs the council of Town{n} ?", "answer": f"Ada{n}"}
            outcomes[n] = await runtime.run_example(allocation, Example(str(n), row))
    assert outcomes[2].status == "ok" and outcomes[2].score == 1.0
    assert outcomes[3].status == "error" and outcomes[3].score is None
    assert "retrieve: retrievers:retrieve raised RuntimeError: the index is down" in (
        outcomes[3].reason or ""
    )


async def test_a_changed_corpus_is_searched_anew(
    own: Callable[[str], Path], runtime_of: Callable[[PipelineSpec], Runtime]
) -> None:
    """The bank knows a call by the content of the files that it reads; so does the digest of the spec."""
    pytest.importorskip("bm25s")
    spec = load_spec(own("http://127.0.0.1:9/v1"))
    example = Example("1", {"question": "Who chairs the council of Town1 ?", "answer": "Ada1"})
    choice, digest = StageChoice("bm25-1", 1), spec_digest(spec)
    first = await runtime_of(spec).stage_outcome("retrieve", choice, example, {})
    same = await runtime_of(spec).stage_outcome("retrieve", choice, example, {})
    assert first.value == same.value and spec_digest(spec) == digest
    docs = spec.root / "docs"
    (docs / "more.txt").write_text("Town1 council: chairs, who chairs? Town1.")
    changed = await runtime_of(spec).stage_outcome("retrieve", choice, example, {})
    assert changed.value == ["more: Town1 council: chairs, who chairs? Town1."]
    assert spec_digest(spec) != digest
    for file in docs.iterdir():
        file.unlink()
    docs.rmdir()
    with pytest.raises(SpecError, match=r"stages\[retrieve\].files.corpus: must be a file or directory"):
        await runtime_of(spec).stage_outcome("retrieve", choice, example, {})


def test_the_check_says_that_a_corpus_is_absent(tmp_path: Path) -> None:
    """With exit code 2, before anything is searched; a copy loads without its corpus."""
    assert agenttts("init", tmp_path, "--from", "2wiki-rag").code == 0
    row = {"question": "q", "answers": ["a"], "ctxs_candidate": ["b"], "ctxs_gt": ["b"]}
    rows = "".join(json.dumps({**row, "question": f"q{n}", "id": n}) + "\n" for n in range(4))
    (tmp_path / "rows.jsonl").write_text(rows)
    data = ["--data", tmp_path / "rows.jsonl", "--n-search", 2, "--n-test", 2]
    checked = agenttts("check", tmp_path / "pipeline.yaml", "--offline", *data)
    place = "stages[retrieve].files.corpus: must be a file or directory that exists, got 'corpus.jsonl'"
    assert checked.code == 2 and place in checked.err


@pytest.mark.parametrize(
    ("before", "after", "law"),
    [
        (
            "{corpus: ",
            "{index: i, corpus: ",
            r"files: must be a parameter of .*:retrieve that no input gives",
        ),
        ("{corpus: ", "{Corpus: ", "got 'Corpus'"),
        (
            "top_k: 3}",
            "corpus: c}",
            "options.bm25-3: must be .* that no file gives, got 'corpus'",
        ),
        (
            "    prompt_file: ",
            "    files: {a: b}\n    prompt_file: ",
            "belongs to stages that run a function",
        ),
    ],
)
def test_a_file_is_a_parameter_that_nothing_else_gives(
    before: str, after: str, law: str, tmp_path: Path
) -> None:
    """And belongs to a stage that runs a function."""
    assert agenttts("init", tmp_path, "--from", "2wiki-rag").code == 0
    file = tmp_path / "pipeline.yaml"
    file.write_text(file.read_text().replace(before, after, 1))
    with pytest.raises(SpecError, match=law):
        load_spec(file)


def test_dense_vectors_find_the_passage_and_count_their_flops(tmp_path: Path) -> None:
    """With an encoder made on the spot, from eight threads; 2·P a token, and the passages' vectors."""
    models = pytest.importorskip("sentence_transformers")
    tokenizers = pytest.importorskip("tokenizers")
    texts = ["red apples grow", "blue whales swim", "green frogs jump"]
    words = {word: place for place, word in enumerate(["?", *" ".join(texts).split()])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    embedding = models.sentence_transformer.modules.StaticEmbedding(tokenizer, embedding_dim=256)
    models.SentenceTransformer(modules=[embedding]).save(str(tmp_path / "encoder"))
    write_passages(texts, tmp_path / "corpus.jsonl")

    def ask(question: str) -> list[object]:
        brought = retrieve(question, str(tmp_path / "corpus.jsonl"), "dense", 1, str(tmp_path / "encoder"))
        return [brought.value, brought.flops]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, ["whales swim", "frogs jump ?", "apples"] * 8))
    flops = [2.0 * (10 * 256) * n_tokens + 2.0 * 3 * 256 for n_tokens in (2, 3, 1)]
    assert answers == [[[texts[1]], flops[0]], [[texts[2]], flops[1]], [[texts[0]], flops[2]]] * 8


def test_what_cannot_work_stops_the_run_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown retriever, an empty corpus, a missing library."""
    corpus = tmp_path / "corpus.jsonl"
    write_passages(["a text"], corpus)
    with pytest.raises(ConfigurationError, match="retriever must be one of bm25, dense, got 'tfidf'"):
        retrieve("a?", str(corpus), "tfidf")
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match="a corpus must have a passage, got none"):
        retrieve("a?", str(tmp_path / "none"))
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(
        MissingDependency, match=r"retrieval with BM25 needs bm25s.*run: pip install .*\[rag\]"
    ):
        retrieve("a?", str(corpus))


def test_an_encoder_that_is_not_there_stops_the_run(tmp_path: Path) -> None:
    """An empty directory, for example."""
    pytest.importorskip("sentence_transformers")
    write_passages(["a text"], tmp_path / "corpus.jsonl")
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigurationError, match=r"can't be loaded.*as encoder among the stage's files"):
        retrieve("a?", str(tmp_path / "corpus.jsonl"), "dense", 1, str(tmp_path / "none"))


def test_passages_are_read_from_lines_and_from_texts(tmp_path: Path) -> None:
    """Titles and names of files go before texts; hidden and other files are left out."""
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "Krk lies  there.", "title": "Krk"}\n\n{"text": "so"}\n{"text": "so"}\n')
    assert read_passages(lines) == ["Krk: Krk lies there.", "so"]
    docs = tmp_path / "docs"
    (docs / "deep/.git").mkdir(parents=True)
    (docs / "b.md").write_text("one\nline\n\n \ntwo")
    (docs / "deep/a.txt").write_text("three\n")
    (docs / "deep/.git/c.txt").write_text("hidden")
    (docs / "image.png").write_bytes(b"\x89")
    assert read_passages(docs) == ["b: one line", "b: two", "a: three"]
    lines.write_text('{"text": "so"}\n{"passage": "so"}\n')
    with pytest.raises(DatasetError, match="line 2 must be an object with a text under 'text', got"):
        read_passages(lines)


def test_the_corpus_of_rows_is_their_candidates_in_one_pool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without answers and evidence; a spec that names no file for it is refused in one line."""
    assert agenttts("init", tmp_path, "--from", "2wiki-rag").code == 0
    rows = [
        {
            "question": f"q{n}",
            "answers": [f"gold{n}"],
            "ctxs_candidate": [f"a{n}", "both", f"b{n}"],
            "ctxs_gt": ["both"],
        }
        for n in range(4)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    data = ["--data", str(tmp_path / "rows.json"), "--n-search", "2", "--n-test", "2"]
    main([str(tmp_path / "pipeline.yaml"), *data])
    assert "wrote 9 passages" in capsys.readouterr().out
    assert sorted(read_passages(tmp_path / "corpus.jsonl")) == sorted(
        ["both", *(f"{side}{n}" for n in range(4) for side in "ab")]
    )
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "pipeline.yaml"), *data, "--stage", "answer"])
    assert stopped.value.code == 2 and "must name the file to write" in capsys.readouterr().err


def test_numbers_and_recall() -> None:
    """Numbers as models write them; recall counts the supporting texts that were brought."""
    example = Example("e", {"candidates": ["a", "b", "c"], "evidence": [1, 3]})
    assert (
        passage_numbers("Passages 2 and 30.", example) == [2, 30] and passage_numbers("none", example) == []
    )
    assert evidence_recall(["c", "b"], example) == 0.5 and evidence_recall([], example) == 0.0


def test_recall_on_real_rows_rises_with_top_k(tmp_path: Path) -> None:
    """BM25 over the pool of 100 questions' sentences brings more evidence, the more it may bring."""
    pytest.importorskip("bm25s")
    file = need("retrieve_answer/2wikimultihopqa_100.json")
    spec = with_data(load_spec(FAMILY / "2wiki-rag.yaml"), file, 40, 60)
    splits = load_splits(spec)
    examples = [*splits.search, *splits.test]
    write_passages(pooled(examples), tmp_path / "corpus.jsonl")
    recalls = []
    for top_k in (1, 3, 10, 30):
        brought = [
            retrieve(e["question"], str(tmp_path / "corpus.jsonl"), "bm25", top_k).value for e in examples
        ]
        scores = [evidence_recall(texts, e) for texts, e in zip(brought, examples, strict=True)]
        recalls.append(sum(scores) / len(scores))
    assert recalls == sorted(recalls) and 0.3 < recalls[0] < recalls[-1] - 0.2 < 0.5
