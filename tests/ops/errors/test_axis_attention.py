"""What `axis_attention` and `axis_query_attention` say of calls that are wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from axis_calls import needs_native
from torch import Tensor

from pavdit.ops import axis_attention, axis_query_attention

RAW = torch.zeros(2, 4, 3, 2, 8)
RAW_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "dtype": ({"qkv": RAW.double()}, "want the input in float32, bfloat16 or float16"),
    "packed": ({"qkv": RAW[:, :, :2]}, r"want \(...,3,A,E\) with 1..8 leading axes .*got \(2, 4, 2, 2, 8\)"),
    "rank": ({"qkv": RAW[0, 0]}, r"want \(...,3,A,E\) .*got \(3, 2, 8\)"),
    "axis": ({"axis": 2}, "want .* and axis = 2 one of them"),
    "negative axis": ({"axis": -1}, "want .* and axis = -1 one of them"),
    "long": ({"qkv": torch.zeros(1, 81, 3, 1, 8)}, "want 1..80 tokens .*got 81 and 8"),
    "empty": ({"qkv": RAW[:, :0]}, "want 1..80 tokens .*got 0 and 8"),
    "valid": ({"valid": torch.ones(3, dtype=torch.bool)}, r"want valid in bool, broadcastable .*got \(3\)"),
    "valid dtype": ({"valid": torch.ones(4)}, "want valid in bool"),
    "one weight": ({"q_weight": torch.ones(8)}, "want both of q_weight and k_weight or neither"),
    "weights": ({"q_weight": torch.ones(7), "k_weight": torch.ones(7)}, r"want q_weight and k_weight \(E,\)"),
    "rope": ({"rope": torch.ones(2, 5, 4)}, r"want rope \(2,L,E/2\) .*L = 4 and E = 8, got \(2, 5, 4\)"),
    "rope dtype": ({"rope": torch.ones(2, 4, 4).half()}, r"want rope \(2,L,E/2\) in float32"),
}


@needs_native
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("change", "text"), RAW_ERRORS.values(), ids=RAW_ERRORS.keys())
def test_raw_error_text(change: dict[str, Any], text: str, backward: bool) -> None:
    names = ("qkv", "axis", "valid", "q_weight", "k_weight", "rope")
    arguments = [({"qkv": RAW, "axis": 1} | change).get(name) for name in names]
    with pytest.raises(RuntimeError, match=f"axis_attention: {text}"):
        if backward:
            torch.ops.pavdit.axis_attention_backward(RAW[:, :, 0], *arguments)
        else:
            torch.ops.pavdit.axis_attention(*arguments)


@needs_native
@pytest.mark.parametrize("grad", [RAW[:, :, 0, :1], RAW[:, :, 0].half(), RAW], ids=["shape", "dtype", "rank"])
def test_raw_backward_error_text(grad: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"axis_attention_backward: want grad \(...,A,E\) in the dtype"):
        torch.ops.pavdit.axis_attention_backward(grad, RAW, 1, None, None, None, None)


@needs_native
@pytest.mark.parametrize(
    "q",
    [RAW[:, :, :1], RAW[:1, :1, :1], RAW[:, :1, :2], RAW[:, :1, :1].half()],
    ids=["L", "B", "parts", "dtype"],
)
def test_raw_query_error_text(q: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"axis_query_attention: want q \(...,1,A,E\) of length 1"):
        torch.ops.pavdit.axis_query_attention(q, RAW[:, :, 1:], 1, None)


GOOD = torch.zeros(2, 4, 3, 2, 8)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"qkv": None}, TypeError, "want qkv a tensor, got NoneType"),
    "dtype": ({"qkv": GOOD.int()}, TypeError, "want qkv float32, .*got torch.int32"),
    "rank": ({"qkv": torch.zeros(3, 2, 8)}, ValueError, r"want qkv \(...,3,A,E\).*got \(3, 2, 8\)"),
    "packed": ({"qkv": torch.zeros(2, 4, 2, 2, 8)}, ValueError, r"want qkv .*got \(2, 4, 2, 2, 8\)"),
    "no width": ({"qkv": GOOD[..., :0]}, ValueError, r"want qkv .*got \(2, 4, 3, 2, 0\)"),
    "axis": ({"axis": 2}, ValueError, "want axis in 0..1 .*got 2"),
    "negative axis": ({"axis": -1}, ValueError, "want axis in 0..1 .*got -1"),
    "axis type": ({"axis": 1.0}, TypeError, "want axis an int, got float"),
    "valid dtype": (
        {"valid": torch.ones(4)},
        TypeError,
        "want valid a bool tensor or None, got torch.float32",
    ),
    "valid shape": (
        {"valid": torch.ones(3, dtype=torch.bool)},
        ValueError,
        r"want valid broadcastable to \(2, 4\), got \(3,\)",
    ),
    "valid device": (
        {"valid": torch.ones(4, dtype=torch.bool, device="meta")},
        ValueError,
        "want valid on cpu, got meta",
    ),
    "one weight": ({"q_weight": torch.ones(8)}, ValueError, "want both .* or neither, got only q_weight"),
    "weight shape": (
        {"q_weight": torch.ones(8), "k_weight": torch.ones(4)},
        ValueError,
        r"want k_weight \(8,\), got \(4,\)",
    ),
    "weight dtype": (
        {"q_weight": torch.ones(8).half(), "k_weight": torch.ones(8)},
        TypeError,
        "want q_weight float32, got torch.float16",
    ),
    "rope shape": ({"rope": torch.ones(2, 5, 4)}, ValueError, r"want rope \(2, 4, 4\), got \(2, 5, 4\)"),
    "rope dtype": ({"rope": torch.ones(2, 4, 4).half()}, TypeError, "want rope float32, got torch.float16"),
    "rope parity": (
        {"qkv": torch.zeros(2, 4, 3, 2, 7), "rope": torch.ones(2, 4, 3)},
        ValueError,
        "want an even head width E for rope, got 7",
    ),
}


@pytest.mark.parametrize(("change", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^axis_attention: {text}"):
        axis_attention(**{"qkv": GOOD, "axis": 1, **change})


QUERY_ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"kv": None}, TypeError, "want kv a tensor, got NoneType"),
    "mixed dtypes": (
        {"kv": GOOD[:, :, 1:].half()},
        TypeError,
        "want kv torch.float32 as q, got torch.float16",
    ),
    "mixed devices": ({"kv": GOOD[:, :, 1:].to("meta")}, ValueError, "want kv on cpu as q, got meta"),
    "packed": ({"q": GOOD}, ValueError, r"want q \(...,1,A,E\) and kv \(...,2,A,E\).*got"),
    "length": ({"q": GOOD[:, :, :1]}, ValueError, r"want q \(2, 1, 1, 2, 8\), of length 1 along axis 1.*got"),
    "axis": ({"axis": 3}, ValueError, "want axis in 0..1 .*got 3"),
}


@pytest.mark.parametrize(("change", "error", "text"), QUERY_ERRORS.values(), ids=QUERY_ERRORS.keys())
def test_query_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^axis_query_attention: {text}"):
        axis_query_attention(**{"q": GOOD[:, :1, :1], "kv": GOOD[:, :, 1:], "axis": 1, **change})
