"""The runs of the diffusion benchmark: what is edited how, what a run leaves behind, which settings are chosen.

The protocol, fixed before any reported run: every method has the same budget of model evaluations and the same search:
three values of one hyper-parameter crossed with two of another, once for each kind of prompts: a peer's own, as its
authors train it, and those of `semu erase`, the shared ones. All are tried on the first validation concept, the better
half of each kind on the second too; neither concept is reported. Of each kind the setting with the highest harmonic
mean of UA, IRA, CRA and natural is taken for all reported concepts and seeds: who forgets by ruining its pictures shall
not win the search by it. Both kinds are reported, the better one of the search with all seeds and in the headline.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..peers.diffusion import METHODS, Budget, edit
from ..records import write_json

REPORTED = ("knife", "dog", "cigarette", "rocket", "wine", "mushroom", "neon style", "blueprint style")
VALIDATION = ("guitar", "photo style")  # an object and a style
SCORES = ("UA", "unseen", "IRA", "CRA", "neighbours", "context", "natural", "FID", "drift")
COSTS = ("seconds", "peak_memory_mb", "evaluations", "trained", "trained_percent", "shipped_bytes")
TIMED = ("seconds", "peak_memory_mb")  # of the first seed alone: others may be of another machine
NEAR = 5.0  # points of IRA and of CRA below the base model's within which a method counts as keeping the rest
FORGETS = 90.0  # least UA, in percent, of a method that is worth an attack

Judge = Callable[[object, str], tuple[dict, dict]]  # (edited pipeline, concept) -> scores of the base, of the edited


@dataclass(frozen=True)
class Job:
    """One edit: which method on which concept, with which seed and settings, for the search or for the report."""

    phase: str
    method: str
    concept: str
    seed: int
    hyper: dict = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells this job from all others."""
        return json.dumps(asdict(self), sort_keys=True)


def job_of(row: dict) -> Job:
    """The job that a row came from."""
    return Job(*(row[name] for name in ("phase", "method", "concept", "seed", "hyper")))


def key_of(row: dict) -> str:
    """The key of that job."""
    return job_of(row).key


def settings(method: str, prompts: str | None = None) -> list[dict]:
    """Every setting of a method that is tried: its two hyper-parameters crossed, on these or all its prompts."""
    own = METHODS[method]
    kinds = own.prompts if prompts is None else (prompts,)
    grid = [dict(zip(own.search, values)) for values in itertools.product(*own.search.values())]
    return [{"prompts": kind, **hyper} for kind in kinds for hyper in grid] if kinds else grid


def search_jobs(methods: list[str], validation: list[str]) -> list[Job]:
    """Every setting of each method on the first validation concept."""
    return [Job("search", m, validation[0], 0, hyper) for m in methods for hyper in settings(m)]


def final_jobs(rows: list[dict], methods: list[str], validation: list[str]) -> list[Job]:
    """What was better on the first validation concept, on the others."""
    better = {m: finalists(rows, m, validation[0]) for m in methods}
    return [Job("search", m, c, 0, hyper) for m in methods for hyper in better[m] for c in validation[1:]]


def finalists(rows: list[dict], method: str, concept: str) -> list[dict]:
    """The half of a method's settings with the higher harmonic mean on a concept, of each kind of prompts.

    Raises:
        ValueError: a setting was not tried on it.
    """
    kinds = METHODS[method].prompts or (None,)
    halves = [sorted(settings(method, k), key=lambda h: -tried(rows, method, h, concept)) for k in kinds]
    return [hyper for half in halves for hyper in half[: math.ceil(len(half) / 2)]]


def tried(rows: list[dict], method: str, hyper: dict, concept: str) -> float:
    """The harmonic mean of a setting on a validation concept, 0 if it diverged."""
    key = Job("search", method, concept, 0, hyper).key
    found = next((row for row in rows if row["phase"] == "search" and key_of(row) == key), None)
    if found is None:
        raise ValueError(f"{method} with {hyper} was not tried on {concept}")
    return harmonic(found["scores"]) if "scores" in found else 0.0


def report_jobs(
    methods: list[str], concepts: list[str], seeds: list[int], chosen: dict[str, dict], others: dict[str, dict]
) -> list[Job]:
    """The chosen setting on every reported concept with every seed; seed by seed, so that early rows span all.

    `others` are the best settings with the other prompts, which are reported with the first seed, after its headline.
    """
    jobs = []
    for seed in seeds:
        jobs += [Job("report", m, c, seed, chosen[m]) for c in concepts for m in methods]
        if seed == seeds[0]:
            jobs += [Job("report", m, c, seed, others[m]) for c in concepts for m in methods if m in others]
    return jobs


def run_job(job: Job, load: Callable[[], object], judge: Judge, budget: Budget, models: Path | None = None) -> dict:
    """Edits a fresh pipeline and has it judged. A setting that diverges is a row with an `error` and no scores.

    Args:
        models: Folder for the edited denoisers of reported jobs, so that attacking them needs no second edit.
    """
    pipe = load()
    try:
        edited, cost = edit(job.method, pipe, job.concept, budget, job.seed, **job.hyper)
    except FloatingPointError as error:
        return {**asdict(job), "error": str(error)}
    if models and job.phase == "report":
        save_denoiser(edited.pipe, model_file(models, job))
    base, scores = judge(edited.pipe, job.concept)
    return {**asdict(job), "base": base, "scores": scores, "cost": cost}


def model_file(folder: Path, job: Job) -> Path:
    """Where the edited denoiser of a reported job is kept, whatever phase asks for it."""
    name = f"{job.method}-{job.concept}-{job.seed}".replace(" ", "-")
    return folder / f"{name}-{hashlib.sha256(replace(job, phase='report').key.encode()).hexdigest()[:8]}.safetensors"


def save_denoiser(pipe, path: Path) -> None:
    """The pipeline's denoiser with its adapters merged."""
    from semu_diffusion.adapter.weights import save_atomic
    from semu_diffusion.attacks.target import flatten
    from semu_diffusion.diffusion.pipeline import denoiser

    path.parent.mkdir(parents=True, exist_ok=True)
    merged = flatten(copy.deepcopy(denoiser(pipe))).state_dict()
    save_atomic({name: value.contiguous() for name, value in merged.items()}, path, {})


def harmonic(scores: dict) -> float:
    """Harmonic mean of UA, IRA, CRA and natural; 0 if one is 0."""
    values = [scores[k] for k in ("UA", "IRA", "CRA", "natural")]
    return statistics.harmonic_mean(values) if min(values) > 0 else 0.0


def choose(rows: list[dict], method: str, validation: list[str]) -> list[dict]:
    """The best setting with each kind of prompts, the better first: by the mean of the harmonic means over the
    validation concepts, of those that were tried on all of them.

    Raises:
        ValueError: one that should have been was not.
    """
    best: dict[str, tuple[float, dict]] = {}
    for hyper in finalists(rows, method, validation[0]):
        mean = statistics.fmean(tried(rows, method, hyper, c) for c in validation)
        kind = hyper.get("prompts", "")
        if kind not in best or mean > best[kind][0]:
            best[kind] = mean, hyper
    return [hyper for _, hyper in sorted(best.values(), key=lambda own: -own[0])]


# ------------------------------------------------------------------------------------------------- summary


def summary(rows: list[dict]) -> dict[str, dict]:
    """Per method: mean and 95 % bootstrap interval of each score over its reported rows, mean costs, the front.

    A method that was reported with both kinds of prompts is there twice: the better one under its name, the other as
    "name:prompts" (`split_name`), which is on no front.
    """
    reported = [row for row in rows if row["phase"] == "report"]
    found, first = {}, min((row["seed"] for row in reported), default=0)
    for method in dict.fromkeys(row["method"] for row in reported):
        for name, own in by_prompts(rows, method).items():
            found[name] = table_of(own, first)
    for name in pareto({name: own for name, own in found.items() if split_name(name)[1] is None}):
        found[name]["front"] = True
    return found


def by_prompts(rows: list[dict], method: str) -> dict[str, list[dict]]:
    """The reported rows of a method by name: those with its better prompts under its own.

    Better is what the search chose, which is reported with all seeds; with as many seeds, what scored higher there.
    """
    own = [row for row in rows if row["method"] == method]
    kinds: dict[str, list[dict]] = {}
    for row in own:
        if row["phase"] == "report":
            kinds.setdefault(row["hyper"].get("prompts", ""), []).append(row)
    if not kinds:
        return {}
    found = {k: [harmonic(r["scores"]) for r in own if r["phase"] == "search" and "scores" in r
                 and r["hyper"] == kinds[k][0]["hyper"]] for k in kinds}  # fmt: skip
    better = max(kinds, key=lambda k: (len(kinds[k]), statistics.fmean(found[k] or [0.0])))
    return {method if k == better else f"{method}:{k}": kinds[k] for k in sorted(kinds, key=lambda k: k != better)}


def split_name(name: str) -> tuple[str, str | None]:
    """A method and its other prompts, of "esd-x:shared"; None for its better ones, of "esd-x"."""
    method, _, prompts = name.partition(":")
    return method, prompts or None


def table_of(own: list[dict], first: int) -> dict:
    """The summary of some reported rows; time and memory are of the first seed alone."""
    whole = [row for row in own if "scores" in row]
    table = {"rows": len(own), "diverged": len(own) - len(whole), "hyper": own[0]["hyper"]}
    if whole:
        table |= {"scores": spread([r["scores"] for r in whole]), "base": spread([r["base"] for r in whole])}
        table["changes"] = spread([change(r) for r in whole])
        timed = [r for r in whole if r["seed"] == first] or whole
        table["cost"] = {k: statistics.fmean(r["cost"][k] for r in (timed if k in TIMED else whole)) for k in COSTS}
    return table


def change(row: dict) -> dict[str, float]:
    """IRA and CRA against the base model's on the same concept, and the mean of what is kept."""
    differences = {k: row["scores"][k] - row["base"][k] for k in ("IRA", "CRA")}
    return {**differences, "kept": (row["scores"]["IRA"] + row["scores"]["CRA"]) / 2}


def spread(rows: list[dict]) -> dict[str, dict]:
    """Mean and bootstrap interval of each number over rows; None is left out."""
    from semu_diffusion.evaluation.intervals import bootstrap

    names = [k for k in dict.fromkeys(k for row in rows for k in row) if k in (*SCORES, "kept")]
    values = {k: [row[k] for row in rows if row.get(k) is not None] for k in names}
    return {k: {"mean": statistics.fmean(v), "interval": bootstrap(v)} for k, v in values.items() if v}


def keeps(method: str, summary: dict) -> bool:
    """Whether a method's mean IRA and CRA stay within `NEAR` points of the base model's."""
    changes = summary.get(method, {}).get("changes", {})
    return bool(changes) and all(changes[k]["mean"] >= -NEAR for k in ("IRA", "CRA"))


def attackable(summary: dict) -> list[str]:
    """Methods that keep the rest and forget: an attack on others would say nothing new."""
    better = [m for m in summary if split_name(m)[1] is None]
    return [m for m in better if keeps(m, summary) and summary[m]["scores"]["UA"]["mean"] >= FORGETS]


def pareto(table: dict[str, dict]) -> list[str]:
    """Methods that no other beats in forgetting (UA), keeping (mean of IRA and CRA) and proper pictures (natural), by
    being as good in all three and better in one."""
    points = {name: [own["scores"]["UA"]["mean"], own["changes"]["kept"]["mean"], own["scores"]["natural"]["mean"]]
              for name, own in table.items() if "scores" in own}  # fmt: skip

    def beaten(own: list[float]) -> bool:
        return any(p != own and all(a >= b for a, b in zip(p, own)) for p in points.values())

    return [name for name, point in points.items() if not beaten(point)]


# ------------------------------------------------------------------------------------------------ the file


def fingerprint(folder: Path) -> str:
    """SHA-256 over the weights of a model folder: rows of another model do not belong into the same table."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.relative_to(folder).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def write(path: Path, head: dict, rows: list[dict]) -> None:
    """The results file, rows by their keys, and the summary."""
    rows = sorted(rows, key=key_of)
    write_json(path, {**head, "summary": summary(rows), "rows": rows})
