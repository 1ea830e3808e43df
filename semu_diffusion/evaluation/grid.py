"""Scores of an erased pictograms model, after UnlearnCanvas (arXiv 2402.11846): UA, IRA, CRA, FID and more.

The prompts are the grid of 24 objects x 6 styles. Its cells split in two: those that show an erased concept
("forget") and those that show none ("keep"). A cell's seed depends only on the cell, so the base and the erased model
start from the same noise, and no sharding or batch size changes a picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from ..metrics.concept import _concept_accuracy_update
from ..metrics.drift import _picture_drift_update
from ..metrics.fid import Features, _fid_compute
from ..pictograms.oracle import Oracle
from ..pictograms.words import NEIGHBOURS, OBJECTS, STYLES, caption
from .intervals import bootstrap, wilson
from .proper import KINDS, Look, Proper, counted, judge, looks

Draw = Callable[[list[str], list[int]], Tensor]  # prompts and seeds, N each -> images (N, 3, H, W) in [0, 1]

OTHER = {"object": "style", "style": "object"}
SEED = 40_000_000  # first seed of the grid, far from the small ones that people train with
SEEDS_PER_CELL = 1000


class Cell(NamedTuple):
    """One picture to draw."""

    object: str
    style: str
    seed: int

    @property
    def prompt(self) -> str:
        return caption(self.object, self.style)


class Pairs(NamedTuple):
    """Cells and what the base and the erased model drew for them, (N, 3, H, W) each."""

    cells: list[Cell]
    base: Tensor
    erased: Tensor


def split(concepts: Iterable[str]) -> dict[str, str]:
    """Plain names and their kinds: ["cigarette", "sepia style"] -> {"cigarette": "object", "sepia": "style"}.

    Raises:
        ValueError: for no concept at all, or one that the pictograms do not have; lists those they have.
    """
    known = {name: (name, "object") for name in OBJECTS}
    known |= {alias: (name, "style") for name in STYLES for alias in (name, f"{name} style")}
    words = [" ".join(concept.lower().split()) for concept in concepts]
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        problem = f"unknown concept {', '.join(map(repr, unknown))}" if unknown else "no concept"
        raise ValueError(f"{problem}; known objects: {', '.join(OBJECTS)}; known styles: {', '.join(STYLES)}")
    return dict(known[word] for word in words)


def cell(obj: str, style: str, k: int) -> Cell:
    """The k-th picture of an object in a style."""
    return Cell(obj, style, SEED + (OBJECTS.index(obj) * len(STYLES) + STYLES.index(style)) * SEEDS_PER_CELL + k)


def cells(concepts: Iterable[str], seeds_forget: int = 10, seeds_keep: int = 1) -> tuple[list[Cell], list[Cell]]:
    """The cells that show an erased concept and those that show none, both in the order of the grid.

    A cell with an erased object has seeds_forget pictures; one with an erased style a third of that, as a style has
    four times as many cells; one with both, the larger number; one with neither, seeds_keep.
    """
    for name, seeds in (("seeds_forget", seeds_forget), ("seeds_keep", seeds_keep)):
        if not 1 <= seeds <= SEEDS_PER_CELL:
            raise ValueError(f"{name}: expected 1..{SEEDS_PER_CELL}, got {seeds}")
    kinds = split(concepts)
    seeds_of = {"object": seeds_forget, "style": max(1, seeds_forget // 3)}
    forget, keep = [], []
    for obj, style in product(OBJECTS, STYLES):
        seeds = max((seeds_of[kinds[name]] for name in (obj, style) if name in kinds), default=0)
        (forget if seeds else keep).extend(cell(obj, style, k) for k in range(seeds or seeds_keep))
    return forget, keep


def tally(images: Tensor, cells: Sequence[Cell], oracle: Oracle) -> dict[str, tuple[int, int]]:
    """Per concept shown in the cells: the pictures in which the oracle names it, and all of them."""
    if len(images) != len(cells):
        raise ValueError(f"expected one image per cell, got {len(images)} images and {len(cells)} cells")
    counts: dict[str, tuple[int, int]] = {}
    for kind, logits in judge(images, oracle).items() if cells else ():
        labels = torch.tensor([KINDS[kind].index(getattr(c, kind)) for c in cells])
        correct, total = _concept_accuracy_update(logits, labels, len(KINDS[kind]))
        counts |= {name: (h, n) for name, h, n in zip(KINDS[kind], correct.tolist(), total.tolist()) if n}
    return counts


def pool(counts: dict[str, tuple[int, int]], names: Iterable[str]) -> tuple[int, int]:
    """Hits and total over some of the concepts."""
    found = [counts[name] for name in names if name in counts]
    return sum(hits for hits, _ in found), sum(total for _, total in found)


def percent(hits: int, total: int) -> float | None:
    """100 hits / total; None without any."""
    return 100 * hits / total if total else None


def interval(hits: int, total: int) -> list[float] | None:
    """Wilson's 95 % interval in percent; None without any."""
    return [100 * end for end in wilson(hits, total)] if total else None


def distances(images: Tensor, base: Tensor | None, oracle: Oracle) -> dict[str, float | None]:
    """FID (oracle features) and drift of pictures from the base model's; None without a base or under 2 pictures.

    By pure functions: a metric of torchmetrics would add up over the processes, each of which has all pictures.
    """
    if base is None or len(images) < 2:
        return {"FID": None, "drift": None}
    look = Features(oracle)
    seen = (torch.cat([look(part) for part in whole.split(256)]) for whole in (base, images))
    # Of equal sets the value is rounding, a hair on either side of 0.
    return {"FID": max(0.0, _fid_compute(*seen).item()), "drift": _picture_drift_update(base, images).mean().item()}


def score(
    images_forget: Tensor,
    cells_forget: Sequence[Cell],
    images_keep: Tensor,
    cells_keep: Sequence[Cell],
    base_keep: Tensor | None,
    concepts: Iterable[str],
    oracle: Oracle,
) -> dict:
    """One model's row: what the oracle sees in its pictures (N, 3, H, W), floats in [0, 1]. Shares are in percent.

    UA: pictures of the erased concepts in which the oracle does not name them. IRA, CRA: accuracy on the kept cells of
    the same kind (objects, for an erased object) and of the other. `neighbours`: that of the closest kept concepts.
    `context`: accuracy of the rest of the prompt on the cells of the erased concepts. `FID`, `drift` (of 1): kept
    pictures against the base model's; None for base_keep None, the base model's own row. `per_concept`: how often each
    concept is named, on the forgotten cells for the erased ones and on the kept cells for the others. `intervals`:
    Wilson's of the shares and the bootstrap's of the drift, at 95 %. A share of no pictures is None. With objects and
    styles erased at once, IRA and CRA coincide: both kinds are pooled.
    """
    kinds = split(concepts)
    forget, keep = tally(images_forget, cells_forget, oracle), tally(images_keep, cells_keep, oracle)
    same = [name for kind in set(kinds.values()) for name in KINDS[kind]]
    other = [name for kind in set(kinds.values()) for name in KINDS[OTHER[kind]]]
    named, shown = pool(forget, kinds)
    shares = {"UA": (shown - named, shown), "IRA": pool(keep, same), "CRA": pool(keep, other)}
    near = pool(keep, {neighbour for name in kinds for neighbour in NEIGHBOURS.get(name, ())})
    rest = pool(forget, [name for name in forget if name not in kinds])
    counts = {name: forget.get(name) if name in kinds else keep.get(name) for name in (*OBJECTS, *STYLES)}
    return {
        **{name: percent(*share) for name, share in shares.items()},
        "neighbours": percent(*near),
        "context": percent(*rest),
        **distances(images_keep, base_keep, oracle),
        "intervals": {
            **{name: interval(*share) for name, share in {**shares, "neighbours": near, "context": rest}.items()},
            "drift": None if base_keep is None else bootstrap((base_keep - images_keep).abs().mean((1, 2, 3)).tolist()),
        },
        "counts": {"forget": len(cells_forget), "keep": len(cells_keep), "neighbours": near[1]},
        "per_concept": {name: percent(*count) for name, count in counts.items() if count},
    }


def draw_cells(draw: Draw, cells: Sequence[Cell], cache: dict[Cell, Tensor] | None = None) -> Tensor:
    """The pictures of some cells (N, 3, H, W); those in the cache are not drawn again, and new ones join it."""
    cache = {} if cache is None else cache
    missing = [c for c in dict.fromkeys(cells) if c not in cache]
    if missing:
        images = draw([c.prompt for c in missing], [c.seed for c in missing])
        if len(images) != len(missing):
            raise ValueError(f"draw: asked for {len(missing)} pictures, got {len(images)}")
        cache |= zip(missing, images)
    return torch.stack([cache[c] for c in cells])


def evaluate(
    draw_base: Draw,
    draw_erased: Draw,
    concepts: Iterable[str],
    oracle: Oracle,
    seeds_forget: int = 10,
    seeds_keep: int = 1,
    base_cache: dict[Cell, Tensor] | None = None,
    references: dict[str, Look] | None = None,
) -> tuple[dict, dict[str, Pairs]]:
    """The report {"base": row, "erased": row, "protocol": ...} and the pictures {"forget": Pairs, "keep": Pairs}.

    `score` explains the rows, `replaced` what they also have: `natural` and `instead`. base_cache keeps the base
    model's pictures by cell, so that several concepts share them; it belongs to one base model with one number of steps
    and one guidance. references are looks at other pictures of the base model (`proper.looks`); without any, those that
    it draws here serve, which is a laxer measure: of most names there is but one picture in each style.
    """
    kinds = split(concepts)
    parts = dict(zip(("forget", "keep"), cells(kinds, seeds_forget, seeds_keep)))
    if not parts["keep"]:
        raise ValueError("nothing is left to keep: every cell shows an erased concept")
    forget, keep = (Pairs(c, draw_cells(draw_base, c, base_cache), draw_cells(draw_erased, c)) for c in parts.values())
    report = {
        "base": score(forget.base, forget.cells, keep.base, keep.cells, None, kinds, oracle),
        "erased": score(forget.erased, forget.cells, keep.erased, keep.cells, keep.base, kinds, oracle),
        "protocol": protocol(kinds, seeds_forget, seeds_keep, oracle, parts, references),
    }
    own = None if references else looks(torch.cat([forget.base, keep.base]), oracle)
    for side, images in (("base", forget.base), ("erased", forget.erased)):
        share, instead = replaced(images, forget.cells, references or own, kinds, oracle, paired=own is not None)
        report[side] |= {"natural": percent(*share), "instead": instead}
        report[side]["intervals"]["natural"] = interval(*share)
    return report, {"forget": forget, "keep": keep}


def replaced(
    images: Tensor,
    cells: Sequence[Cell],
    references: dict[str, Look],
    kinds: dict[str, str],
    oracle: Oracle,
    paired: bool = False,
) -> tuple[tuple[int, int], dict[str, int]]:
    """What is drawn for the erased concepts: (proper pictures, all), and what they show instead, counted.

    Pictures (N, 3, H, W) of cells with an erased object are named by their object, the others by their style.

    Args:
        references: The oracle's looks at pictures of the base model, by kind (`proper.looks`).
        paired: The first N references are of the same cells: none counts as a reference for its own cell's picture.
    """
    proper, named, seen = torch.zeros(len(cells), dtype=torch.bool), [""] * len(cells), looks(images, oracle)
    shown = [next(kind for kind in KINDS if getattr(c, kind) in kinds) for c in cells]
    for kind in dict.fromkeys(shown):
        rows = [i for i, own in enumerate(shown) if own == kind]
        proper[rows] = Proper(references[kind])(seen[kind].part(rows), rows if paired else None)
        for i in rows:
            named[i] = KINDS[kind][seen[kind].named[i]]
    gone = [getattr(c, kind) for c, kind in zip(cells, shown)]
    return (int(proper.sum()), len(cells)), counted(named, proper.tolist(), gone)


def protocol(
    kinds: dict[str, str],
    seeds_forget: int,
    seeds_keep: int,
    oracle: Oracle,
    parts: dict,
    references: dict[str, Look] | None = None,
) -> dict:
    """What another evaluation must share for its numbers to be comparable."""
    pictures = {name: len(part) for name, part in parts.items()}
    drawn = f"the {sum(pictures.values())} pictures that it drew here"
    beside = f"{len(references['object'].named)} pictures of the base model" if references else drawn
    return {
        "concepts": kinds,
        "seeds_forget": seeds_forget,
        "seeds_keep": seeds_keep,
        "pictures": pictures,
        "natural": f"oracle features beside {beside}",
        "fid": f"{oracle.num_features} oracle features, {len(parts['keep'])} kept pictures of each model",
    }


def showcase(pairs: dict[str, Pairs], concepts: Iterable[str], columns: int = 6) -> dict:
    """Pictures for `before_after(**showcase(...), path=...)`: each erased concept, then its neighbours, then others.

    One group of at most `columns` pictures each, with as many objects and styles as it has.
    """
    kinds = split(concepts)
    near = {neighbour for name in kinds for neighbour in NEIGHBOURS.get(name, ())} - {*kinds}
    forget, keep = pairs["forget"], pairs["keep"]
    rows = [(f"Erased: {name}", forget, [c for c in forget.cells if name in c]) for name in kinds]
    rows.append((f"Kept, closest: {', '.join(sorted(near))}", keep, [c for c in keep.cells if near & {*c}]))
    rows.append(("Kept, others", keep, [c for c in keep.cells if not near & {*c}]))
    picked = [(group, part, c, part.cells.index(c)) for group, part, found in rows for c in _varied(found, columns)]
    return {
        "base_images": torch.stack([part.base[i] for _, part, _, i in picked]),
        "erased_images": torch.stack([part.erased[i] for _, part, _, i in picked]),
        "titles": [f"{c.object}, {c.style}" for _, _, c, _ in picked],
        "groups": [group for group, *_ in picked],
    }


def _varied(cells: list[Cell], count: int) -> list[Cell]:
    """At most `count` of the cells, each time the first whose object and style have been picked least."""
    seen: Counter[str] = Counter()
    picked: list[Cell] = []
    for _ in range(min(count, len(cells))):
        best = min((c for c in cells if c not in picked), key=lambda c: seen[c.object] + seen[c.style])
        seen.update((best.object, best.style))
        picked.append(best)
    return picked
