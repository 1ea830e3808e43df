"""The model card (README.md) of an adapter folder."""

from __future__ import annotations

from pathlib import Path

from .adapter.weights import LORA, write_atomic
from .suites import ROWS

CARD = """---
base_model: {base}
base_model_relation: adapter
library_name: diffusers
pipeline_tag: text-to-image
tags: [semu, unlearning, concept-erasure, lora]
---

# {base} without {concepts}

A SEMU adapter (Singular Value Decomposition for Efficient Machine Unlearning, arXiv 2502.07587): W' = W + U R V^T in
{layers} layers, {trained:,} trained numbers ({percent:.2f} % of the model). It answers prompts for {concepts} with
{anchor}.

![before and after](before_after.png)

## Use

{plain}With semu-diffusion (native adapter, any strength):

```python
from semu_diffusion import load_adapter, load_pipeline

pipe = load_pipeline("{base}")
load_adapter(pipe, "this folder", scale=1.0)
```

## How well
{table}
## Training

{steps} steps in {seconds} s; {left}. Options, seeds and versions are in `results.json`, the loss in `loss.png`.

## Limits

Measured with plain prompts. Adversarial prompts, textual inversion, image guidance and fine-tuning were not tried on
this adapter, and whoever has the base model can leave the adapter out.
"""

# Only where diffusers has a LoRA loader for the pipeline, so that the folder has the file.
PLAIN = """Plain diffusers:

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{base}")
pipe.load_lora_weights("this folder or repository")
```

"""


def metrics_markdown(evaluation: dict | None) -> str:
    """The base model's row beside the erased one's, as a Markdown table."""
    if not evaluation:
        return "\nNo suite was run; look at the pictures, and run `semu eval`.\n"
    show = lambda v: "-" if v is None else f"{v:.2f}"  # noqa: E731
    lines = ["", "| | base | erased | |", "|---|---|---|---|"]
    lines += [
        f"| {key} | {show(evaluation['base'].get(key))} | {show(evaluation['erased'].get(key))} | {text} |"
        for key, text in ROWS
    ]
    counts, protocol = evaluation["erased"]["counts"], evaluation["protocol"]
    lines += ["", f"Suite {protocol['suite']}: {counts['forget']} forgotten and {counts['keep']} kept pictures, "
              f"{protocol['sampler']} {protocol['steps']} steps, guidance {protocol['guidance']}.", ""]  # fmt: skip
    return "\n".join(lines)


def write_card(folder: Path, results: dict) -> None:
    """Fills the template from results.json's content."""
    training, options = results["training"], results["options"]
    left = training["left"]
    text = CARD.format(
        base=results["base_model"],
        plain=PLAIN.format(base=results["base_model"]) if (folder / LORA).is_file() else "",
        concepts=" and ".join(options["concept"]),
        layers=training["layers"],
        trained=training["trained"],
        percent=training["trained_percent"],
        anchor=repr(options["anchor"]) if options["anchor"] else "the same prompt without it",
        table=metrics_markdown(results.get("evaluation")),
        steps=training["steps"],
        seconds=training["seconds"],
        left="nothing was measured"
        if left is None
        else f"{left:.0%} of the way to the target left in held-out predictions",
    )
    write_atomic(folder / "README.md", text)
