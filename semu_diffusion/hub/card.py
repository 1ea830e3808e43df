"""The model card (README.md) of an adapter folder, with the metadata that the Hub reads."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from ..adapter.claims import WORK, taken_as_written
from ..adapter.config import SemuConfig
from ..adapter.weights import LORA, WEIGHTS, header_of, read_config, write_atomic
from ..diffusion.naming import KOHYA, concepts_in, is_hub_name, made_with, plain, title_of

HERE = "path/to/this/folder"  # replaced by user/name in what is pushed
TAGS = ("semu", "unlearning", "machine-unlearning", "concept-erasure", "peft")
MOST_NAMES = 5  # of counts by name, in a table
Figures = Sequence[tuple[str, str]]
PICTURES = {
    "before_after.png": "before and after",
    "concepts.png": "concepts before and after",
    "interference.png": "interference of the merged adapters",
    "fusion.png": "what is done that each adapter alone does not do, before and after",
}

INTRODUCTION = """# {base} without {concepts}

{made}: W' = W + U R V^T in {layers} layers{trained}.{answers}
"""

SEMU = """A SEMU adapter (Singular Value Decomposition for Efficient Machine Unlearning,
[arXiv 2502.07587](https://arxiv.org/abs/2502.07587))"""
OTHER = """Made with {method} ({paper}), not with SEMU: what that adds to the weights, taken apart by its SVD"""

NATIVE = """With semu-diffusion (native adapter, any strength, can be switched off):

```python
from semu_diffusion import load_adapter, load_pipeline

pipe = load_pipeline("{base}")
load_adapter(pipe, "{here}", scale=1.0)
```
"""

DIFFUSERS = """Plain diffusers:

```python
from diffusers import DiffusionPipeline
{imports}
pipe = DiffusionPipeline.from_pretrained({argument})
pipe.load_lora_weights("{here}", weight_name="{lora}")
```
"""

SEVERAL = """With other LoRAs: diffusers switches one off as it loads the next, so name each, then all that shall be on
(`load_adapter` above leaves the others on).

```python
pipe.load_lora_weights("{here}", weight_name="{lora}", adapter_name="eraser")
pipe.load_lora_weights("someone/style", adapter_name="style")
pipe.set_adapters(["eraser", "style"], [1.0, 0.8])
```
"""

PEFT = """PEFT, on the bare {part}:

```python
import semu_diffusion.adapter  # makes the method known to PEFT
from peft import PeftModel

{part} = PeftModel.from_pretrained(pipe.{part}, "{here}")
```
"""

COMFY = """ComfyUI and A1111: put `{kohya}` into their folder of LoRAs and load it at strength 1.{left}
"""

LEFT = """ {number} layers outside of the model's blocks, which some programs pass over, are left out of it; they carry
{share:.1%} of the update's energy, and `semu export --to kohya --all-layers` keeps them."""

LIMITS = """## Intended use and limits

For studying what models can be made to forget, and for shipping models that do not draw something by accident.
Scores are those of plain prompts. Adversarial prompts, textual inversion, image guidance and fine-tuning were not tried
on this adapter unless a table above says so, and whoever has the base model can leave the adapter out: it is no
safeguard against somebody who wants to draw {concepts}.
"""


def write_card(folder: Path, results: dict, figures: Figures = ()) -> None:
    """Writes README.md from results.json's content and the files of the folder; figures are (key, meaning).

    Raises:
        ValueError: no adapter there, or results of another shape than semu's.
    """
    folder = Path(folder)
    config = read_config(folder if (folder / WEIGHTS).is_file() else next(iter(sorted(folder.glob("text_encoder*")))))
    with taken_as_written(folder / "results.json"):
        card = f"---\n{metadata(folder, config, results, figures)}\n---\n\n{text(folder, config, results, figures)}"
    write_atomic(folder / "README.md", card)


def figure(value: object) -> str:
    """A figure as tables print it: a number with two decimals, counts by name with the most frequent first."""
    if isinstance(value, dict):
        # Names come from classifiers and prompts, which may be others': each stays short plain text.
        names = {re.sub(r"[^\w\s.,'-]", "", " ".join(str(k).split()))[:40]: n for k, n in value.items()}
        first, rest = list(names.items())[:MOST_NAMES], list(names.items())[MOST_NAMES:]
        parts = [f"{name} {count}" for name, count in first]
        return ", ".join([*parts, *([f"{len(rest)} others"] if rest else [])]) or "-"
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def metadata(folder: Path, config: SemuConfig, results: dict, figures: Figures) -> str:
    """The YAML head: base model, tags and, where a suite was run, the `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    base, evaluation = config.about.get("base_model") or results.get("base_model") or "", results.get("evaluation")
    lora = (folder / LORA).is_file()
    known = {"base_model": base, "base_model_relation": "adapter"} if is_hub_name(base) else {}
    classes = config.about.get("kinds") == {}  # of a model that reads no text
    task, scores = "unconditional-image-generation" if classes else "text-to-image", []
    for key, meaning in figures if evaluation else ():
        if isinstance(evaluation["erased"].get(key), (int, float)):
            scores.append(
                EvalResult(
                    task_type=task,
                    dataset_type=evaluation["protocol"]["suite"],
                    dataset_name=evaluation["protocol"]["suite"],
                    metric_type=key,
                    metric_name=f"{key}: {meaning}",
                    metric_value=round(evaluation["erased"][key], 4),
                )
            )
    data = ModelCardData(
        **known,
        library_name="diffusers",
        pipeline_tag=task,
        tags=[*tags_of(config.about), *(["lora"] if lora else [])],
        model_name=f"{title_of(base)} without {concepts_in(config.about)}" if scores else None,
        eval_results=scores or None,
    )
    return data.to_yaml().strip()


def tags_of(about: dict) -> list[str]:
    """The Hub's tags: the method's name in the place of ours where it is another one."""
    return [made_with(about).lower().replace(" ", "-") if tag == "semu" else tag for tag in TAGS]


def text(folder: Path, config: SemuConfig, results: dict, figures: Figures) -> str:
    """The card below its head."""
    base, training = config.about.get("base_model") or results.get("base_model") or "", results.get("training") or {}
    trained = f", {training['trained']:,} trained numbers ({training['trained_percent']:.2f} %)" if training else ""
    concepts, anchor = concepts_in(config.about), config.about.get("anchor")
    instead = "others of the kind" if anchor == "random" else repr(plain(anchor))
    answers = f" It answers prompts for {concepts} with {instead}." if anchor else ""
    parts = [
        INTRODUCTION.format(
            made=made(config.about),
            base=title_of(base),
            concepts=concepts,
            layers=len(config.ranks),
            trained=trained,
            answers=answers,
        ),  # fmt: skip
        *(f"![{title}]({name})\n" for name, title in PICTURES.items() if (folder / name).is_file()),
        "## Use\n",
        *usage(folder, base, config),
        "## How well\n",
        metrics_markdown(results.get("evaluation"), figures),
        *weaker_markdown(results.get("weaker")),
        merged_markdown(results) if results.get("merged") else training_markdown(folder, training),
        files_markdown(folder),
        LIMITS.format(concepts=concepts),
    ]
    return "\n".join(parts)


def made(about: dict) -> str:
    """What the adapter is, by the method that it was made with."""
    if not about.get("method"):
        return SEMU
    paper, known = (
        plain(about.get("paper") or "no paper named"),
        re.fullmatch(r"arXiv (\d{4}\.\d{4,5})", str(about.get("paper"))),
    )
    link = f"[{paper}](https://arxiv.org/abs/{known[1]})" if known else paper
    return OTHER.format(method=made_with(about), paper=link)


def usage(folder: Path, base: str, config: SemuConfig) -> list[str]:
    """How to load what the folder holds."""
    from ..diffusion.pipeline import SHIPPED

    name = base if base in SHIPPED or is_hub_name(base) else "path/to/the/base/model"
    # A shipped model is a folder inside the package, which diffusers cannot find by its name.
    embedded = {
        "imports": "from semu_diffusion.diffusion.pipeline import model_path\n",
        "argument": f'model_path("{name}")',
    }
    plain = embedded if base in SHIPPED else {"imports": "", "argument": f'"{name}"'}
    blocks = [NATIVE.format(base=name, here=HERE)]
    if (folder / LORA).is_file():
        blocks.append(DIFFUSERS.format(**plain, here=HERE, lora=LORA))
        blocks.append(SEVERAL.format(here=HERE, lora=LORA))
    if (folder / WEIGHTS).is_file():
        of_unet = any(name.startswith(("down_blocks.", "up_blocks.", "mid_block.")) for name in config.ranks)
        part = "unet" if of_unet else "transformer"
        blocks.append(PEFT.format(part=part, here=HERE))
    for file in sorted(folder.glob(f"*{KOHYA}")):
        blocks.append(COMFY.format(kohya=file.name, left=left_out(header_of(file))))
    return blocks


def left_out(header: dict[str, str]) -> str:
    """What a kohya file lacks, as its header says; "" for nothing, and for a file that is not ours."""
    try:
        left, share = json.loads(header.get("semu.left_out", "[]")), float(header.get("semu.left_out_energy", 0))
        return LEFT.format(number=len(left), share=share) if left else ""
    except (ValueError, TypeError, RecursionError):
        return ""


def metrics_markdown(evaluation: dict | None, figures: Figures) -> str:
    """The base model's row beside the erased one's, and the protocol, as Markdown."""
    if not evaluation:
        return "No suite was run; look at the pictures, and run `semu eval`.\n"
    base, erased = evaluation["base"], evaluation["erased"]
    lines = ["| | base | erased | |", "|---|---|---|---|"]
    lines += [
        f"| {key} | {figure(base.get(key))} | {figure(erased.get(key))} | {text} |"
        for key, text in figures
        if key in base or key in erased  # results of earlier versions lack some
    ]
    counts, protocol = erased["counts"], evaluation["protocol"]
    versions = ", ".join(f"{plain(name)} {plain(number)}" for name, number in protocol.get("versions", {}).items())
    lines += ["", f"Suite {plain(protocol['suite'])}: {counts['forget']} forgotten and {counts['keep']} kept "
              f"pictures, {plain(protocol['sampler'])} {protocol['steps']} steps, "
              f"guidance {protocol['guidance']}.", ""]  # fmt: skip
    lines += [f"Versions: {versions}.", ""] if versions else []
    return "\n".join(lines)


def weaker_markdown(weaker: dict | None) -> list[str]:
    """How much of the concept is gone where the adapter is used at less than full strength, as Markdown."""
    if not weaker:
        return []
    share = lambda own: "{:.0f} ({:.0f}–{:.0f})".format(own["UA"], *own["interval"])  # noqa: E731
    rows = [f"| {plain(strength)} | {share(own)} | {own['pictures']} |" for strength, own in weaker.items()]
    intro = "A LoRA can be scaled. At less than full strength, with the 95 % interval of so many pictures:\n"
    return [intro, "| strength | UA | pictures |", "|---|---|---|", *rows, ""]


def training_markdown(folder: Path, training: dict) -> str:
    """How it was trained, and where the rest is written down."""
    if not training:
        return ""
    left = training["left"]
    if training.get("method"):
        steps = f"{training['steps']} steps" if training["steps"] else "In closed form, no training step"
        loss = ", the loss in `loss.png`" if (folder / "loss.png").is_file() else ""
        where = f"Options, seeds and versions are in `results.json`{loss}."
        return f"## Training\n\n{plain(training['method'])}: {steps}, {training['seconds']} s. {where}\n"
    measured = "nothing was measured"
    if left is not None:
        way = f"{left:.0%} of the way to the target left" if left >= 0 else f"past the target by {-left:.0%} of the way"
        measured = f"{way} in held-out predictions"
    loss = ", the loss in `loss.png`" if (folder / "loss.png").is_file() else ""
    where = f"Options, seeds and versions are in `results.json`{loss}."
    return f"## Training\n\n{training['steps']} steps in {training['seconds']} s; {measured}. {where}\n"


def merged_markdown(results: dict) -> str:
    """What was fused or added up."""
    parts = ", ".join(f"{plain(name)} ({weight:g})" for name, weight in zip(results["merged"], results["weights"]))
    how = "sum" if results.get("way", "sum") == "sum" else "fusion (least squares on each one's inputs)"
    return f"## Merged\n\nThe {how} of {len(results['merged'])} adapters at these weights: {parts}.\n"


def files_markdown(folder: Path) -> str:
    """The adapter's files with their hashes, so that scores can be tied to weights."""
    rows = []
    own = (file for file in folder.rglob("*.safetensors") if WORK not in file.relative_to(folder).parts)
    for file in sorted(own):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        rows.append(f"| `{file.relative_to(folder).as_posix()}` | {file.stat().st_size:,} | `{digest}` |")
    return "\n".join(["## Files\n", "| file | bytes | sha256 |", "|---|---|---|", *rows, ""])
