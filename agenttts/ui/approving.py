"""Proposals that wait for a decision as a form, and the decisions that it sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agenttts.errors import UserError
from agenttts.search.approval import Action
from agenttts.search.waiting import AnsweredProposal, AskedProposal, Question
from pipelines.allocation import Allocation, StageOption
from pipelines.spec.pipeline import PipelineSpec

_MOST_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class StageForm:
    """What may be chosen at a stage.

    Attributes:
        name: The stage.
        options: Its options, what is proposed among them.
        selected: The position of what is proposed.
        n_samples: The number of samples that is proposed.
        most: The largest number of samples.
    """

    name: str
    options: tuple[StageOption, ...]
    selected: int
    n_samples: int
    most: int


@dataclass(frozen=True, kw_only=True)
class ProposalForm:
    """One proposal.

    Attributes:
        asked: The proposal as the search asks about it.
        action: What is decided unless a person changes it: what was before, else to approve.
        note: The note of before.
        stages: What may be run instead.
    """

    asked: AskedProposal
    action: Action
    note: str
    stages: tuple[StageForm, ...]


@dataclass(frozen=True, kw_only=True)
class Approval:
    """The proposals of a step that wait.

    Attributes:
        question_id: Names them.
        proposals: Each as a form.
    """

    question_id: str
    proposals: tuple[ProposalForm, ...]

    @classmethod
    def of(cls, question: Question, spec: PipelineSpec) -> Approval:
        """Return the forms of a question.

        Args:
            question: The question.
            spec: The pipeline that is searched.
        """
        return cls(
            question_id=question.id, proposals=tuple(_form(asked, spec) for asked in question.proposals)
        )

    def decisions(self, form: Mapping[str, str]) -> tuple[AnsweredProposal, ...]:
        """Return the decisions that a form holds.

        Args:
            form: The fields that were sent.

        Raises:
            UserError: A decision is missing, or names what the form does not offer.
        """
        return tuple(_decision(i, proposal, form) for i, proposal in enumerate(self.proposals))


def _form(asked: AskedProposal, spec: PipelineSpec) -> ProposalForm:
    before = asked.before or AnsweredProposal(action="approve")
    return ProposalForm(
        asked=asked,
        action=before.action,
        note=before.note or "",
        stages=_stages(Allocation.from_json(before.allocation or asked.allocation), spec),
    )


def _stages(allocation: Allocation, spec: PipelineSpec) -> tuple[StageForm, ...]:
    stages = []
    for stage in spec.stages:
        choice = allocation[stage.name]
        offered = stage.options
        options = offered if choice.option in offered else (choice.option, *offered)
        stages.append(
            StageForm(
                name=stage.name,
                options=options,
                selected=options.index(choice.option),
                n_samples=choice.n_samples,
                most=max(stage.max_samples, choice.n_samples),
            )
        )
    return tuple(stages)


def _decision(i: int, proposal: ProposalForm, form: Mapping[str, str]) -> AnsweredProposal:
    note = form.get(f"note-{i}", "").strip()[:500] or None
    match form.get(f"action-{i}"):
        case "approve":
            return AnsweredProposal(action="approve", note=note)
        case "refuse":
            return AnsweredProposal(action="refuse", note=note)
        case "edit":
            choices = {
                stage.name: stage.options[
                    _whole(form, f"option-{i}-{j}", 0, len(stage.options) - 1)
                ].with_samples(_whole(form, f"samples-{i}-{j}", 1, stage.most))
                for j, stage in enumerate(proposal.stages)
            }
            return AnsweredProposal(action="edit", allocation=Allocation(choices).to_json(), note=note)
    raise UserError(f"proposal {i + 1} needs a decision: approve, edit or refuse")


def _whole(form: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = form.get(name, "")
    value = int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else -1
    if not least <= value <= most:
        raise UserError(f"{name} must be a whole number from {least} to {most}, got {text!r:.40}")
    return value
