"""Files that are whole or absent: text, and safetensors whose bytes depend on nothing but their content."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch

# The format's names of the types that weights, moments and tokens have here, in the order in which they are stored.
TYPES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what a disk says that takes no more


def disk_error(error: BaseException | None) -> OSError | None:
    """The error of a disk that takes no more, where one is behind an error of the libraries."""
    while error is not None and not (isinstance(error, OSError) and error.errno in DISK):
        error = error.__cause__ or error.__context__
    return error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file of a temporary name that takes the path's place at the end of the block; gone where the block fails.

    Raises:
        OSError: the disk is full or not to be written on; it names the path.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a killed run, or a link that somebody laid there
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def write_atomic(path: Path, text: str) -> None:
    """Writes text as UTF-8 under a temporary name, then renames: the file is whole or absent."""
    with replacing(path) as file:
        file.write(text.encode())


def save_atomic(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file under a temporary name, then renames; equal content gives equal bytes.

    `safetensors.torch.save_file` shuffles the metadata, so that equal adapters differ in their hashes, makes files
    that only their owner may read, and leaves a temporary file of a random name behind when it is killed.

    Raises:
        ValueError: a tensor of a type that the format, or this package, has no name for.
        OSError: the disk is full or not to be written on; no file of that name is left, or the old one.
    """
    order = file_order(tensors)
    with replacing(path) as file:
        file.write(header_of({name: tensors[name] for name in order}, {"format": "pt", **(metadata or {})}))
        for name in order:
            file.write(data_of(tensors[name]))


def file_order(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The names as they follow each other in a file: wide types first, so that all are aligned, then by name.

    Raises:
        ValueError: as `save_atomic`.
    """
    places = {dtype: k for k, dtype in enumerate(TYPES)}
    other = next((name for name, tensor in tensors.items() if tensor.dtype not in places), None)
    if other is not None:
        raise ValueError(f"cannot write {other}: safetensors files here hold no {tensors[other].dtype}")
    return sorted(tensors, key=lambda name: (places[tensors[name].dtype], name))


def header_of(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """The length and the JSON before the data: metadata by name, then type, shape and place of each tensor."""
    table, end = {"__metadata__": dict(sorted(metadata.items()))}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        table[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def data_of(tensor: torch.Tensor) -> memoryview:
    """The tensor's values as they lie in the file, without a copy where it lies in the CPU's memory already."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
