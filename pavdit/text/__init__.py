"""Conditions: encoders of prompts with one interface (`TextEncoder`), and the lengths they are padded to."""

from pavdit.text.classes import ClassEncoder
from pavdit.text.pretrained import EncoderFiles, PretrainedEncoder
from pavdit.text.tokens import BUCKETS, TextEncoder, TextTokens, bucket_mask, bucket_of, pad_to, to_bucket

__all__ = [
    "BUCKETS",
    "ClassEncoder",
    "EncoderFiles",
    "PretrainedEncoder",
    "TextEncoder",
    "TextTokens",
    "bucket_mask",
    "bucket_of",
    "pad_to",
    "to_bucket",
]
