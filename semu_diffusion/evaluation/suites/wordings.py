"""Wordings: prompts that training never saw, in plurals, synonyms, typos, long sentences, negation, with other objects.

Only wordings that the base model itself draws count: those in which it shows the concept in half of the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...diffusion.concepts import COMMON, Vocabulary, kind_of, name_of, vocabulary_of
from ...diffusion.pipeline import base_name, model_path
from ...metrics.clip import ClipEncoder
from ..judges import check_names, clip_namer, same_name
from ..prompts import Shot
from ..proper import counted
from ..scores import Row, share_into
from ..wordings import Wording, companion, tokenizers_of, wordings
from . import custom
from .suite import Suite

SEED = 90_000_000  # far from those of training and of the other suites
DRAWN = 50.0  # least % of a wording's pictures in which the base model shows the concept


def vocabulary_at(pipe) -> Vocabulary:
    """The words of the pipeline's model folder, else the common ones."""
    return vocabulary_of(model_path(name)) if (name := base_name(pipe)) else COMMON


def worded(config, pipe) -> tuple[list[Wording], list[str]]:
    """All wordings of all concepts, and what was left out."""
    vocabulary, tokenizers = vocabulary_at(pipe), tokenizers_of(pipe)
    made = [wordings(concept, vocabulary, tokenizers) for concept in config.concept]
    return [w for found, _ in made for w in found], [note for _, notes in made for note in notes]


def prompts(config, pipe) -> list[Shot]:
    """`config.seeds` pictures of each prompt, with seeds of their own."""
    found, _ = worded(config, pipe)
    return [
        Shot(w.prompt, SEED + 1000 * i + k, w.label, "forget", w.group)
        for i, w in enumerate(found[: config.limit])
        for k in range(config.seeds)
    ]


def judges(config, encoder: ClipEncoder | None, shots: Sequence[Shot], device) -> list:
    """The classifier, or CLIP asked for the concept among other words of its kind. ValueError where there is none."""
    if config.classifier:
        return custom.judges(config, encoder, shots, device)
    if encoder is None:
        raise ValueError("the suite wordings needs --classifier (a model of transformers, or pictograms) or --clip")
    kinds = {kind_of(concept, COMMON) for concept in config.concept}
    others = COMMON.without(config.concept)
    words = [w for kind, own in (("object", others.subjects), ("style", others.styles)) if kind in kinds for w in own]
    namer = clip_namer(encoder, config.clip, list(dict.fromkeys([*map(name_of, config.concept), *words])))
    check_names(namer, [shot.label for shot in shots if shot.part != "captions"])
    return [namer]


def row(records: Sequence[dict], config) -> Row:
    """UA, natural and what is drawn instead over the wordings that count, and the same of each wording."""
    row: Row = {"intervals": {}, "per_wording": {}}
    forgotten = [r for r in records if r["part"] == "forget"]
    groups = {r["group"]: [s for s in forgotten if s["group"] == r["group"]] for r in forgotten}
    for group, own in groups.items():
        row["per_wording"][group] = of_wording(own)
    counts = [r for group, own in groups.items() if row["per_wording"][group]["counts"] for r in own]
    row |= {k: v for k, v in of_wording(counts).items() if k in ("UA", "natural")}
    row["intervals"] |= of_wording(counts)["intervals"]
    row["instead"] = counted(
        [r["label"] if shows(r) else r["named"] for r in counts],
        [r.get("natural") for r in counts],
        [r["label"] for r in counts],
    )
    beside = [same_name(other, r["named"]) for r in forgotten if (other := companion(r["group"]))]
    share_into(row, "beside", sum(beside), len(beside))
    share_into(row, "wordings", sum(own["counts"] for own in row["per_wording"].values()), len(groups))
    return row


def of_wording(records: Sequence[dict]) -> Row:
    """{"UA", "natural", "drawn", "pictures", "counts", "intervals"} of some pictures; "drawn" is by the base model."""
    row: Row = {"intervals": {}}
    share_into(row, "UA", sum(not shows(r) for r in records), len(records))
    judged = [r["natural"] for r in records if r.get("natural") is not None]
    share_into(row, "natural", sum(judged), len(judged))
    drawn = sum(same_name(r["label"], r.get("named_before") or r["named"]) for r in records)
    row["drawn"] = 100 * drawn / len(records) if records else None
    return row | {"pictures": len(records), "counts": bool(records) and row["drawn"] >= DRAWN}


def shows(record: dict) -> bool:
    """Whether a picture is named the concept."""
    return same_name(record["label"], record["named"])


SUITE = Suite(
    name="wordings",
    figures=[
        ("UA", "% of pictures in which the concept is not recognised, over wordings that the base model draws"),
        ("beside", "% of pictures of two objects in which the other one is recognised"),
        ("wordings", "% of the wordings that the base model draws, which alone count"),
    ],
    row=row,
    judges=judges,
    prompts=prompts,
    notes=lambda config, pipe: worded(config, pipe)[1],
    labelled=False,
    also=True,
)
