"""Style: how far pictures of the erased and of the other artists are from the base model's."""

from __future__ import annotations

from collections.abc import Sequence

from ..scores import Row, mean_into, of
from .suite import Suite


def row(records: Sequence[dict], config) -> Row:
    """How far forgotten and kept pictures are from the base model's, as ESD has it (arXiv 2303.07345, table 2)."""
    row: Row = {"intervals": {}}
    mean_into(row, "LPIPS_forget", of(records, "lpips", ["forget"]))
    mean_into(row, "LPIPS_keep", of(records, "lpips", ["keep"]))
    mean_into(row, "clip_forget", of(records, "clip", ["forget"]))
    return row


SUITE = Suite(
    name="style",
    figures=[
        ("LPIPS_forget", "of forgotten pictures to the base model's; far is good"),
        ("LPIPS_keep", "of kept pictures to the base model's; near is good"),
        ("clip_forget", "CLIP score of forgotten pictures with their prompts"),
    ],
    row=row,
    judges=lambda config, encoder, shots, device: [],
    lpips=True,
)
