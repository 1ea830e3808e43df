"""Which block of a model a layer is in, in the names of any format, and ranks by depth."""

from __future__ import annotations

import re


def block_of(name: str) -> str:
    """The block that a layer is in, in the names of any format: "down 1", "mid", "text_encoder 0", "conv_in"."""
    plain = re.sub(r"^lora_(unet|transformer|te\d?)_|^(unet|transformer)\.", "", name)
    text = re.match(r"lora_(te\d?)_|(text_encoder(?:_\d)?)\.", name)
    found = re.search(
        r"(down|up|input|output|double|single)_blocks[._](\d+)|(mid)(?:dle)?_block|(blocks|layers)[._](\d+)", plain
    )
    ends = re.match(r"conv_in|conv_out|(time|add|class)_embedding|time_embed|label_emb", plain)
    outside = ends[0] if ends else plain.split(".")[0]
    block = " ".join(part for part in found.groups() if part) if found else outside
    block = block.removeprefix("blocks ").removeprefix("layers ")
    return f"{text[1] or text[2]} {block}" if text else f"block {block}" if block.isdigit() else block


def depth_of(block: str) -> tuple:
    """Sorts blocks from the input of the model to its output, text encoders first."""
    order = ("te", "text", "conv_in", "time", "add", "class", "label", "down", "input", "double", "mid",
             "block", "single", "up", "output", "conv_out")  # fmt: skip
    place = next((k for k, start in enumerate(order) if block.startswith(start)), len(order))
    number = re.search(r"(\d+)$", block)
    return place, re.sub(r"\d+$", "", block), int(number[1]) if number else 0


def by_depth(ranks: dict[str, int]) -> dict[str, list[int]]:
    """Block -> ranks of its layers, from the input of the model to its output."""
    blocks: dict[str, list[int]] = {}
    for name, rank in ranks.items():
        blocks.setdefault(block_of(name), []).append(rank)
    return dict(sorted(blocks.items(), key=lambda item: depth_of(item[0])))


def depth_bars(ranks: dict[str, int], width: int = 24) -> list[tuple[str, int, str]]:
    """(block, layers, mean rank with a bar of it), from the input of the model to its output."""
    blocks = by_depth(ranks)
    means = {block: sum(own) / len(own) for block, own in blocks.items()}
    top = max(means.values(), default=1)
    return [(block, len(blocks[block]), f"{m:5.1f} {'█' * round(width * m / top)}") for block, m in means.items()]
