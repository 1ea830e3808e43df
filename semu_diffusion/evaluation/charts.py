"""Charts of an erasure as PNG files: concepts before and after, pictures before and after, losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from torch import Tensor

from ..adapter.files import replacing
from ..metrics.drift import check_images
from .grid import KINDS, split

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, BASE, KEPT, GONE = "#222222", "#767676", "#cfd4da", "#2f6f9f", "#c8382e"
COLOURS = (KEPT, GONE, "#3b8f5a", "#b07d1e", "#7a4f9e", "#4a4a4a")
SMOOTH = 0.8  # of the exponential moving average drawn over a noisy curve


def figure(width: float, height: float) -> Figure:
    """An empty figure in inches, without pyplot: no display, no state left behind in the caller's matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    return fig


def save(fig: Figure, path: str | Path, dpi: int = 130) -> Path:
    """Write under a temporary name, then rename: whoever looks at `path` never sees half a picture.

    Texts are what they say: a dollar sign in a concept's name or a prompt begins no formula.
    """
    from matplotlib.text import Text

    for text in fig.findobj(Text):
        text.set_parse_math(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        fig.savefig(file, dpi=dpi, format=path.suffix.removeprefix(".") or "png")
    return path


def open_axes(ax: Axes, label: str) -> None:
    """Two quiet axes, left and below, the latter with its label."""
    ax.set_xlabel(label, color=INK)
    ax.tick_params(colors=QUIET)
    ax.spines[["top", "right"]].set_visible(False)


def _plain(ax: Axes, grid: str) -> None:
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(length=0, labelcolor=INK, labelsize=9)
    ax.grid(axis=grid, color="#e6e6e6", linewidth=0.8)
    ax.set_axisbelow(True)


def concept_chart(base_row: dict, erased_row: dict, concepts: Iterable[str], path: str | Path) -> Path:
    """How often the oracle names each concept, before and after, the erased ones first and in red.

    Args:
        base_row, erased_row: rows of `evaluation.score`, of which `per_concept` is drawn, in percent.
        concepts: the erased ones, as `split` takes them.
        path: the PNG to write; folders are made.

    Returns:
        The path.
    """
    erased = split(concepts)
    before, after = base_row["per_concept"], erased_row["per_concept"]
    groups = [("Erased", [name for name in erased if name in after])]
    groups += [(f"Kept {k}s", [n for n in KINDS[k] if n in after and n not in erased]) for k in KINDS]
    groups = [(title, names) for title, names in groups if names]
    sizes = [len(names) for _, names in groups]
    fig = figure(7.2, 1.5 + 0.27 * sum(sizes) + 0.3 * len(sizes))
    axes = fig.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=[size + 0.4 for size in sizes])[:, 0]
    for ax, (title, names) in zip(axes, groups):
        _bars(ax, names, before, after, GONE if title == "Erased" else KEPT)
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes[-1].set_xlabel("pictures in which the oracle names the concept, %", color=INK)
    fig.suptitle(f"Erasing {', '.join(erased)}: what is still drawn", fontsize=12, color=INK)
    _legend(fig, {"before": BASE, "after, erased": GONE, "after, kept": KEPT})
    return save(fig, path)


def _bars(ax: Axes, names: list[str], before: dict, after: dict, colour: str) -> None:
    """A wide pale bar for before, a narrow one inside it for after, and the second's number at the right."""
    rows = range(len(names))
    ax.barh(rows, [before.get(name, 0) for name in names], height=0.78, color=BASE)
    ax.barh(rows, [after[name] for name in names], height=0.4, color=colour)
    for row, name in zip(rows, names):
        ax.text(103, row, f"{after[name]:.0f}", va="center", ha="left", fontsize=9, color=colour)
    ax.set_yticks(rows, names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, 109)
    ax.set_xticks(range(0, 101, 20))
    _plain(ax, "x")


def _legend(fig: Figure, colours: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=label) for label, colour in colours.items()]
    fig.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)


def before_after(
    base_images: Tensor,
    erased_images: Tensor,
    titles: Sequence[str],
    path: str | Path,
    groups: Sequence[str] | None = None,
    columns: int = 6,
) -> Path:
    """A sheet of pairs: per group of pictures a row from the base model above one from the erased model.

    Args:
        base_images, erased_images: floats (N, 3, H, W) in [0, 1]; row i of both has the same prompt and seed.
        titles: N short ones, written above each pair; long ones wrap.
        path: the PNG to write; folders are made.
        groups: N headings; pictures in a row that share one form a group. Default: no headings.
        columns: pictures per row; longer groups wrap.

    Returns:
        The path.

    Raises:
        ValueError: for images of another shape, type or range, or lengths that differ.
    """
    check_images(base_images, "base_images")
    check_images(erased_images, "erased_images")
    groups = [""] * len(titles) if groups is None else groups
    sizes = {len(base_images), len(erased_images), len(titles), len(groups)}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"expected as many images, titles and groups, at least 1, got {sorted(sizes)}")
    bands = _bands(groups, columns)
    width = max(len(band) for _, band in bands)
    fig = figure(1.25 * width + 0.7, sum(2.75 + 0.3 * bool(heading) for heading, _ in bands))
    for sub, (heading, band) in zip(fig.subfigures(len(bands), 1, squeeze=False)[:, 0], bands):
        axes = sub.subplots(2, width, squeeze=False)
        if heading:
            colour = GONE if heading.lower().startswith("erased") else INK
            sub.suptitle(heading, x=0.01, ha="left", fontsize=11, fontweight="bold", color=colour)
        for row, (label, images) in zip(axes, (("before", base_images), ("after", erased_images))):
            _strip(row, [images[i] for i in band], label)
        for ax, i in zip(axes[0], band):
            ax.set_title(fill(titles[i], 22), fontsize=8, color=INK, pad=3)
    return save(fig, path)


def _bands(groups: Sequence[str], columns: int) -> list[tuple[str, list[int]]]:
    """Indices by group, at most `columns` each; a group's heading stands over its first band only."""
    bands = []
    for heading, run in groupby(range(len(groups)), key=lambda i: groups[i]):
        found = list(run)
        starts = range(0, len(found), columns)
        bands += [(heading if start == 0 else "", found[start : start + columns]) for start in starts]
    return bands


def _strip(axes: Sequence[Axes], images: list[Tensor], label: str) -> None:
    """Pictures side by side, the label left of the first; axes left over stay empty."""
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, image in zip(axes, images):
        sharp = "nearest" if image.shape[-1] <= 128 else "antialiased"  # small ones are enlarged, large ones shrunk
        ax.imshow(image.detach().float().cpu().permute(1, 2, 0).numpy(), interpolation=sharp)
    axes[0].set_ylabel(label, fontsize=9, color=QUIET)


def loss_chart(history: Sequence[Mapping[str, float]], path: str | Path) -> Path:
    """Curves over the steps of a training, each faint with its moving average on top, one panel per name.

    Args:
        history: one mapping per logged step, e.g. {"step": 10, "forget": 0.41, "remain": 0.02}; "step" is the x axis
            (default: the row's index), every other number a curve, which may be missing at some steps.
        path: the PNG to write; folders are made.

    Returns:
        The path.

    Raises:
        ValueError: without any curve.
    """
    curves = _curves(history)
    if not curves:
        raise ValueError(f"history: expected numbers other than 'step', got {len(history)} rows without any")
    fig = figure(7.2, 0.6 + 1.9 * len(curves))
    axes = fig.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for index, (ax, (name, (steps, values))) in enumerate(zip(axes, curves.items())):
        colour = COLOURS[index % len(COLOURS)]
        ax.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
        ax.plot(steps, smooth(values), color=colour, linewidth=1.8)
        ax.set_title(name, loc="left", fontsize=10, fontweight="bold", color=INK)
        ax.margins(x=0.01)
        _plain(ax, "y")
    axes[-1].set_xlabel("step", color=INK)
    return save(fig, path)


def _curves(history: Sequence[Mapping[str, float]]) -> dict[str, tuple[list[float], list[float]]]:
    """Name -> (steps, values), in the order of first appearance."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for index, row in enumerate(history):
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(row.get("step", index))
                values.append(value)
    return curves


def smooth(values: Sequence[float], decay: float = SMOOTH) -> list[float]:
    """Exponential moving average, bias-corrected so that it starts at the first value; NaN and inf are passed over."""
    total, weight, averages = 0.0, 0.0, []
    for value in values:
        if abs(value) < float("inf"):  # False for NaN, too
            total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        averages.append(total / weight if weight else float("nan"))
    return averages
