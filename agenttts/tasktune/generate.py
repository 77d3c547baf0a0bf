"""Prompts and answers as tokens, and greedy answers of a model in memory.

Prompts are rendered by the base model's chat template and tokenised exactly as vLLM does for a chat, so that
training and serving see the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jinja2

from agenttts.errors import UserError
from agenttts.llm import Message
from agenttts.training.checkpoints import predicting
from pipelines.extras import library

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The token ids of a chat up to where the answer starts, as a server makes them.

    Args:
        tokenizer: The base model's tokenizer.
        messages: The chat.

    Raises:
        UserError: The tokenizer has no chat template, or its template refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; name an instruct model"
        )
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except jinja2.TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} refuses a chat of {roles}: {error}; change "
            "the rows"
        ) from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The token ids of an answer and of its end.

    Args:
        tokenizer: The base model's tokenizer.
        text: The answer.
    """
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_tokens: Sequence[int],
    batch_size: int = 32,
    limit: int | None = None,
) -> list[str]:
    """The greedy answer to each prompt, in evaluation mode.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompts: The token ids of each prompt.
        max_tokens: The most tokens of each answer.
        batch_size: How many prompts are answered at once.
        limit: The most tokens of a prompt and its answer; prompts have fewer. None: there is no limit.
    """
    torch = library("torch")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        longest = max(len(prompts[i]) for i in chosen)
        most = max(max_tokens[i] for i in chosen)
        ids = torch.full((len(chosen), longest), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chosen):
            ids[row, longest - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[row, longest - len(prompts[i]) :] = 1
        with predicting(torch, model.device):
            generated = model.generate(  # type: ignore[operator]
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=most if limit is None else min(most, limit - longest),
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=tokenizer.eos_token_id,
            )
        for i, tokens in zip(chosen, generated[:, longest:].tolist(), strict=True):
            answers[i] = str(tokenizer.decode(tokens[: max_tokens[i]], skip_special_tokens=True))
    model.train(was_training)
    return answers
