"""The zoo's models: their shapes, their initial weights, and how they are written to disk.

The architecture is Llama, so that transformers and vLLM load the models without further code.
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
    """Shape and learning rates of one model. The dimension of a head is always 32.

    Attributes:
        hidden: Dimension of the hidden states.
        layers: Number of layers.
        heads: Number of attention heads.
        inner: Inner dimension of the feed-forward layers.
        batch_rows: Rows per batch.
        lr_matrix: Learning rate of the matrices (Muon).
        lr_other: Learning rate of embeddings and norms (AdamW).
    """

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
    """Build a model with initial weights."""
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
    """Initialise up to 4 heads of the first layer to look 1, 2, 3, … tokens back.

    With random weights these heads take most of a short run to appear, and copying depends on them. One
    dimension of the embedding is set to a constant, so that queries and keys can ignore the content; with
    rotary positions, a query rotated back by m tokens then matches the key m tokens earlier.
    """
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
    """Write the model and its tokenizer to a directory that transformers and vLLM load."""
    model.save_pretrained(str(out))
    config = model.config
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(str(out))
    save_tokenizer(tokenizer, out)
