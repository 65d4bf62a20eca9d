"""Conditions: encoders of prompts with one interface (`TextEncoder`), and the lengths they are padded to."""

from pavdit.text.classes import ClassEncoder
from pavdit.text.free_text import FreeTextEncoder, OnDemand
from pavdit.text.pretrained import EncoderFiles, PretrainedEncoder
from pavdit.text.tokens import (
    BUCKETS,
    LearnedEncoder,
    TextEncoder,
    TextTokens,
    bucket_mask,
    bucket_of,
    knows,
    pad_to,
    to_bucket,
)
from pavdit.text.words import WordEncoder, vocabulary_of

__all__ = [
    "BUCKETS",
    "ClassEncoder",
    "EncoderFiles",
    "FreeTextEncoder",
    "LearnedEncoder",
    "OnDemand",
    "PretrainedEncoder",
    "TextEncoder",
    "TextTokens",
    "WordEncoder",
    "bucket_mask",
    "bucket_of",
    "knows",
    "pad_to",
    "to_bucket",
    "vocabulary_of",
]
