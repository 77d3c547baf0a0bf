"""A check for everything that would fail in a search, before any token is spent.

It covers the budget, the dataset, the templates and, when there are clients, the preflight of the servers
(`pipelines.servers.preflight`). Mistakes in the spec itself are reported when it is read. The forecast of a
search's cost is in `plan`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from agenttts.errors import SpaceError
from agenttts.proposers.moves import units_left
from agenttts.search.findings import Finding, Severity
from agenttts.search.plan import HOPELESS_DIFFERENCE
from agenttts.search.telling import telling_prompts
from agenttts.space.measure import chosen_budget
from agenttts.space.space import SearchSpace
from agenttts.stats import smallest_resolvable_difference
from datastore.keys import canonical_json
from pipelines.costs import estimated_tokens
from pipelines.dataset.splits import Splits, load_splits
from pipelines.errors import PipelineError, SpecError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.servers.clients import ModelClients
from pipelines.servers.preflight import preflight
from pipelines.spec.files import spec_functions
from pipelines.spec.functions import reference, require_ready
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.templates import check_templates
from pipelines.spec.variants import BuiltinMetric, Fusion
from pipelines.stages.prompts import render, render_fusion, truncations


async def check(
    spec: PipelineSpec,
    budget: float | None = None,
    *,
    budget_usd: float | None = None,
    clients: ModelClients | None = None,
    read_splits: Callable[[], Splits] | None = None,
) -> list[Finding]:
    """Look for everything that would fail in a search, without drawing a sample.

    Args:
        spec: The pipeline.
        budget: The budget per query in the measure of the spec's own; None: the spec's.
        budget_usd: The budget in US dollars per query instead; None: not in dollars.
        clients: The clients of the servers; None: no server is contacted, and the lengths of prompts are
            estimated.
        read_splits: Reads the examples, raising as `load_splits` does; None: `load_splits`.

    Returns:
        What is wrong, errors first; empty when a search can begin.
    """
    templates = list(_templates(spec))
    findings = [*templates, *_space(spec, budget, budget_usd), *_bank(spec)]
    findings += _functions(spec)
    examples, rows = list[Example](), list[Example]()
    if not templates:
        try:
            splits = load_splits(spec) if read_splits is None else read_splits()
        except PipelineError as error:
            findings += _errors(error)
        else:
            rows = [*splits.search, *splits.test]
            prompts = list(_prompts(spec, rows))
            findings += [*_left_out(splits.left_out), *_size(len(splits.search)), *prompts]
            if not any(finding.severity == "error" for finding in prompts):
                examples = rows
                findings += _truncated(spec, rows)
        findings += telling_prompts(spec, rows)
    findings += _lengths(spec, examples) if clients is None else await _servers(spec, clients, examples)
    placed = [replace(finding, place=_in_file(spec, finding.place)) for finding in findings]
    return sorted(dict.fromkeys(placed), key=lambda finding: finding.severity)


def _in_file(spec: PipelineSpec, place: str) -> str:
    """The place of a finding; where it is a field of the spec alone, with the spec's file and line."""
    root = re.match(r"\w+", place)
    is_field = root is not None and root[0] in PipelineSpec.model_fields
    return spec.place_of(place) if is_field and not re.search(r":( |\d+$)", place) else place


def _templates(spec: PipelineSpec) -> Iterator[Finding]:
    try:
        check_templates(spec)
    except SpecError as error:
        yield from _errors(error)


def _functions(spec: PipelineSpec) -> Iterator[Finding]:
    warned = set[str]()
    for function in spec_functions(spec):
        try:
            for message in require_ready(function):
                if message not in warned:
                    yield Finding(severity="warning", place=reference(function), message=message)
                warned.add(message)
        except PipelineError as error:
            yield from _errors(error)
    for stage in spec.stages:
        for name, path in stage.paths.items():
            if not path.exists():
                message = f"must be a file or directory that exists, got {stage.files[name]!r}"
                yield Finding(severity="error", place=f"stages[{stage.name}].files.{name}", message=message)


def _space(spec: PipelineSpec, budget: float | None, budget_usd: float | None) -> Iterator[Finding]:
    place = ""  # what is wrong with the measure has a place of its own
    try:
        measure, amount = chosen_budget(spec, budget, budget_usd)
        place = f"budget.{measure.name}"
        space = SearchSpace(spec, amount, measure)
    except SpaceError as error:
        yield Finding(severity="error", place=place, message=str(error))
        return
    if (advice := space.below_reference()) is not None:
        yield Finding(severity="warning", place="budget.reference", message=advice)
    for stage in spec.stages:
        left = units_left(space, space.cheapest, stage.name)
        for option in stage.options:
            if space.max_samples(stage.name, option, left) == 0:
                message = (
                    f"one sample of {str(option)!r} is over the budget of {space.budget_text} "
                    f"{space.measure.label}; it is never tried"
                )
                yield Finding(severity="warning", place=f"stages[{stage.name}].models", message=message)


def _bank(spec: PipelineSpec) -> Iterator[Finding]:
    if spec.bank_path is not None and not spec.bank_path.exists():
        message = f"must be a file that exists, got {spec.bank!r}; paths start from the spec's directory"
        yield Finding(severity="error", place="bank", message=message)


def _left_out(rows: Sequence[str]) -> Iterator[Finding]:
    if rows:
        message = f"{len(rows)} rows are left out: {'; '.join(rows[:3])}{'; …' if len(rows) > 3 else ''}"
        yield Finding(severity="warning", place="dataset", message=message)


def _truncated(spec: PipelineSpec, examples: Sequence[Example]) -> Iterator[Finding]:
    """Warn of prompts that are cut as planned; outputs of other stages are not known yet."""
    for stage in spec.stages:
        notes = [note for example in examples for note in truncations(stage, example, {})]
        if notes:
            message = (
                f"as planned, prompts of {len(notes)} of {len(examples)} examples are cut, such as {notes[0]}"
            )
            yield Finding(severity="warning", place=f"stages[{stage.name}].truncate", message=message)


def _size(n_search: int) -> Iterator[Finding]:
    resolvable = smallest_resolvable_difference(n_search)
    if resolvable > HOPELESS_DIFFERENCE:
        message = (
            f"{n_search} search examples can only show differences of {resolvable:.2f} or more; "
            "add search examples"
        )
        yield Finding(severity="warning", place="dataset.search", message=message)


def _prompts(spec: PipelineSpec, examples: Sequence[Example]) -> Iterator[Finding]:
    """Report the first failure of each stage.

    A stage with inputs is rendered with stand-ins for them, so that its failure is only a warning.
    """
    prompts = [s.prompted(name) for s in spec.stages if s.python is None for name in s.prompt_names]
    for stage in prompts:
        for example in examples:
            outputs = stand_ins(spec, stage, example)
            try:
                render(stage, example, outputs)
                if isinstance(stage.aggregator, Fusion):
                    render_fusion(stage, [""], example, outputs)
            except SpecError as error:
                severity: Severity = "warning" if stage.input_names else "error"
                yield from (
                    replace(finding, severity=severity, message=f"{finding.message} (example {example.id!r})")
                    for finding in _errors(error)
                )
                break


def stand_ins(spec: PipelineSpec, stage: StageSpec, example: Example) -> dict[str, JSON]:
    """Return plausible outputs of the stages that a stage takes as inputs, by name.

    Args:
        spec: The pipeline.
        stage: The stage.
        example: The example, whose gold values stand in where there are some.
    """
    return {name: _stand_in(spec.stage(name), example) for name in stage.input_names}


def _stand_in(stage: StageSpec, example: Example) -> JSON:
    """Return a plausible output of the stage: the gold value, else an empty list or an empty text."""
    listed = stage.parser.list_valued or stage.python is not None
    gold: JSON = example.fields.get(stage.metric.label) if isinstance(stage.metric, BuiltinMetric) else None
    if gold is None:
        return [] if listed else ""
    return gold[0] if isinstance(gold, list) and gold and not listed else gold


def _lengths(spec: PipelineSpec, examples: Sequence[Example]) -> Iterator[Finding]:
    """Warn of prompts that seem longer than a model's context, when no server counts their tokens."""
    for stage in spec.stages:
        if stage.input_names or stage.python is not None:
            continue
        sizes = [
            (estimated_tokens(canonical_json(render(stage.prompted(prompt), example, {}))), example.id)
            for example in examples
            for prompt in stage.prompt_names
        ]
        longest, example_id = max(sizes, default=(0, ""))
        for name in stage.models:
            generated = spec.models[name].sampled(stage.sampling).max_tokens or 1
            window = spec.models[name].context_length
            if window is not None and longest + generated > window:
                message = (
                    f"prompt and generation must fit the {window} tokens of {name!r}, example {example_id!r} "
                    f"needs about {longest} + {generated}; a check with the servers up counts exactly"
                )
                yield Finding(severity="warning", place=f"stages[{stage.name}]", message=message)


async def _servers(spec: PipelineSpec, clients: ModelClients, examples: Sequence[Example]) -> list[Finding]:
    try:
        problems = await preflight(spec, clients, examples)
    except PipelineError as error:
        return list(_errors(error))
    return [
        Finding(
            severity="warning" if problem.estimated else "error",
            place=problem.place,
            message=f"{problem.message}; {problem.remedy}",
        )
        for problem in problems
    ]


def _errors(error: PipelineError) -> Iterator[Finding]:
    if not isinstance(error, SpecError):
        yield Finding(severity="error", place="", message=str(error))
        return
    for problem in error.problems:
        file = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
        place = ": ".join(part for part in (file if problem.file else None, problem.field) if part)
        message = f"{problem.message}; {problem.remedy}" if problem.remedy else problem.message
        yield Finding(severity="error", place=place, message=" ".join(message.split()))
