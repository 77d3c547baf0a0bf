"""A quick look at the zoo's landscape in torch, before any bank is recorded.

`python -m pipelines.zoo.landscape DIR... --rows pipelines/zoo/data/search.jsonl` samples every
model at both stages and prints accuracy against the number of samples: retrieve as exact set
match after a set vote (threshold 0.5), answer as plurality vote, on the needed sentences and on
what each model retrieved. The recorded bank is the truth; this is for choosing difficulty.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from pipelines.zoo.rows import Row, read_rows
from pipelines.zoo.tokens import answer_prompt, chat, retrieve_prompt

COUNTS = (1, 2, 4, 8, 16)


class Sampler:
    """One exported model; `generated_tokens` counts what it wrote, EOS included."""

    def __init__(self, path: Path) -> None:
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(
            str(path), padding_side="left"
        )
        self.model = LlamaForCausalLM.from_pretrained(str(path), dtype=torch.float32).eval()
        self.prompt_tokens: list[int] = []
        self.generated_tokens: list[int] = []

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[str], n: int, *, temperature: float, max_tokens: int, top_p: float = 1.0
    ) -> list[list[str]]:
        """`n` replies to each user message."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        replies: list[list[str]] = [[] for _ in prompts]
        for start in range(0, len(order), 32):
            picked = order[start : start + 32]
            batch = self.tokenizer(
                [chat(prompts[i]) for i in picked],
                return_tensors="pt",
                padding=True,
                add_special_tokens=False,
            )
            out = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=True,
                temperature=temperature,
                top_p=top_p,
                top_k=0,
                num_return_sequences=n,
                max_new_tokens=max_tokens,
            )[:, batch["input_ids"].shape[1] :]
            texts = self.tokenizer.batch_decode(out, skip_special_tokens=True)
            self.prompt_tokens += batch["attention_mask"].sum(1).tolist()
            self.generated_tokens += (out != self.tokenizer.pad_token_id).sum(1).tolist()
            for j, i in enumerate(picked):
                replies[i] = texts[j * n : (j + 1) * n]
        return replies


def set_vote(row: Row, samples: Sequence[str], threshold: float = 0.5) -> list[str]:
    """Candidates quoted by at least `threshold` of the samples, in candidate order."""
    quoted = Counter(line for text in samples for line in {part.strip() for part in text.split("\n")})
    return [sentence for sentence in row.candidates if quoted[sentence] >= threshold * len(samples)]


def plurality(samples: Sequence[str]) -> str:
    """The commonest reply; the first drawn wins a tie."""
    return Counter(text.strip() for text in samples).most_common(1)[0][0]


def line(label: str, values: Sequence[float]) -> str:
    """One row of the table."""
    return f"{label:34s}" + "".join(f"{value:8.3f}" for value in values)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument(
        "--temperature", type=float, nargs=2, default=(1.0, 1.0), metavar=("RETRIEVE", "ANSWER")
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    rows = read_rows(args.rows)
    rows = random.Random(0).sample(rows, min(args.limit, len(rows)))
    samplers = {str(path): Sampler(path) for path in args.models}
    most = max(COUNTS)
    print(line("n", COUNTS))
    chosen: dict[tuple[str, int], list[list[str]]] = {}
    for name, sampler in samplers.items():
        drawn = sampler.sample(
            [retrieve_prompt(row) for row in rows], most, temperature=args.temperature[0], max_tokens=48
        )
        scores = []
        for n in COUNTS:
            starts = range(0, most - n + 1, n)
            hits = [
                set(set_vote(row, texts[s : s + n])) == set(row.evidence)
                for row, texts in zip(rows, drawn, strict=True)
                for s in starts
            ]
            scores.append(sum(hits) / len(hits))
            chosen[name, n] = [set_vote(row, texts[:n]) for row, texts in zip(rows, drawn, strict=True)]
        print(line(f"retrieve {name[-20:]}", scores))
        for key in ("hops", "level"):
            for value in (1, 2, 3):
                one = [
                    set(set_vote(row, texts[s : s + 1])) == set(row.evidence)
                    for row, texts in zip(rows, drawn, strict=True)
                    if getattr(row, key) == value
                    for s in range(most)
                ]
                print(f"    {key} {value}: {sum(one) / max(1, len(one)):.3f}", end="")
        lengths = sampler.prompt_tokens, sampler.generated_tokens
        print("\n    tokens mean/max", *(f"{sum(x) / len(x):.1f}/{max(x)}" for x in lengths))
        sampler.prompt_tokens, sampler.generated_tokens = [], []
    inputs = {("gold", 0): [[s for s in row.candidates if s in row.evidence] for row in rows]}
    inputs |= {key: value for key, value in chosen.items() if key[1] in (1, 8)}
    for (upstream, n_up), sentences in inputs.items():
        for name, sampler in samplers.items():
            drawn = sampler.sample(
                [answer_prompt(row.question, s) for row, s in zip(rows, sentences, strict=True)],
                most,
                temperature=args.temperature[1],
                max_tokens=8,
            )
            scores = []
            for n in COUNTS:
                hits = [
                    plurality(texts[s : s + n]) == row.answer
                    for row, texts in zip(rows, drawn, strict=True)
                    for s in range(0, most - n + 1, n)
                ]
                scores.append(sum(hits) / len(hits))
            print(line(f"{upstream[-14:]}x{n_up} > {name[-14:]}", scores))
            if upstream == "gold":
                lengths = sampler.prompt_tokens, sampler.generated_tokens
                print("    tokens mean/max", *(f"{sum(x) / len(x):.1f}/{max(x)}" for x in lengths))


if __name__ == "__main__":
    main()
