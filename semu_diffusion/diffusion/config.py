"""Every choice of an erasure, the same for `erase()`, `semu erase` and a YAML recipe."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from ..inputs.tables import read_text
from ..options import option, require
from .concepts import COMMON, KINDS, check_words, concepts_of
from .erasers.registry import OWN, eraser_of
from .objectives import OBJECTIVES

STORED = ("int8", "fp32", "fp16", "bf16")  # as `adapter.updates.STORED`, which brings PEFT, has them

# Layers by name, as regexes that are searched for in the layer's name.
TARGETS = {
    "all": r".*",
    "cross-attention": r".*(attn2|attn\.add_[qkv]_proj|attn\.to_add_out).*",  # the latter: SD3, FLUX
    "self-attention": r".*(attn1\.|self_attn\.|attn\.to_(q|k|v|out)|attention\.to_|attentions\.\d+\.to_).*",
    "attention": r".*(attn[12]|attn\.|attention\.|attentions\.\d+\.to_).*",  # the latter: Z-Image, UNet2DModel
    "convolutions": r".*(conv|resnets).*",
    "cross-attention+convolutions": r".*(attn2|conv|resnets).*",
    "keys-values": r".*(attn2\.to_[kv]|attn\.add_[kv]_proj)$",  # of the text
}
# What a method chooses for itself; that of an eraser of another name is in its `defaults`.
SEMU = {"objective": "redirect", "target_modules": "all", "lr": 1e-1, "keep_weight": 1.0, "compress": 0.9}
PROMPTS = ("name", "sentences")
WHAT = ("concept", "kind", "synonym", "method", "precision", "compress", "seed")  # taken by every method


def defaults(concepts: int) -> dict[str, int | float]:
    """What grows with the number of concepts, for one that is what each of them gets by itself.

    Measured at 1 and at 16; in between the numbers grow evenly (`docs/pictograms.md`).
    """
    share = min(concepts - 1, 15) / 15
    grown = lambda one, many: round(one + share * (many - one))  # noqa: E731
    return {
        "gamma": round(0.9 + 0.05 * share, 4),
        "max_rank": grown(32, 80),
        "gradient_records": grown(256, 1024),
        "steps": grown(200, 400),
        "batch_size": grown(8, 16),
        "latents": max(48, 24 * concepts),
        "keep_latents": grown(80, 240),
    }


@dataclass
class EraseConfig:
    """What to forget and how.

    Raises:
        ValueError: a value outside its range, in one line that names the option and the range.
    """

    # what
    concept: list[str] = option(list, "What to forget: a word or a prompt file.")
    method: str = option(OWN, "semu, uce, esd-x, ...")
    kind: str | None = option(None, f"{', '.join(KINDS)}.")
    synonym: list[str] = option(list, "Another name of it, forgotten too. Repeatable.")
    # '' is the same without the concept, 'random' others of its kind, 'nearest' the word nearest in the text space,
    # 'next' the class after it; by default the kind's own, or the nearest other thing, chosen by the model
    anchor: str | None = option(None, "What to draw instead; '' for nothing.")
    keep: list[str] = option(list, "A prompt to keep. Repeatable.")
    near: float = option(0.5, "Share of the prompts to keep that are about the words nearest to the concept.")
    forget_images: str | None = option(None, "Pictures of the concept: a folder or a datasets name.")
    retain_images: str | None = option(None, "Pictures that must stay drawable: a folder or a datasets name.")
    forget_prompt: str | None = option(None, "Prompt of those of --forget-images that have no caption.")
    retain_prompt: str | None = option(None, "Prompt of those of --retain-images that have no caption.")
    on_top_of: str | None = option(None, "An adapter folder to erase on top of; the new adapter holds both.")
    # objective
    prompts: str | None = option(
        None, "Forget the name alone or in sentences: name, sentences; default: by the method, sentences."
    )
    objective: str | None = option(
        None, f"Target of forgotten prompts: {', '.join(OBJECTIVES)}; default: by the method, redirect."
    )
    strength: float | None = option(
        None, "How far past the anchor to push, in distances from concept to it; default: 0.25, and 0.75 without one "
              "or for a class-conditional model."
    )  # fmt: skip
    beta: float = option(1.0, "Weight of the remain loss on --retain-images.")
    keep_weight: float | None = option(
        None, "Weight of the keep loss on the model's own drawings; default: by the method, 1. "
              "0 is the paper's retain-free setting."
    )  # fmt: skip
    # basis
    train: str = option("denoiser", "What carries the adapter: denoiser or text_encoder.")
    target_modules: str | None = option(
        None, f"Layers to adapt: {', '.join(TARGETS)}, or a regex; default: by the method, all."
    )
    gamma: float | None = option(
        None, "Share of the forgetting gradient's energy that each basis keeps; default: by the number of concepts."
    )
    gamma_cross: float | None = option(None, "Another gamma for cross-attention (the paper: 1.0).")
    max_rank: int | None = option(None, "Most directions per layer; default: by the number of concepts.")
    geometry: str = option("remain", "Metric of the basis: euclidean, or remain (least harm to the rest).")
    gradient_records: int | None = option(
        None, "Most records over which the forgetting gradient is summed; default: by the number of concepts."
    )
    moment_records: int = option(256, "Most records of what must stay, for the remain geometry.")
    sketch: int | None = option(
        None, "Sum the gradient as linear sketches of so many columns, where it does not fit; 64 is a good number."
    )
    # training
    steps: int | None = option(None, "Most training steps; default: by the number of concepts.")
    lr: float | None = option(
        None, "Learning rate; default: by the method, 0.1, which is relative to the size of each layer's weight."
    )
    batch_size: int | None = option(
        None, "Forgotten, and as many kept, records per step, over all processes; default: by the number of concepts."
    )
    accumulate: int = option(1, "Gradient accumulation steps.")
    stop_at: float = option(0.25, "Stop once this share of the way to the target is left in held-out predictions.")
    settle: int | None = option(
        None, "Steps after that, in which what is kept settles; default: 50, and 130 for a style."
    )
    adversarial: int = option(
        0, "Rounds of 80 more steps, in which text states that still draw the concept are sought and forgotten too."
    )
    lasting: int = option(
        0, "Rounds of 80 more steps, after which training on pictures of the concept is longer in bringing it back."
    )
    latents: int | None = option(None, "Latents of the concepts to draw; default: by their number.")
    keep_latents: int | None = option(None, "Latents of other things; default: by the number of concepts.")
    sampler_steps: int | None = option(None, "Sampler steps of those latents; default: the pipeline's own, at most 10.")
    guidance: float | None = option(None, "Guidance of those latents; up to 1 is none; default: the pipeline's own.")
    seed: int = option(0, "Seed of everything drawn at random.")
    mixed_precision: str = option("no", "no, fp16 or bf16.")
    gradient_checkpointing: bool = option(False, "Trade time for memory.")
    max_memory: float | None = option(None, "Most memory to use, in GB.")
    tracker: str | None = option(None, "Accelerate tracker, e.g. tensorboard.")
    save_every: int = option(50, "Training steps between checkpoints.")
    # file
    compress: float | None = option(
        None,
        "Share of each layer's effect on the concept's inputs that is written, after training; 1 for all of it; "
        "default: 0.9, of other methods 0.99 of their update.",
    )
    precision: str = option("int8", f"What files hold U and V in: {', '.join(STORED)}; a LoRA instead of int8 fp16.")

    def __post_init__(self):
        self._convert()
        for name, value in {**SEMU, **defaults(len(self.concept)), **self._own_defaults()}.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.prompts is None:
            self.prompts = "name" if self.objective == "negative" else "sentences"
        checks = (
            (bool(self.concept) and all(c.strip() for c in self.concept), "concept must name what to forget"),
            (self.kind is None or self.kind in KINDS, f"kind must be one of {', '.join(KINDS)}"),
            (0 <= self.near <= 1, "near must be in [0, 1]"),
            (self.objective in OBJECTIVES, f"objective must be one of {', '.join(OBJECTIVES)}"),
            (self.prompts in PROMPTS, f"prompts must be one of {', '.join(PROMPTS)}"),
            (not self.anchor or self.objective != "negative", "the objective negative has no anchor"),
            (0 < self.gamma <= 1, "gamma must be in (0, 1]"),
            (self.gamma_cross is None or 0 < self.gamma_cross <= 1, "gamma-cross must be in (0, 1]"),
            (self.max_rank >= 1, "max-rank must be at least 1"),
            (self.geometry in ("euclidean", "remain"), "geometry must be euclidean or remain"),
            (self.strength is None or self.strength >= 0, "strength must not be negative"),
            (self.keep_weight >= 0 and self.beta >= 0, "keep-weight and beta must not be below 0"),
            (self.steps >= 1, "steps must be at least 1"),
            (self.lr > 0, "lr must be above 0"),
            (self.batch_size >= 1 and self.accumulate >= 1, "batch-size and accumulate must be at least 1"),
            (self.batch_size % self.accumulate == 0, "batch-size must be a multiple of accumulate"),
            (self.latents >= 2 and self.keep_latents >= 2, "latents and keep-latents must be at least 2"),
            (self.sampler_steps is None or self.sampler_steps >= 1, "sampler-steps must be at least 1"),
            (self.guidance is None or self.guidance >= 0, "guidance must not be negative"),
            (self.settle is None or self.settle >= 0, "settle must not be negative"),
            (self.adversarial >= 0, "adversarial must not be negative"),
            (self.lasting >= 0, "lasting must not be negative"),
            (
                not self.lasting or self.keep_weight or (self.retain_images and self.beta),
                "lasting pushes far and needs something that holds the rest: a keep-weight, or retain-images",
            ),
            (self.train in ("denoiser", "text_encoder"), "train must be denoiser or text_encoder"),
            (self.sketch is None or self.sketch >= 1, "sketch must be at least 1"),
            (self.max_memory is None or self.max_memory > 0, "max-memory must be above 0"),
            (self.gradient_records >= 1, "gradient-records must be at least 1"),
            (self.moment_records >= 1, "moment-records must be at least 1"),
            (self.save_every >= 1, "save-every must be at least 1"),
            (self.mixed_precision in ("no", "fp16", "bf16"), "mixed-precision must be no, fp16 or bf16"),
            (0 < self.compress <= 1, "compress must be in (0, 1]"),
            (self.precision in STORED, f"precision must be one of {', '.join(STORED)}"),
        )
        require(checks)
        concepts = concepts_of(self.concept, COMMON, self.kind, self.synonym)
        check_words(concepts, self.anchor, self.keep, COMMON)

    def _own_defaults(self) -> dict:
        """What another method than SEMU chooses for itself. ValueError for an unknown one."""
        return {} if self.method == OWN else eraser_of(self.method).defaults

    def check_taken(self) -> None:
        """ValueError where something is set that the method does not take: nothing is passed over in silence."""
        if self.method == OWN:
            return
        eraser, usual = eraser_of(self.method), type(self)(concept=self.concept, method=self.method)
        taken = [*WHAT, *eraser.takes]
        asked = [f.name for f in fields(self) if getattr(self, f.name) != getattr(usual, f.name)]
        if foreign := [name for name in asked if name not in taken]:
            flags = [f"--{name.replace('_', '-')}" for name in (foreign[0], *eraser.takes)]
            raise ValueError(f"{flags[0]} is no option of {self.method}; besides what to forget it takes "
                             f"{', '.join(flags[1:])}")  # fmt: skip

    def _convert(self) -> None:
        """Values as a recipe or a caller may write them: one text for a list, 1 for 1.0, and YAML's text "1e-2"."""
        for f in fields(self):
            value, kind = getattr(self, f.name), f.type.split(" ")[0]
            if value is None and "None" not in f.type:
                value = f.default_factory() if f.default is MISSING else f.default
            elif kind == "list[str]":
                value = value if isinstance(value, (list, tuple)) else [value]
                wrong = next((v for v in value if not isinstance(v, (str, int, float)) or isinstance(v, bool)), None)
                if wrong is not None:
                    raise ValueError(f"{f.name.replace('_', '-')} must be a text or a list of texts, got {wrong!r}")
                value = [str(v) for v in value]
            elif f.name == "mixed_precision" and value is False:
                value = "no"  # as YAML reads it without quotes
            elif kind == "str" and value is not None and not isinstance(value, str):
                if isinstance(value, (list, dict, bool)):
                    raise ValueError(f"{f.name.replace('_', '-')} must be a text, got {value!r}")
                value = str(value)
            elif kind == "bool" and not isinstance(value, bool):
                raise ValueError(f"{f.name.replace('_', '-')} must be true or false, got {value!r}")
            elif kind in ("int", "float") and value is not None:
                try:
                    number = float(value)
                    value = int(value) if kind == "int" and number == int(number) else number
                except (TypeError, ValueError, OverflowError):
                    number = math.nan
                if not math.isfinite(number) or not isinstance(value, float if kind == "float" else int):
                    what = "a whole number" if kind == "int" else "a number"
                    raise ValueError(f"{f.name.replace('_', '-')} must be {what}, got {value!r}")
            setattr(self, f.name, value)
        try:
            re.compile(self.target_modules or "")
        except re.error as error:
            raise ValueError(f"target-modules {self.target_modules!r} is no regex: {error}") from None

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides) -> EraseConfig:
        """A recipe, with values given beside it taking precedence.

        Raises:
            ValueError: no such file, not a mapping, or an unknown name in it.
        """
        import yaml

        path = Path(path)
        if not path.is_file():
            raise ValueError(f"no recipe at {path}")
        try:
            values = yaml.safe_load(read_text(path)) or {}
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold a mapping of option: value")
        values = {str(k).replace("-", "_"): v for k, v in values.items()}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{path}: unknown option {unknown[0]!r}; known: {', '.join(sorted(known))}")
        return cls(**{**values, **overrides})

    def used(self) -> dict:
        """All values that the method takes, as they go into results.json and the adapter's header."""
        if self.method == OWN:
            return self.to_dict()
        taken = (*WHAT, *eraser_of(self.method).takes, *eraser_of(self.method).defaults)
        return {name: value for name, value in self.to_dict().items() if name in taken}

    def to_dict(self) -> dict:
        """All values."""
        return asdict(self)
