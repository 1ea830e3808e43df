"""Running a suite over prompts: pictures, figures and protocol in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ...callbacks import Callback
from ...diffusion.concepts import COMMON, name_of
from ...diffusion.devices import execution_device
from ...diffusion.families import family_of, sampler_of
from ...diffusion.pipeline import switched_off
from ...diffusion.plain import plain
from ...inputs.pictures import list_pictures, read_picture
from ...metrics.clip import ClipEncoder
from ...metrics.nudity import EXPOSED, THRESHOLD, check_protocol
from ...metrics.perceptual import _lpips_update, load_lpips
from ...versions import PACKAGES, versions
from ..drawing import draw_shots, judged, source_of
from ..intervals import INTERVALS
from ..judges import BodyParts, Namer, Scorer, clip_namer, feature_judge
from ..prompts import Shot, digest, read_prompts
from ..scores import complete, mark_natural
from . import SUITES, nudity

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
    steps: int | None = None  # the pipeline's own, 50 at 7.5 for Stable Diffusion 1 and 2
    guidance: float | None = None
    batch_size: int = 8
    threshold: float = THRESHOLD
    classes: list[str] = field(default_factory=lambda: list(EXPOSED))

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise ValueError(f"unknown suite {self.suite!r}; known: pictograms, {', '.join(SUITES)}")
        if min(self.seeds, self.batch_size, *(n for n in (self.steps, self.limit) if n is not None)) < 1:
            raise ValueError("seeds, steps, batch-size and limit must be at least 1")
        check_protocol(self.classes, self.threshold)


def shots_of(config: EvalConfig, pipe=None) -> list[Shot]:
    """Everything that a suite draws.

    Args:
        pipe: whose tokenizers and vocabulary make the prompts of the suite wordings, or whose classes are the prompts.

    Raises:
        ValueError: prompts are missing, none of them shows what is erased, or one is no class of a model of classes.
    """
    suite = SUITES[config.suite]
    if config.prompts is None and suite.prompts is None:
        raise ValueError(f"the suite {config.suite} needs --prompts: a csv or text file, or the name of a dataset")
    captions = read_prompts(config.captions, "captions", config.limit) if config.captions else []
    shots = []
    if config.prompts is None or suite.also:
        shots += suite.prompts(config, pipe)
    if config.prompts is not None:
        given = read_prompts(config.prompts, "forget", config.limit, config.seeds)
        shots += named(given, config.concept) if suite.also else given
    found = (divided(shots, suite.concepts(config, pipe)) if suite.labelled else shots) + captions
    if pipe is not None and not (family := family_of(pipe)).reads_text:
        for shot in found:
            family.label(shot.prompt)
    return found


def named(shots: Sequence[Shot], concepts: Sequence[str]) -> list[Shot]:
    """The user's prompts as wordings of the one concept. ValueError where there are several and no label."""
    if len(concepts) > 1 and not all(shot.label for shot in shots):
        raise ValueError("several concepts are erased: --prompts need a column label that says which one is meant")
    return [s._replace(label=s.label or name_of(concepts[0]), group=s.group or "--prompts") for s in shots]


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
    """The judges that a suite calls, its own first. ValueError where one is missing."""
    encoder = ClipEncoder.load(config.clip, device) if config.clip else None
    judges = SUITES[config.suite].judges(config, encoder, shots, device)
    if encoder and not any(isinstance(judge, Namer) for judge in judges):  # for `natural` and `instead`
        labels = dict.fromkeys(shot.label for shot in shots if shot.label) or COMMON.subjects
        judges = [*judges, clip_namer(encoder, config.clip, list(labels))]
    scorer, embedder = encoder and Scorer(encoder, config.clip), feature_judge(encoder, config.clip)
    return [*judges, *(judge for judge in (scorer, embedder) if judge)]


def judge_all(judges, files: Sequence[Path], shots: Sequence[Shot], callback: Callback) -> list[dict]:
    """One record per picture with what every judge says."""
    records = [{"file": "/".join(f.parts[-2:]), **s._asdict()} for f, s in zip(files, shots)]
    for judge in judges:
        for record, found in zip(records, judged(judge, files, shots, callback)):
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


def lpips_of(config: EvalConfig):
    """LPIPS for a suite that compares by it, None where the package is absent and CLIP is there instead."""
    if not SUITES[config.suite].lpips:
        return None
    try:
        return load_lpips()
    except ValueError:
        if config.clip:
            return None
        raise


def with_sampler(config: EvalConfig, pipe) -> EvalConfig:
    """The config with the pipeline's own steps and guidance, where it names none."""
    own, steps, guidance = sampler_of(pipe), config.steps, config.guidance
    steps, guidance = own.steps if steps is None else steps, own.guidance if guidance is None else guidance
    return replace(config, steps=steps, guidance=guidance)


def run_suite(
    pipe, config: EvalConfig, folder: Path, adapter: dict, callback: Callback | None = None
) -> tuple[dict, dict[str, list[dict]]]:
    """Draws with the base and with the erased model, judges, and adds up: the report, and the records of both.

    Args:
        pipe: carries the adapter, at the strength to be judged.
        folder: gets `base/`, `erased/` with the pictures, which another run of the same evaluation takes up.
        adapter: {"sha256", "scale"} of the adapter (`results.adapter_facts`).

    Raises:
        ValueError: as `EvalConfig`, `shots_of`, `judges_of`; the folder holds pictures made in another way.
    """
    config = with_sampler(config, pipe)
    callback, shots = callback or Callback(), shots_of(config, pipe)
    notes = SUITES[config.suite].notes(config, pipe)
    for note in notes:
        callback.warn(f"left out, {note}")
    judges, lpips = judges_of(config, shots, execution_device(pipe)), lpips_of(config)
    made_by = source_of(pipe)
    common = (config.steps, config.guidance, config.batch_size)
    with plain(pipe) as off:
        with switched_off(pipe):
            draw_shots(pipe, shots, folder / "base", *common, {**made_by, "adapter": None}, callback)
        draw_shots(pipe, shots, folder / "erased", *common, {**made_by, "adapter": adapter}, callback)
    files = {side: [folder / side / shot.file for shot in shots] for side in SIDES}
    records = {side: judge_all(judges, files[side], shots, callback) for side in SIDES}
    pairer = Pairer(dict(zip(files["erased"], files["base"])), lpips)
    for record, found in zip(records["erased"], judged(pairer, files["erased"], shots, callback)):
        record.update(found)
    for record, before in zip(records["erased"], records["base"]):
        record.update({"named_before": before["named"]} if "named" in before else {})
    natural = mark_natural(records)
    report = rows(config, records, judges, callback)
    size = list(read_picture(files["base"][0]).shape[1:])
    made_by |= {"size": size, "device": execution_device(pipe).type, "natural": natural, "taken_off": off}
    made_by |= {"left_out": notes} if notes else {}
    report["protocol"] = protocol(config, shots, judges) | made_by
    return report, records


def rows(config: EvalConfig, records: dict, judges, callback: Callback) -> dict:
    """{"base": row, "erased": row}; kept pictures are compared with the real ones, else with the base model's."""
    real = real_features(config, judges, callback)
    own = [r["features"] for r in records["base"] if "features" in r and r["part"] != "forget"]
    against = torch.stack(own) if real is None and own else real
    references, row = {"base": real, "erased": against}, SUITES[config.suite].row
    return {side: complete(row(own, config), own, references[side]) for side, own in records.items()}


def real_features(config: EvalConfig, judges, callback: Callback) -> torch.Tensor | None:
    """The features (N, d) of the real pictures. ValueError where there are some but nothing to see them with."""
    if not config.real:
        return None
    embedder, files = embedder_of(judges), list_pictures(config.real)
    found = judged(embedder, files, [Shot("", 0)] * len(files), callback)
    return torch.stack([record["features"] for record in found])


def embedder_of(judges):
    """The judge whose features FID is taken over. ValueError where there is none."""
    embedder = next((j for j in judges if j.describe()["name"].startswith("features")), None)
    if embedder is None:
        raise ValueError("FID needs features: pip install 'semu-diffusion[fid]', or name a CLIP model with --clip")
    return embedder


def judge_folder(images: Path, config: EvalConfig, callback: Callback | None = None) -> tuple[dict, dict[str, list]]:
    """NudeNet's row for pictures made elsewhere: {"pictures": row, "protocol"}, and their records."""
    if config.suite != "nudity":
        raise ValueError("--images goes with --suite nudity: other suites need prompts and both models")
    files, judge = list_pictures(images), BodyParts()
    shots = [Shot(str(file.relative_to(images)), 0, "", "forget") for file in files]
    records = judge_all([judge], files, shots, callback or Callback())
    for record, file in zip(records, files):
        record["file"] = str(file.resolve())
    report = {"pictures": complete(nudity.row(records, config), records, None)}
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
