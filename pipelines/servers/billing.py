"""What the requests of one draw are billed, added up where their answers arrive.

A server bills what it answered, whatever becomes of the answer here: a request that is split reads the prompt
once for each part, and an answer without a text, one that is tried again and a probe are billed too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class Bill:
    """The billed requests of one draw; whoever draws passes an empty one and reads it afterwards.

    Attributes:
        calls: Requests that the server answered and bills.
        prompt_tokens: Of the prompts that were counted; every request reads its own.
        generated_tokens: Of the answers that were counted.
        uncounted_prompts: Requests whose prompt nobody counted.
        uncounted_answers: Answers whose tokens nobody counted.
    """

    calls: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    uncounted_prompts: int = 0
    uncounted_answers: int = 0

    def add(self, prompt_tokens: int | None, generated_tokens: int | None, n_answers: int) -> None:
        """Add one answered request.

        Args:
            prompt_tokens: As counted; None where nobody counted them.
            generated_tokens: Of all its answers, as counted; None where nobody counted them.
            n_answers: How many answers it brought, those without a text included.
        """
        self.calls += 1
        self.prompt_tokens += prompt_tokens or 0
        self.generated_tokens += generated_tokens or 0
        self.uncounted_prompts += prompt_tokens is None
        self.uncounted_answers += n_answers if generated_tokens is None else 0

    def include(self, other: Bill) -> None:
        """Add all that another bill has."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def prompt_tokens_within(self, bound: int) -> int:
        """Return the prompt tokens, with a bound for each prompt that nobody counted."""
        return self.prompt_tokens + self.uncounted_prompts * bound

    def generated_tokens_within(self, bound: int) -> int:
        """Return the generated tokens, with a bound for each answer that nobody counted."""
        return self.generated_tokens + self.uncounted_answers * bound
