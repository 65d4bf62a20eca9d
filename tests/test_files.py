"""Files that pavdit writes are read by others, and are whole or absent."""

import hashlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pavdit.files import file_record, replace_with_tensors, tensors_record, write_tensors

TENSORS = {
    "scalar": torch.tensor(3.5),
    "strided": torch.arange(12.0).reshape(3, 4).t(),
    "half": torch.randn(5, dtype=torch.float16),
    "brain": torch.randn(2, 3).to(torch.bfloat16),
    "double": torch.randn(2, dtype=torch.float64),
    "index": torch.arange(4),
    "small": torch.arange(4, dtype=torch.int32),
    "bytes": torch.arange(7, dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
}


def test_the_safetensors_package_reads_what_is_written(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, {"who": "pavdit"})
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"who": "pavdit"}


def test_the_record_is_of_the_bytes_on_the_disk(tmp_path):
    path = tmp_path / "a.safetensors"
    record = write_tensors(path, TENSORS)
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record == file_record(path) == tensors_record(TENSORS)


def test_an_unknown_dtype_is_named(tmp_path):
    with pytest.raises(TypeError, match="z: want one of F64, .*, got torch.complex64"):
        write_tensors(tmp_path / "a", {"z": torch.zeros(1, dtype=torch.complex64)})


def test_a_file_is_never_written_twice(tmp_path):
    write_tensors(tmp_path / "a", TENSORS)
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "a", TENSORS)


def test_replacing_fails_without_a_trace(tmp_path):
    path = tmp_path / "a"
    replace_with_tensors(path, {"x": torch.ones(2)})
    with pytest.raises(TypeError):
        replace_with_tensors(path, {"y": torch.ones(2), "z": torch.zeros(1, dtype=torch.complex64)})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert load_file(path).keys() == {"x"}
