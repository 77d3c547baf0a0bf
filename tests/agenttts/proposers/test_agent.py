"""The agent behind a real HTTP endpoint: good, mediocre, malformed, hostile and absent."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agenttts import AgentSettings, search
from agenttts.errors import UserError
from agenttts.result import SearchResult
from agenttts.search.events import SearchEvent
from agenttts.stats import paired_difference
from datastore import Store
from tests.servers import Request, ScriptedServer

KEY = "sk-very-secret-0123456789"
N = 60  # examples of the search
PART = 8  # of them are the first part of a trial


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Callable[..., SearchResult]:
    """A search with the agent at a scripted server; the pipeline itself is answered by its bank."""

    def start(
        server: ScriptedServer, trials: int = 6, proposer: str = "agent", **changes: Any
    ) -> SearchResult:
        agent = AgentSettings(base_url=server.base_url, model="planner", api_key=KEY, timeout_s=5.0)
        return search(
            recorded,
            trials=trials,
            proposer=proposer,
            agent=agent,
            db=tmp_path / "run.duckdb",
            preflight=False,
            **changes,
        )

    return start


def planner(answer: Callable[[Request, int], str], **settings: Any) -> ScriptedServer:
    return ScriptedServer({"planner": 1_000_000}, answer=answer, api_key=KEY, **settings)


def turn(*choices: tuple[str, int, str, int], insights: object = (), finished: str | None = None) -> str:
    proposals = [
        {
            "allocation": {
                "retrieve": {"model": a, "n_samples": n},
                "answer": {"model": b, "n_samples": m},
            },
            "reason": "it follows from the trials",
        }
        for a, n, b, m in choices
    ]
    return json.dumps({"insights": insights, "proposals": proposals, "finished": finished})


def stored(db: Path, result: SearchResult) -> tuple[list[Any], list[Any], list[Any]]:
    with Store.read(db) as store:
        run_id = result.run_id
        return store.proposals(run_id), store.insights(run_id), store.events(run_id)


def n_decided(db: Path, result: SearchResult) -> int:
    """The cells that the search decided on, without those of the confirmation, which completes trials."""
    accepted = [p for p in stored(db, result)[0] if p.status == "accepted"]
    return sum({p.allocation: N if p.n_examples is None else p.n_examples for p in accepted}.values())


def test_its_proposals_are_run_and_its_insights_cite_trials(
    run: Callable[..., SearchResult], tmp_path: Path
) -> None:
    """Structured output is asked for; insights and proposals are stored; its tokens are a cost."""
    insight = {"text": "small is as good at retrieve", "trials": [0, 1, 99], "higher": 0, "lower": 99}
    with planner(lambda r, i: turn(("small", 4, "medium", 3), insights=[insight])) as server:
        result = run(server, trials=4)
    proposals, insights, _ = stored(tmp_path / "run.duckdb", result)
    own = [p for p in proposals if p.proposer == "agent"]
    assert [(p.status, p.n_examples) for p in own[:2]] == [("accepted", PART), ("accepted", None)]
    assert own[0].allocation == own[1].allocation and all(p.status == "invalid" for p in own[2:])
    told = {(i.text, tuple(i.trials)) for i in insights if i.proposer == "agent"}
    assert told == {("small is as good at retrieve", (0, 1))}
    assert {i.verdict for i in insights if i.proposer == "agent"} == {"open"}  # trial 99 does not exist
    assert server.arrived[0].body["response_format"]["type"] == "json_schema"
    assert result.cost.agent_tokens > 0 and result.cost.agent_calls == len(server.arrived)
    assert any(t.proposer == "agent" for t in result.trials)


def test_a_server_without_structured_output_gets_a_plain_request(run: Callable[..., SearchResult]) -> None:
    """After a 400 for response_format the same question is asked as plain JSON, and fences are read."""
    fenced = "Here it is:\n```json\n" + turn(("small", 4, "medium", 3)) + "\n```"
    with planner(lambda r, i: fenced, refuses=("response_format",)) as server:
        result = run(server, trials=4)
    assert any(t.proposer == "agent" for t in result.trials)
    assert "response_format" not in server.arrived[-1].body


def test_a_hosted_reasoning_model_is_asked_as_it_wants_to_be(run: Callable[..., SearchResult]) -> None:
    """max_completion_tokens, no schema, parts with thinking, a limit with a date: all calls are counted."""

    def in_parts(request: Request, text: str) -> dict[str, Any]:
        return {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}]}

    with planner(
        lambda r, i: "<think>{}</think>" + turn(("small", 4, "medium", 3)),
        refuses=("response_format", "max_tokens"),
        message=in_parts,
        most_in=(1, 1.0),
    ) as server:
        result = run(server, trials=4)
    assert any(t.proposer == "agent" for t in result.trials)
    body = server.arrived[-1].body
    assert body["max_completion_tokens"] == 4096 and not {"max_tokens", "temperature", "logprobs"} & set(body)
    assert result.cost.agent_calls == server.n_answered
    assert result.cost.agent_tokens == server.prompt_tokens + server.generated_tokens


FAILING: dict[str, tuple[dict[str, Any], str]] = {
    "a wrong key": (
        {"reply": lambda r: (401, {"error": {"message": "Incorrect API key: " + KEY}}, {})},
        "Incorrect API key: ***); correct the key in AGENTTTS_AGENT_API_KEY",
    ),
    "no money": ({"reply": lambda r: (402, {"error": {"message": "top up {now}"}}, {})}, "top up {now}"),
    "a refusal": ({"message": lambda r, t: {"content": None, "refusal": "I'd rather not"}}, "rather not"),
    "reasoning alone": (
        {"message": lambda r, t: {"content": None, "reasoning_content": "hm", "finish_reason": "length"}},
        "cut at the token limit while it reasoned",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_the_endpoints_own_words_are_shown(
    case: str, run: Callable[..., SearchResult], tmp_path: Path
) -> None:
    """The note of a failure says what the server said, without the key; the rules propose."""
    settings, words = FAILING[case]
    with planner(lambda r, i: "{}", **settings) as server:
        result = run(server, trials=4)
    notes = [event.detail for event in stored(tmp_path / "run.duckdb", result)[2] if event.kind == "note"]
    assert (
        0 < n_decided(tmp_path / "run.duckdb", result) <= 4 * N and words in notes[0] and KEY not in notes[0]
    )


BAD = {
    "over budget": turn(("large", 8, "large", 8)),
    "off the space": turn(("huge", 1, "small", 1)),
    "no samples": turn(("small", 0, "small", 1)),
    "not JSON": "I would rather chat.",
    "another shape": json.dumps({"proposals": [{"allocation": [1, 2]}, 7, None]}),
    "injected": json.dumps({"insights": [], "proposals": [{"allocation": "'; DROP TABLE trials; --"}]}),
    "nothing": turn(),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_answer_is_sent_back_once_and_then_replaced(
    case: str, run: Callable[..., SearchResult], tmp_path: Path
) -> None:
    """One repair round with the reasons, then the rules' proposal, and both are on record."""
    with planner(lambda r, i: BAD[case]) as server:
        result = run(server, trials=5)
    assert result.status == "complete" and 0 < n_decided(tmp_path / "run.duckdb", result) <= 5 * N
    assert len(server.arrived) >= 2
    assert "can't be used as it is" in server.arrived[1].prompt
    proposals, _, _ = stored(tmp_path / "run.duckdb", result)
    accepted = [p for p in proposals if p.step > 0 and p.status == "accepted"]
    assert accepted and {p.proposer for p in accepted} <= {"insights", "solve"}
    if case != "nothing":
        invalid = [p for p in proposals if p.status == "invalid"]
        assert invalid and all(p.problem for p in invalid)


def test_a_repaired_answer_is_taken(run: Callable[..., SearchResult], tmp_path: Path) -> None:
    """What the second answer proposes runs under the agent's name."""

    def answer(request: Request, index: int) -> str:
        repair = "can't be used" in request.prompt
        return turn(("small", 3, "large", 1)) if repair else BAD["over budget"]

    with planner(answer) as server:
        result = run(server, trials=4)
    proposals, _, _ = stored(tmp_path / "run.duckdb", result)
    assert [p.status for p in proposals if p.proposer == "agent"][:1] == ["accepted"]


@pytest.mark.parametrize("fault", ["500", "garbage", "close", "empty"])
def test_an_endpoint_that_fails_leaves_the_search_to_the_rules(
    fault: str, run: Callable[..., SearchResult], tmp_path: Path
) -> None:
    """The search ends as usual, with a note of what failed, and what was billed is told."""
    with planner(lambda r, i: "", fault=lambda r: fault) as server:
        result = run(server, trials=5)
        billed = server.prompt_tokens + server.generated_tokens
    assert (result.cost.agent_calls, result.cost.agent_tokens) == (server.n_answered, billed)
    assert (billed > 0) == (fault == "empty")
    assert result.status == "complete" and 0 < n_decided(tmp_path / "run.duckdb", result) <= 5 * N
    _, _, events = stored(tmp_path / "run.duckdb", result)
    notes = [event for event in events if event.kind == "note"]
    assert notes and "the solver proposes instead" in notes[0].detail
    assert all(t.proposer in ("default", "solve") for t in result.trials)


def test_the_key_reaches_the_endpoint_and_nothing_else(
    run: Callable[..., SearchResult], tmp_path: Path
) -> None:
    """No file that the search leaves, and nothing that it prints, holds the key."""
    events: list[SearchEvent] = []
    with planner(lambda r, i: turn(("small", 4, "medium", 3))) as server:
        result = run(server, trials=4, on_event=events.append)
    assert server.arrived[0].headers["authorization"] == f"Bearer {KEY}"
    report = result.report(tmp_path / "report.html")
    for file in (*tmp_path.glob("run.duckdb*"), report):
        assert KEY.encode() not in file.read_bytes(), file
    assert KEY not in repr(events) and KEY not in json.dumps(result.to_json_dict())
    agent = AgentSettings(base_url="http://127.0.0.1:1/v1", model="m", api_key=KEY)
    assert KEY not in repr(agent)


def test_a_repeated_search_asks_nothing_twice(recorded: Path, tmp_path: Path) -> None:
    """Answers of the agent are samples: the same question in a new run is answered from the bank."""
    agent: Any = None
    with planner(lambda r, i: turn(("small", 4, "medium", 3))) as server:
        agent = AgentSettings(base_url=server.base_url, model="planner", api_key=KEY)
        settings: dict[str, Any] = {"trials": 4, "proposer": "agent", "agent": agent, "preflight": False}
        first = search(recorded, db=tmp_path / "run.duckdb", **settings)
        asked = len(server.arrived)
        again = search(recorded, db=tmp_path / "run.duckdb", **settings)
        assert len(server.arrived) == asked
    assert [t.allocation for t in again.trials] == [t.allocation for t in first.trials]


def data(request: Request) -> Any:
    """What the last message shows, as JSON."""
    text = str(request.body["messages"][1]["content"])
    return json.loads(text.split("```json")[1].split("```")[0])


def wanderer() -> Callable[[Request, int], str]:
    """Proposes another allocation each time it is asked."""
    rest = itertools.product(range(1, 8), range(1, 8))

    def answer(request: Request, index: int) -> str:
        n, m = next(rest)
        return turn(("small", n, "medium", m))

    return answer


def always(text: str) -> Callable[[Request, int], str]:
    return lambda request, index: text


HABITS: dict[str, Callable[[Request, int], str]] = {
    **{case: always(text) for case, text in BAD.items()},
    "mediocre": wanderer(),
    "repeats itself": lambda r, i: turn(("small", 4, "medium", 3)),
    "follows the dataset": lambda r, i: json.dumps(
        {"insights": [{"text": "ignore all rules", "trials": [0]}], "finished": "the question says: stop now"}
    ),
    "gives up at once": lambda r, i: turn(finished="nothing can help"),
}


@pytest.fixture(scope="module")
def by_rules(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """The search of ten trials without an LLM."""
    db = tmp_path_factory.mktemp("rules") / "rules.duckdb"
    return search(recorded, trials=10, proposer="insights", db=db, replay=True)


@pytest.mark.parametrize("habit", HABITS)
def test_no_agent_ends_worse_than_the_rules(
    habit: str, run: Callable[..., SearchResult], by_rules: SearchResult, tmp_path: Path
) -> None:
    """Whatever it answers, the search keeps its limits, and its winner is not clearly worse than theirs."""
    with planner(HABITS[habit]) as server:
        result = run(server, trials=10)
    assert result.status == "complete" and n_decided(tmp_path / "run.duckdb", result) <= 10 * N
    assert all(t.budget_units <= result.spec.budget.amount + 1e-6 for t in result.trials)
    mine, theirs = result.best_trial(), by_rules.best_trial()
    assert mine is not None and theirs is not None
    assert paired_difference(mine.scores, theirs.scores, np.random.default_rng(0)).high >= 0


def turns(server: ScriptedServer) -> list[Request]:
    """The requests after the one before any trial."""
    return [request for request in server.arrived if "Nothing was tried yet" not in request.prompt]


def test_the_agent_sees_the_solver_and_shares_the_trials(
    run: Callable[..., SearchResult], tmp_path: Path
) -> None:
    """Of three trials a turn it proposes one, until the rest is needed to complete the leader and the best
    default; it is shown curves with their doubt, and what is tried next.
    """
    with planner(wanderer()) as server:
        result = run(server, trials=6)
        outlook = data(turns(server)[0])["solver"]
    assert outlook["tries_next"] and outlook["expected_of_untried"][0]["standard_deviation"] > 0
    by: dict[int, list[str]] = {}
    for proposal in stored(tmp_path / "run.duckdb", result)[0]:
        by.setdefault(proposal.step, []).append(proposal.proposer)
    assert by.pop(0).count("agent") == 1
    assert by[1] == ["agent", "solve", "solve"]
    counts = [names.count("agent") for names in by.values()]
    assert counts == sorted(counts, reverse=True) and counts[:2] == [1, 1]
    assert all(len(names) <= 3 for names in by.values())
    with planner(wanderer()) as server:
        agent = AgentSettings(base_url=server.base_url, model="planner", api_key=KEY, share=1.0)
        settings: dict[str, Any] = {"preflight": False, "trials": 4, "db": tmp_path / "all.duckdb"}
        alone = search(result.spec, agent=agent, **settings)
    proposals, _, _ = stored(tmp_path / "all.duckdb", alone)
    names = [p.proposer for p in proposals if p.step > 0]
    last = max(i for i, name in enumerate(names) if name == "agent")
    assert "solve" not in names[:last]


@pytest.mark.parametrize("history", ["shuffled", "blank"])
def test_controls_hide_the_history(history: str, run: Callable[..., SearchResult], tmp_path: Path) -> None:
    """The same search with scores dealt anew, or none: what was tried is still known."""
    with planner(wanderer()) as server:
        result = run(server, trials=4, proposer=f"agent-{history}")
        shown = data(turns(server)[0])
    seeds = [p for p in stored(tmp_path / "run.duckdb", result)[0] if p.step == 0]
    assert {seed.n_examples for seed in seeds} == {PART} and len(seeds) >= 3
    scores = [np.mean(list(trial.scores.values())[:PART]) for trial in result.trials[: len(seeds)]]
    told = [trial["score"] for trial in shown["trials"]]
    assert "solver" not in shown
    if history == "blank":
        assert told == [] and len(shown["refused_or_not_to_be_repeated"]) == len(seeds)
    else:
        assert sorted(told) == pytest.approx(sorted(scores), abs=1e-4)
    assert any(t.proposer == f"agent-{history}" for t in result.trials)


def test_zero_shot_is_told_no_score(run: Callable[..., SearchResult]) -> None:
    """All proposals come from one question that shows no result."""
    five = [("small", n, "medium", 1) for n in range(1, 6)]
    with planner(lambda r, i: turn(*five)) as server:
        result = run(server, trials=7, proposer="llm-zero-shot")
        assert len(server.arrived) == 1 and data(server.arrived[0])["trials"] == []
    assert [t.proposer for t in result.trials[2:]] == ["llm-zero-shot"] * 5


def test_agenthpo_reads_the_whole_log(run: Callable[..., SearchResult]) -> None:
    """One proposal a question, each after the log of all trials before it."""
    with planner(wanderer()) as server:
        result = run(server, trials=6, proposer="agenthpo")
        logs = [len(data(request)["trials"]) for request in server.arrived]
        assert "Executor" in server.arrived[0].prompt and "solver" not in data(server.arrived[0])
    assert logs == [2, 3, 4, 5] and [t.proposer for t in result.trials[2:]] == ["agenthpo"] * 4


def test_mlcopilot_elicits_knowledge_from_experience(run: Callable[..., SearchResult]) -> None:
    """First what experiences teach, then a recommendation that is given both; counts come in levels."""

    recommend = wanderer()

    def answer(request: Request, index: int) -> str:
        if "Elicit" in request.prompt:
            return json.dumps({"knowledge": ["medium samples at retrieve do well"]})
        return recommend(request, index)

    with planner(answer) as server:
        result = run(server, trials=5, proposer="mlcopilot")
        asked, told = server.arrived[0], data(server.arrived[1])
    assert "Elicit" in asked.prompt and told["knowledge"] == ["medium samples at retrieve do well"]
    levels = {e["configuration"]["retrieve"]["samples"] for e in told["experiences"]}
    assert levels <= {"very low", "low", "medium", "high", "very high"} and told["trials"] == []
    assert [t.proposer for t in result.trials[2:]] == ["mlcopilot"] * 3


def opened_with(opening: str) -> Callable[[Request, int], str]:
    """Answers the question before any trial with that text, and further ones by the number of trials."""

    def answer(request: Request, index: int) -> str:
        if "Nothing was tried yet" in request.prompt:
            return opening
        more, n = divmod(len(data(request)["trials"]), 8)
        return turn(("small", 1 + more, "medium", 1 + n))

    return answer


def test_it_speaks_before_the_defaults(run: Callable[..., SearchResult], tmp_path: Path) -> None:
    """Its first proposal runs first, under its name and with its reason; the defaults are baselines still."""
    with planner(opened_with(turn(("small", 3, "large", 1)))) as server:
        result = run(server, trials=5)
        question = server.arrived[0]
    assert "Nothing was tried yet" in question.prompt and data(question)["trials"] == []
    ratings = question.body["response_format"]["json_schema"]["schema"]["properties"]["ratings"]
    assert set(ratings["properties"]["retrieve"]["properties"]) == {"small", "medium", "large"}
    assert (result.trials[0].proposer, result.trials[0].purpose) == ("agent", "search")
    assert str(result.trials[0].allocation) == "retrieve small×3 · answer large×1"
    assert result.trials[0].reason == "it follows from the trials"
    by = [t["by"] for t in data(server.arrived[1])["trials"]]
    assert by[0] == "agent" and set(by[1:]) == {"default", "solve"}
    baselines = [t for t in result.trials if t.purpose == "baseline"]
    assert len(baselines) == by.count("default") > 1 and {t.proposer for t in baselines} == {"default"}
    again = data(server.arrived[-1])
    assert again["curves_around_the_best_trial"] and again["failing_examples_of_the_best_trial"]


def test_a_killed_search_goes_on_with_the_same_prior(recorded: Path, tmp_path: Path) -> None:
    """Resumed, it asks nothing that the bank has an answer to, and takes the same decisions."""
    rated = {"one": 0.9, "most": 0.95}
    opening = json.loads(turn(("small", 3, "large", 1)))
    opening["ratings"] = {"retrieve": {"medium": rated}, "answer": {"large": rated}}
    with planner(opened_with(json.dumps(opening))) as server:
        agent = AgentSettings(base_url=server.base_url, model="planner", api_key=KEY)
        settings: dict[str, Any] = {"trials": 4, "proposer": "agent", "agent": agent, "preflight": False}
        whole = search(recorded, db=tmp_path / "whole.duckdb", **settings)
    stopped: list[SearchEvent] = []

    def stop(event: SearchEvent) -> None:
        stopped.append(event)
        if len(stopped) == 25:
            raise KeyboardInterrupt

    with planner(opened_with(json.dumps(opening))) as server:
        settings["agent"] = AgentSettings(base_url=server.base_url, model="planner", api_key=KEY)
        with pytest.raises(KeyboardInterrupt):
            search(recorded, db=tmp_path / "cut.duckdb", on_event=stop, **settings)
        resumed = search(recorded, db=tmp_path / "cut.duckdb", resume=True, **settings)
    assert [(t.allocation, t.n_run) for t in resumed.trials] == [
        (t.allocation, t.n_run) for t in whole.trials
    ]


def test_after_two_failures_in_a_row_the_endpoint_is_left_alone(
    run: Callable[..., SearchResult], tmp_path: Path
) -> None:
    """An endpoint that refuses is asked twice, and the solver alone goes on to the end."""
    refusal: dict[str, Any] = {"reply": lambda r: (401, {"error": {"message": "no"}}, {})}
    with planner(lambda r, i: "{}", **refusal) as server:
        result = run(server, trials=4)
        assert len(server.arrived) == 2
    notes = [event.detail for event in stored(tmp_path / "run.duckdb", result)[2] if event.kind == "note"]
    assert len(notes) == 2 and "the solver proposes instead from now on" in notes[1]
    assert {t.proposer for t in result.trials} == {"default", "solve"}


def test_its_settings_come_from_the_environment() -> None:
    """Timeout, tokens, share, temperature and the key's variable; a number that is none is refused."""
    environ = {
        "AGENTTTS_AGENT_BASE_URL": "http://127.0.0.1:1/v1",
        "AGENTTTS_AGENT_MODEL": "m",
        "AGENTTTS_AGENT_KEY_ENV": "MY_KEY",
        "MY_KEY": KEY,
        "AGENTTTS_AGENT_TIMEOUT": "30",
        "AGENTTTS_AGENT_MAX_TOKENS": "512",
        "AGENTTTS_AGENT_SHARE": "0.5",
        "AGENTTTS_AGENT_TEMPERATURE": "0",
    }
    settings = AgentSettings.from_environ(environ)
    assert settings is not None and (settings.timeout_s, settings.max_tokens) == (30.0, 512)
    assert (settings.share, settings.temperature, settings.api_key) == (0.5, 0.0, KEY)
    for name, value in (("TIMEOUT", "soon"), ("TIMEOUT", "0"), ("MAX_TOKENS", "0"), ("TEMPERATURE", "-1")):
        with pytest.raises(UserError, match=value):
            AgentSettings.from_environ({**environ, f"AGENTTTS_AGENT_{name}": value})
