"""The model card (README.md) of a classifier's adapter folder."""

from __future__ import annotations

import re
from pathlib import Path

from ..adapter.weights import write_atomic

HERE = "path/to/this/folder"  # replaced by user/name in what is pushed
TAGS = ("semu", "unlearning", "machine-unlearning", "peft")
COLUMNS = [
    ("UA", "% of the forget set misclassified"),
    ("UA_test", "the same on test examples of the forgotten classes"),
    ("RA", "% of the retain set classified correctly"),
    ("TA", "% of the test set classified correctly"),
    ("MIA", "% of the forget set that SalUn's SVC takes for non-members"),
    ("gap", "mean distance of these four to Retrain"),
    ("RMIA", "AUC of RMIA, forget against test set; 50 is a guess"),
    ("KL", "of Retrain to the model on the forget set, nats"),
    ("seconds", "of training or unlearning"),
    ("trained", "numbers that were trained"),
    ("bytes", "of what training changed; of the adapter for semu"),
]
COUNTS = ("trained", "bytes")

BODY = """# {base} that forgot {about}

A SEMU adapter (Singular Value Decomposition for Efficient Machine Unlearning,
[arXiv 2502.07587](https://arxiv.org/abs/2502.07587)): W' = W + U R V^T in {layers} layers, {trained:,} trained numbers
({percent:.2f} %). It made an image classifier forget {about} ({forgotten:,} examples) of {data}.

## Use

```python
from semu_diffusion.adapter.weights import load_adapter
from semu_diffusion.classification import load_classifier
from semu_diffusion.hub import local

folder = local("{here}")
model = load_classifier(f"{{folder}}/base")
load_adapter(model, folder)
```

## How well

{table}

Retrain is a model that was trained without the forget set; the closer to it, the better. `results.json` has options,
seeds and versions, `split.json` what was forgotten.

## Limits

One model, one split, one seed. Forgetting is measured, not proven: stronger membership attacks may tell more, and
whoever has `base/` can leave the adapter out.
"""


def plain(text: str) -> str:
    """Names from a data set as one short line that is neither HTML nor Markdown."""
    return re.sub(r"[^\w\s.,'()-]", "", " ".join(text.split()))[:200].strip()


def ordered(rows: dict[str, dict]) -> list[str]:
    """The models of a comparison in the order of its tables."""
    return [name for name in ("original", "retrain", "semu") if name in rows]


def shown(key: str, value: float | None) -> str:
    """A measure as a table has it."""
    if value is None:
        return "-"
    return f"{value:,}" if key in COUNTS else f"{value:.2f}"


def markdown(rows: dict[str, dict]) -> str:
    """The measures as a Markdown table, a column per model."""
    names = ordered(rows)
    lines = ["| | " + " | ".join(names) + " | |", "|---" * (len(names) + 2) + "|"]
    for key, meaning in COLUMNS:
        values = [rows[name].get(key) for name in names]
        if any(value is not None for value in values):
            lines.append(f"| {key} | " + " | ".join(shown(key, v) for v in values) + f" | {meaning} |")
    return "\n".join(lines)


def write_card(folder: Path, base: str, data: str, about: str, forgotten: int, rows: dict, facts: dict) -> None:
    """Writes README.md with the metadata that the Hub reads; names of folders lose the path."""
    from huggingface_hub import ModelCardData

    head = ModelCardData(library_name="peft", pipeline_tag="image-classification", tags=list(TAGS)).to_yaml().strip()
    body = BODY.format(
        base=plain(Path(base).name) or "a classifier",
        about=plain(about),
        layers=facts["layers"],
        trained=facts["trained"],
        percent=facts["trained_percent"],
        forgotten=forgotten,
        data=plain(Path(data).name),
        here=HERE,
        table=markdown(rows),
    )
    write_atomic(folder / "README.md", f"---\n{head}\n---\n\n{body}")
