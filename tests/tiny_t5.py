"""A T5 encoder with random weights and a tokenizer of a few words, as a folder like people's."""

from __future__ import annotations

from pathlib import Path

WIDTH = 32
WORDS = ["</s>", "<pad>", "<unk>", "a", "dog", "barks", "in", "the", "rain", "video", "of", "wood", "metal"]


def write_tiny_t5(folder: Path, seed: int = 0) -> Path:
    """Make the folder; another seed gives other weights."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=WIDTH, d_kv=16, num_heads=2, num_layers=1, d_ff=32, pad_token_id=1
    )
    transformers.utils.logging.disable_progress_bar()
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return folder
