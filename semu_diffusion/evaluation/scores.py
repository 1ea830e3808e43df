"""A model's row of figures from what the judges wrote down about its pictures. Shares are in percent.

A record is what a judge found, plus "part" ("forget", "keep" or "captions"), "label" and, for an erased model, "moved":
the mean absolute pixel difference to the base model's picture of the same prompt and seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..metrics.fid import _fid_compute
from ..metrics.naturalness import LEAST, typical_roughness, typical_sureness
from .intervals import bootstrap, wilson
from .judges import same_name
from .proper import counted

Row = dict
COMMON = [
    ("natural", "% of forgotten pictures that are a proper picture of something"),
    ("instead", "what they show in place of the concept, counted"),
    ("clip", "CLIP score of kept pictures with their prompts"),
    ("FID", "of kept pictures to the real ones, or to the base model's"),
    ("drift", "mean absolute pixel difference of kept pictures to the base model's"),
    ("moved", "the same of forgotten pictures"),
]


def of(records: Sequence[dict], key: str, parts: Sequence[str]) -> list[float]:
    """The numbers that some parts' records hold under a key."""
    return [r[key] for r in records if r["part"] in parts and r.get(key) is not None]


def mean_into(row: Row, name: str, values: Sequence[float]) -> None:
    """A mean and its bootstrap interval; None where there is no value."""
    row[name] = float(torch.tensor(values, dtype=torch.float64).mean()) if values else None
    row["intervals"][name] = bootstrap(values)


def share_into(row: Row, name: str, hits: int, total: int) -> None:
    """A share in percent and its Wilson interval; None of nothing."""
    row[name] = 100 * hits / total if total else None
    row["intervals"][name] = [100 * end for end in wilson(hits, total)] if total else None


def named_row(records: Sequence[dict]) -> Row:
    """UA on the forgotten labels, IRA on the others, and how often each label is named."""
    row: Row = {"intervals": {}}
    right = {
        part: [same_name(r["label"], r["named"]) for r in records if r["part"] == part] for part in ("forget", "keep")
    }
    share_into(row, "UA", len(right["forget"]) - sum(right["forget"]), len(right["forget"]))
    share_into(row, "IRA", sum(right["keep"]), len(right["keep"]))
    row["per_concept"] = {}
    for label in dict.fromkeys(r["label"] for r in records):
        named = [same_name(label, r["named"]) for r in records if r["label"] == label]
        row["per_concept"][label] = 100 * sum(named) / len(named)
    return row


def mark_natural(records: dict[str, list[dict]]) -> str | None:
    """Sets "natural" in the records of both models where their namer has not: is it sure of a picture, is it rough?

    A picture is a proper one if it is named as surely as 95 % of the base model's own, and neither much flatter nor
    much rougher than all of these. They are those that are named as they are labelled, or all where none is.

    Returns:
        What the verdict rests on, or why there is none, for the protocol.
    """
    base = records["base"]
    if any("natural" in r for r in base):
        return "oracle features beside pictures of the embedded model"
    seen = [r for r in base if r.get("sure") is not None]
    if not seen:
        return "not judged: needs --clip or --classifier"
    right = [r for r in seen if r["label"] and same_name(r["label"], r["named"])] or seen
    if len(right) < LEAST:
        return f"not judged: needs {LEAST} pictures of the base model that show their label, there are {len(right)}"
    limit = typical_sureness(torch.tensor([r["sure"] for r in right], dtype=torch.float64))
    low, high = typical_roughness(torch.tensor([r["rough"] for r in right], dtype=torch.float64))
    for record in (r for own in records.values() for r in own):
        record["natural"] = record["sure"] >= limit and low <= record["rough"] <= high
    return f"named as surely as 95 % of {len(right)} pictures of the base model ({limit:.3f})"


def replaced(row: Row, records: Sequence[dict]) -> None:
    """Sets "natural", the share of forgotten pictures that are proper ones, and "instead", what they show, counted.

    A suite that counts only some of the pictures, or has other names for what they show, has set them itself.
    """
    forgotten = [r for r in records if r["part"] == "forget"]
    judged = [r["natural"] for r in forgotten if r.get("natural") is not None]
    if "natural" not in row:
        share_into(row, "natural", sum(judged), len(judged))
    named = [r for r in forgotten if r.get("named") is not None]
    if named and "instead" not in row:
        names = [r["label"] if same_name(r["label"], r["named"]) else r["named"] for r in named]
        row["instead"] = counted(names, [r.get("natural") for r in named], [r["label"] for r in named])


def complete(row: Row, records: Sequence[dict], reference: torch.Tensor | None) -> Row:
    """The row with what all suites have: `replaced`, CLIP score, FID to reference features (N, d), drift, counts."""
    replaced(row, records)
    kept = ["keep", "captions"]
    mean_into(row, "clip", of(records, "clip", kept))
    features = of(records, "features", kept)
    enough = reference is not None and min(len(reference), len(features)) > 1
    row["FID"] = max(0.0, _fid_compute(reference, torch.stack(features)).item()) if enough else None
    mean_into(row, "drift", of(records, "moved", kept))
    mean_into(row, "moved", of(records, "moved", ["forget"]))
    parts = [r["part"] for r in records]
    row["counts"] = {part: parts.count(part) for part in dict.fromkeys(parts)}
    return row
