"""Charts of adapters as PNG files: ranks over the depth of the model, interference of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..diffusion.blocks import by_depth
from .charts import GONE, INK, KEPT, _plain, figure, save

PANELS = {"columns": "outputs' spaces", "rows": "inputs' spaces", "cosine": "cosine of the updates"}


def rank_chart(ranks: dict[str, int], path: str | Path) -> Path:
    """The rank of each layer as a dot, and the mean of each block as a bar, from input to output.

    Args:
        ranks: Layer -> rank.
        path: the PNG to write; folders are made.

    Raises:
        ValueError: no ranks, as in a whole model.
    """
    if not ranks:
        raise ValueError("a whole model has no ranks to draw")
    blocks = by_depth(ranks)
    fig = figure(max(4.5, 1.6 + 0.62 * len(blocks)), 3.4)
    ax = fig.subplots()
    for x, own in enumerate(blocks.values()):
        ax.bar(x, sum(own) / len(own), color=KEPT, alpha=0.35, width=0.7)
        spread = [x + 0.5 * ((k + 0.5) / len(own) - 0.5) for k in range(len(own))]
        ax.plot(spread, own, "o", color=KEPT, markersize=3)
    ax.set_xticks(range(len(blocks)), list(blocks), rotation=40, ha="right", rotation_mode="anchor")
    ax.set_ylabel("rank", color=INK)
    _plain(ax, "y")
    fig.suptitle(f"Ranks of {len(ranks)} layers from input to output (dots), and their means", fontsize=11, color=INK)
    return save(fig, path)


def interference_chart(names: Sequence[str], matrices: dict[str, list[list[float]]], path: str | Path) -> Path:
    """The matrices of `adapter.merging.interference` as squares with their numbers.

    Args:
        names: of the adapters, k.
        matrices: (k, k) each, as nested lists.
        path: the PNG to write; folders are made.
    """
    k = len(names)
    side = max(2.6, 0.55 * k + 1.2)
    fig = figure(side * len(PANELS), side + 0.6)
    for ax, (key, title) in zip(fig.subplots(1, len(PANELS), squeeze=False)[0], PANELS.items()):
        values = matrices[key]
        ax.imshow(values, cmap="RdBu_r" if key == "cosine" else "Blues", vmin=-1 if key == "cosine" else 0, vmax=1)
        for i in range(k):
            for j in range(k):
                colour = "white" if abs(values[i][j]) > 0.6 else INK
                ax.text(j, i, f"{values[i][j]:.2f}", ha="center", va="center", fontsize=8, color=colour)
        ax.set_xticks(range(k), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
        ax.set_yticks(range(k), names if key == "columns" else [""] * k, fontsize=8)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(title, fontsize=10, color=INK)
    fig.suptitle("How far the adapters share spaces: 0 not at all, 1 one within the other", fontsize=11, color=INK)
    return save(fig, path)


def fusion_chart(fusion: dict, path: str | Path) -> Path:
    """Interference before and after: a pair of bars for each adapter and one for what must stay.

    Args:
        fusion: The report of `diffusion.fusing.fuse`.
        path: the PNG to write; folders are made.
    """
    names = [*fusion["stack"]["error"], "all else"]
    fig = figure(max(4.5, 1.8 + 0.8 * len(names)), 3.4)
    ax = fig.subplots()
    for shift, side, colour in ((-0.2, "stack", GONE), (0.2, "fused", KEPT)):
        values = [*fusion[side]["error"].values(), fusion[side]["kept"]]
        bars = ax.bar([x + shift for x in range(len(names))], [100 * v for v in values], 0.38, color=colour)
        bars.set_label({"stack": "all at once", "fused": "fused"}[side])
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_ylabel("% of an adapter's effect", color=INK)
    ax.legend(frameon=False, fontsize=9)
    _plain(ax, "y")
    fig.suptitle("Done beside what each alone does", fontsize=11, color=INK)
    return save(fig, path)
