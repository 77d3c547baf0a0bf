"""A BERT of 30 thousand parameters, made on the spot: one head of 32, which vLLM on a CPU can serve."""

from __future__ import annotations

from pathlib import Path

WORDS = {0: ["dull", "grey", "slow", "weak"], 1: ["bright", "quick", "warm", "strong"]}


def write_backbone(path: Path) -> None:
    """Encoder and tokenizer, untrained, as transformers saves them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS[0], *WORDS[1]]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(str(path))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=64,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(str(path))
