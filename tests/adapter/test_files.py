"""Files: the library's bytes, the same ones each time, readable by others, whole or absent."""

import os
import re
import stat

import pytest
import torch
from safetensors.torch import load_file, save

from semu_diffusion.adapter.files import TYPES, save_atomic, write_atomic

TENSORS = {
    "wide": torch.randn(3, 4), "half": torch.randn(2, 5).half(), "brain": torch.randn(3).bfloat16(),
    "scalar": torch.tensor(1.5), "none": torch.zeros(0, 3), "transposed": torch.randn(4, 3).T,
    **{str(dtype): torch.ones(3, dtype=dtype) for dtype in TYPES},
}  # fmt: skip


def test_the_bytes_are_those_of_the_library(tmp_path):
    save_atomic(TENSORS, tmp_path / "ours.safetensors")
    theirs = save({k: v.contiguous() for k, v in TENSORS.items()}, {"format": "pt"})  # one key: nothing to shuffle
    assert (tmp_path / "ours.safetensors").read_bytes() == theirs


def test_the_library_reads_what_was_written(tmp_path):
    from safetensors import safe_open

    facts = {"a": 'quotes " and \\', "b": "line\nbreak \x1b é 漢", "c": ""}
    save_atomic(TENSORS, tmp_path / "x.safetensors", facts)
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in TENSORS.items())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", **facts}


def test_equal_content_gives_equal_bytes_in_any_order(tmp_path):
    facts = {f"key {k}": str(k) for k in range(20)}
    tensors = {name: torch.full((2, 3), float(k)) for k, name in enumerate("abc")}
    save_atomic(tensors, tmp_path / "one.safetensors", facts)
    save_atomic(dict(reversed(tensors.items())), tmp_path / "two.safetensors", dict(reversed(facts.items())))
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_mode_is_that_of_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        save_atomic(TENSORS, tmp_path / "x.safetensors")
        write_atomic(tmp_path / "x.json", "{}")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {mode}


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_atomic({"a": torch.ones(2)}, path)
    before = path.read_bytes()

    def full(tensor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semu_diffusion.adapter.files.data_of", full)
    with pytest.raises(OSError, match="No space left"):
        save_atomic({"a": torch.zeros(2)}, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_type_without_a_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape("cannot write a: safetensors files here hold no torch.complex64")):
        save_atomic({"a": torch.ones(2, dtype=torch.complex64)}, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
