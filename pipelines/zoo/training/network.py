"""The zoo's models: their shapes, their first weights, and how they are written to disk.

Plain Llama architecture, so that transformers and vLLM load them without any code of ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from pipelines.zoo.training.tokens import BOS, EOS, PAD, save_tokenizer

N_POSITIONS = 512
HEAD_DIM = 32
ROPE_THETA = 500.0
"""Short wavelengths: prompts have about 100 tokens, and looking one token back must be easy."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Shape and learning rates of one model. Head dimension is 32 throughout."""

    hidden: int
    layers: int
    heads: int
    inner: int
    batch_rows: int
    lr_matrix: float = 0.02
    lr_other: float = 0.004


SIZES = {
    "small": Size(hidden=64, layers=2, heads=2, inner=64, batch_rows=32),
    "medium": Size(hidden=128, layers=3, heads=4, inner=256, batch_rows=32),
    "large": Size(hidden=192, layers=4, heads=6, inner=384, batch_rows=32),
}


def new_model(size: Size, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """A model with fresh weights."""
    heads = size.heads
    config = LlamaConfig(
        vocab_size=math.ceil(tokenizer.get_vocab_size() / 64) * 64,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=N_POSITIONS,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        initializer_range=0.02 if size.hidden > 64 else 0.04,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    model = LlamaForCausalLM(config)
    look_back(model, HEAD_DIM)
    return model


@torch.no_grad()
def look_back(model: LlamaForCausalLM, head_dim: int) -> None:
    """Start the first layer's heads off as looking 1, 2, 3, … tokens back (at most 4; the rest stay
    random). Left to chance, these heads take most of a short run to appear, and copying waits for
    them. One embedding dimension is made constant, so that queries and keys can ignore the content;
    with rotary positions a query turned back by m tokens then meets the key m tokens behind."""
    config = model.config
    embedding = model.model.embed_tokens.weight
    embedding[:, 0] = 0.5 * config.initializer_range * math.sqrt(config.hidden_size)
    attention = model.model.layers[0].self_attn
    half = head_dim // 2
    speeds = ROPE_THETA ** (-torch.arange(half) / half)
    constant = 0.45 * math.sqrt(config.hidden_size)  # dimension 0 after the norm
    for head in range(min(4, config.num_attention_heads)):
        rows = slice(head * head_dim, (head + 1) * head_dim)
        angle = (head + 1) * speeds
        size = 6.0 / constant
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight[rows] *= 0.1
        attention.q_proj.weight[rows, 0] = size * torch.cat((angle.cos(), -angle.sin()))
        attention.k_proj.weight[rows, 0] = size * torch.cat((torch.ones(half), torch.zeros(half)))


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """A directory that transformers and vLLM load."""
    model.save_pretrained(str(out))
    config = model.config
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(str(out))
    save_tokenizer(tokenizer, out)
