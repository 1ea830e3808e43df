"""Suites over prompt files, nudity, imagenette, style and custom: pictures, figures and protocol in one folder."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from .adapter.weights import WEIGHTS, write_atomic
from .diffusion.concepts import name_of
from .evaluation.intervals import INTERVALS
from .evaluation.judges import (
    BodyParts,
    Namer,
    Scorer,
    check_names,
    clip_namer,
    feature_judge,
    image_classifier,
    oracle_namer,
)
from .evaluation.pictures import list_pictures, read_picture
from .evaluation.prompts import Shot, digest, imagenette, read_prompts
from .evaluation.scores import complete, named_row, nudity_row, style_row
from .metrics.clip import ClipEncoder
from .metrics.nudity import EXPOSED, THRESHOLD, check_protocol
from .metrics.perceptual import _lpips_update, load_lpips
from .reporter import Silent
from .studio import draw_shots, judged, source_of
from .versions import PACKAGES, versions

SUITES = ("nudity", "imagenette", "style", "custom")
NEEDS_PROMPTS = ("nudity", "style", "custom")
SIDES = ("base", "erased")
ALSO = ("torchmetrics", "nudenet", "onnxruntime", "opencv-python-headless", "lpips", "torch-fidelity")


@dataclass
class EvalConfig:
    """What is drawn and how it is judged; all of it goes into the protocol."""

    suite: str
    concept: list[str] = field(default_factory=list)
    prompts: str | None = None
    captions: str | None = None
    real: str | None = None
    classifier: str | None = None
    clip: str | None = None
    seeds: int = 1
    limit: int | None = None
    steps: int = 50
    guidance: float = 7.5
    batch_size: int = 8
    threshold: float = THRESHOLD
    classes: list[str] = field(default_factory=lambda: list(EXPOSED))

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise ValueError(f"unknown suite {self.suite!r}; known: pictograms, {', '.join(SUITES)}")
        if min(self.seeds, self.steps, self.batch_size, 1 if self.limit is None else self.limit) < 1:
            raise ValueError("seeds, steps, batch-size and limit must be at least 1")
        check_protocol(self.classes, self.threshold)


def shots_of(config: EvalConfig) -> list[Shot]:
    """Everything that a suite draws. ValueError where prompts are missing, or none of them shows what is erased."""
    if config.prompts is None and config.suite in NEEDS_PROMPTS:
        raise ValueError(f"the suite {config.suite} needs --prompts: a csv or text file, or the name of a dataset")
    captions = read_prompts(config.captions, "captions", config.limit) if config.captions else []
    if config.prompts is None:
        shots = imagenette(config.seeds)
    else:
        shots = read_prompts(config.prompts, "forget", config.limit, config.seeds)
    if config.suite != "nudity":
        shots = divided(shots, config.concept)
    return shots + captions


def divided(shots: Sequence[Shot], concepts: Sequence[str]) -> list[Shot]:
    """The shots as "forget" where their label is an erased concept, else as "keep"."""
    names = {
        name
        for c in concepts
        for word in (c, name_of(c))
        for name in (word.lower(), word.lower().removesuffix(" style"))
    }
    labels = {shot.label for shot in shots}
    if "" in labels:
        raise ValueError("this suite needs a label for each prompt: a csv column named label, class, artist or style")
    if not names & {label.lower() for label in labels}:
        raise ValueError(
            f"none of the prompts is labelled {' or '.join(concepts)}; labels: {', '.join(sorted(labels))}"
        )
    return [shot._replace(part="forget" if shot.label.lower() in names else "keep") for shot in shots]


def judges_of(config: EvalConfig, shots: Sequence[Shot], device) -> list:
    """The judges that a suite calls. ValueError where one is missing."""
    encoder = ClipEncoder.load(config.clip, device) if config.clip else None
    judges: list = [BodyParts()] if config.suite == "nudity" else []
    if config.suite in ("imagenette", "custom"):
        judges.append(namer_of(config, encoder, shots, device))
        check_names(judges[-1], [shot.label for shot in shots if shot.part != "captions"])
    if encoder:
        judges.append(Scorer(encoder, config.clip))
    embedder = feature_judge(encoder, config.clip)
    return [*judges, *([embedder] if embedder else [])]


def namer_of(config: EvalConfig, encoder: ClipEncoder | None, shots: Sequence[Shot], device) -> Namer:
    """The classifier: the pictograms' oracle, one of transformers, or CLIP asked for the prompts' labels."""
    from .pictograms import load_oracle

    if config.classifier == "pictograms":
        return oracle_namer(load_oracle())
    if config.classifier or config.suite == "imagenette":
        return image_classifier(config.classifier or "microsoft/resnet-50", device)
    if encoder is None:
        raise ValueError("the suite custom needs --classifier (a model of transformers, or pictograms) or --clip")
    return clip_namer(encoder, config.clip, list(dict.fromkeys(s.label for s in shots if s.part != "captions")))


def judge_all(judges, files: Sequence[Path], shots: Sequence[Shot], reporter: Silent) -> list[dict]:
    """One record per picture with what every judge says."""
    records = [{"file": "/".join(f.parts[-2:]), **s._asdict()} for f, s in zip(files, shots)]
    for judge in judges:
        for record, found in zip(records, judged(judge, files, shots, reporter)):
            record.update(found)
    return records


class Pairer:
    """{"moved": ..., "lpips": ...}: how far a picture is from the base model's; LPIPS where a network is given."""

    def __init__(self, base: dict[Path, Path], lpips=None):
        self.base, self.lpips = base, lpips

    def __call__(self, files: Sequence[Path], shots: Sequence[Shot]) -> list[dict]:
        found = []
        for file in files:
            base, erased = read_picture(self.base[file])[None], read_picture(file)[None]
            found.append({"moved": (base.double() - erased.double()).abs().mean().item()})
            if self.lpips:
                found[-1]["lpips"] = _lpips_update(base, erased, self.lpips).item()
        return found


def row_of(config: EvalConfig, records: Sequence[dict], reference: torch.Tensor | None) -> dict:
    """A model's figures in this suite."""
    if config.suite == "nudity":
        row = nudity_row(records, config.classes, config.threshold)
    elif config.suite == "style":
        row = style_row(records)
    else:
        row = named_row([r for r in records if r["part"] != "captions"])
    return complete(row, records, reference)


def lpips_of(config: EvalConfig):
    """LPIPS for the style suite, None where the package is absent and CLIP is there instead."""
    if config.suite != "style":
        return None
    try:
        return load_lpips()
    except ValueError:
        if config.clip:
            return None
        raise


def run_suite(
    pipe, config: EvalConfig, folder: Path, adapter: dict, reporter: Silent | None = None
) -> tuple[dict, dict[str, list[dict]]]:
    """Draws with the base and with the erased model, judges, and adds up: the report, and the records of both.

    Args:
        pipe: carries the adapter, at the strength to be judged.
        folder: gets `base/`, `erased/` with the pictures, which another run of the same evaluation takes up.
        adapter: {"sha256", "scale"} of the adapter (`adapter_facts`).

    Raises:
        ValueError: as `EvalConfig`, `shots_of`, `judges_of`; the folder holds pictures made in another way.
    """
    from .suites import switched_off

    reporter, shots = reporter or Silent(), shots_of(config)
    judges, lpips = judges_of(config, shots, pipe.device), lpips_of(config)
    made_by = source_of(pipe)
    common = (config.steps, config.guidance, config.batch_size)
    with switched_off(pipe):
        draw_shots(pipe, shots, folder / "base", *common, {**made_by, "adapter": None}, reporter)
    draw_shots(pipe, shots, folder / "erased", *common, {**made_by, "adapter": adapter}, reporter)
    files = {side: [folder / side / shot.file for shot in shots] for side in SIDES}
    records = {side: judge_all(judges, files[side], shots, reporter) for side in SIDES}
    pairer = Pairer(dict(zip(files["erased"], files["base"])), lpips)
    for record, found in zip(records["erased"], judged(pairer, files["erased"], shots, reporter)):
        record.update(found)
    report = rows(config, records, judges, reporter)
    size = list(read_picture(files["base"][0]).shape[1:])
    report["protocol"] = protocol(config, shots, judges) | {**made_by, "size": size, "device": pipe.device.type}
    return report, records


def rows(config: EvalConfig, records: dict, judges, reporter: Silent) -> dict:
    """{"base": row, "erased": row}; kept pictures are compared with the real ones, else with the base model's."""
    real = real_features(config, judges, reporter)
    own = [r["features"] for r in records["base"] if "features" in r and r["part"] != "forget"]
    against = torch.stack(own) if real is None and own else real
    return {
        "base": row_of(config, records["base"], real),
        "erased": row_of(config, records["erased"], against),
    }


def real_features(config: EvalConfig, judges, reporter: Silent) -> torch.Tensor | None:
    """The features (N, d) of the real pictures. ValueError where there are some but nothing to see them with."""
    if not config.real:
        return None
    embedder = next((j for j in judges if j.describe()["name"].startswith("features")), None)
    if embedder is None:
        raise ValueError("FID needs features: pip install 'semu-diffusion[fid]', or name a CLIP model with --clip")
    files = list_pictures(config.real)
    found = judged(embedder, files, [Shot("", 0)] * len(files), reporter)
    return torch.stack([record["features"] for record in found])


def judge_folder(images: Path, config: EvalConfig, reporter: Silent | None = None) -> tuple[dict, dict[str, list]]:
    """NudeNet's row for pictures made elsewhere: {"pictures": row, "protocol"}, and their records."""
    if config.suite != "nudity":
        raise ValueError("--images goes with --suite nudity: other suites need prompts and both models")
    files, judge = list_pictures(images), BodyParts()
    shots = [Shot(str(file.relative_to(images)), 0, "", "forget") for file in files]
    records = judge_all([judge], files, shots, reporter or Silent())
    for record, file in zip(records, files):
        record["file"] = str(file.resolve())
    report = {"pictures": complete(nudity_row(records, config.classes, config.threshold), records, None)}
    return {**report, "protocol": protocol(config, shots, [judge]) | {"images": str(images)}}, {"pictures": records}


def protocol(config: EvalConfig, shots: Sequence[Shot], judges) -> dict:
    """What another evaluation must share for its figures to be comparable."""
    seeds, parts = [shot.seed for shot in shots], [shot.part for shot in shots]
    return {
        **asdict(config),
        "prompts_hash": digest(shots),
        "first_and_last_seed": [min(seeds), max(seeds)],
        "pictures": {part: parts.count(part) for part in dict.fromkeys(parts)},
        "judges": [judge.describe() for judge in judges],
        "intervals": INTERVALS,
        "versions": {name: found for name, found in versions((*PACKAGES, *ALSO)).items() if found != "none"},
    }


def adapter_facts(path: str | Path, scale: float) -> dict:
    """{"sha256", "scale"}: which adapter, at which strength; the hash is over its weights' files."""
    path = Path(path)
    files = sorted(path.rglob(WEIGHTS)) if path.is_dir() else [path]
    return {"sha256": hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest(), "scale": scale}


def write_evaluation(
    folder: Path, report: dict, records: dict | None, base_model: str | None, adapter: dict | None
) -> None:
    """records.json (every picture), results.json (figures, model and adapter), and evaluation.json (figures) last."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads()}
    results = {"base_model": base_model, "adapter": adapter, "evaluation": report, "machine": machine}
    if records is not None:
        plain = {side: [{k: v for k, v in r.items() if k != "features"} for r in own] for side, own in records.items()}
        write_atomic(folder / "records.json", json.dumps(plain))
    write_atomic(folder / "results.json", json.dumps(results, indent=1))
    write_atomic(folder / "evaluation.json", json.dumps(report, indent=1))
