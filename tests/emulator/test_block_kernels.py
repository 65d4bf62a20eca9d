import pytest, torch
from ops import test_block_attention as one, test_block_cross_attention as two
LOW16=[torch.bfloat16, torch.float16]
ok=lambda c: c.shape[-1]%8==0
@pytest.mark.parametrize("dtype", LOW16, ids=str)
@pytest.mark.parametrize("name",[n for n,c in one.CALLS.items() if ok(c) and n!="70000-problems"])
def test_one(name,dtype): one.test_accuracy(name,dtype,"cpu")
@pytest.mark.parametrize("dtype", LOW16, ids=str)
@pytest.mark.parametrize("name",[n for n,c in two.CALLS.items() if ok(c) and n!="70000-problems"])
def test_two(name,dtype): two.test_accuracy(name,dtype,"cpu")
