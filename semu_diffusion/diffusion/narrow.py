"""LoRA factors in the types in which files hold them."""

from __future__ import annotations

import torch

from ..adapter.updates import dtype_name

Factors = tuple[torch.Tensor, torch.Tensor]  # A (r, n), B (m, r): the update is B A


def narrowed(A: torch.Tensor, B: torch.Tensor, dtype: torch.dtype) -> Factors:
    """The factors in a narrower type. For fp16 a power of two moves between them, which leaves B A as it is.

    V is orthonormal and U R small: as they are, many entries of U R would fall below fp16's normal numbers.

    Raises:
        ValueError: values too large for the type.
    """
    if dtype == torch.float16:
        scale = (A.abs().max() / B.abs().max().clamp_min(1e-30)).clamp(2.0**-40, 2.0**40).sqrt().log2().round().exp2()
        A, B = A / scale, B * scale
    A, B = A.to(dtype), B.to(dtype)
    if not (A.isfinite().all() and B.isfinite().all()):
        raise ValueError(f"the update is too large for {dtype_name(dtype)}; use --precision fp32")
    return A, B
