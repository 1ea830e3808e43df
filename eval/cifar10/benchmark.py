"""Classes erased from a class-conditional DDPM on CIFAR-10: a search on two classes, then others, by ours and peers.

    python -m eval.cifar10.benchmark --bf16 --workers 2         # the embedded model and the judge beside it
    python -m eval.cifar10.benchmark --method ours --concept airplane --seeds 1 ...   # a part of it; nothing runs twice
    python -m eval.cifar10.benchmark --classifier FOLDER --output other.json          # another judge
    python -m eval.cifar10.page                                 # docs/cifar10.md from the results

The classifier judges everything. Of each method all settings are tried on the first validation class; where the best
has the largest or smallest learning rate, one further out is tried, at most twice. The better half is tried on the
second one, too, and of ours the best of both with larger bases. The best harmonic mean of UA, IRA and natural over both
is taken for all others, as who forgets by ruining pictures shall not win by it. The first of --concept have all methods
and seeds, every other class has ours with one.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from types import MethodType

from ..peers.diffusion import Budget, edit
from ..pictograms.benchmark import run_all
from ..pictograms.jobs import COSTS, Job, fingerprint, key_of, spread
from ..records import command, machine, make_parser, resumed, write_json
from .methods import ENTRIES, settings

VALIDATION = ("frog", "bird")
CONCEPTS = ("airplane", "cat")
CHOOSING = ("UA", "IRA", "natural")
FURTHER = 2  # times that a search goes on beyond the learning rates of its grid
BUDGET = Budget(guidance=2.5)


def searched(methods: list[str]) -> list[str]:
    """Those whose settings these take."""
    return list(dict.fromkeys(ENTRIES[m].like or m for m in methods))


def search_jobs(methods: list[str], concept: str) -> list[Job]:
    """Every setting of those methods that do not take over another's."""
    return [Job("search", m, concept, 0, hyper) for m in searched(methods) for hyper in settings(m)]


def reached(scores: dict[str, float]) -> float:
    """The harmonic mean of `CHOOSING`."""
    return statistics.harmonic_mean([scores[k] for k in CHOOSING])


def tried(rows: list[dict], method: str, concept: str) -> list[tuple[dict, float]]:
    """The settings of a method that were tried on a class, each with what it `reached`, 0 if it diverged; the best
    first; of equals always the same, in whichever order the rows come.
    """
    own = [row for row in rows if (row["phase"], row["method"], row["concept"]) == ("search", method, concept)]
    found = [(row["hyper"], reached(row["scores"]) if "scores" in row else 0.0) for row in own]
    return sorted(found, key=lambda pair: (-pair[1], json.dumps(pair[0], sort_keys=True)))


def further_jobs(rows: list[dict], methods: list[str], concept: str) -> list[Job]:
    """Of each method whose best setting has the smallest or largest learning rate, that setting with one further out.

    The models of the methods' papers, for which the grids were made, are others.
    """
    jobs = []
    for method in searched(methods):
        best, rates = choose(rows, method, [concept]), sorted({h["lr"] for h, _ in tried(rows, method, concept)})
        for edge, inner in ((rates[0], rates[1]), (rates[-1], rates[-2])) if len(rates) > 1 else ():
            if best["lr"] == edge:
                jobs.append(Job("search", method, concept, 0, {**best, "lr": float(f"{edge * edge / inner:.2g}")}))
    return jobs


def final_jobs(rows: list[dict], methods: list[str], validation: list[str]) -> list[Job]:
    """The better half of each method's settings on the first validation class, on the others."""
    half = {m: (own := tried(rows, m, validation[0]))[: math.ceil(len(own) / 2)] for m in searched(methods)}
    return [Job("search", m, c, 0, hyper) for m, own in half.items() for hyper, _ in own for c in validation[1:]]


def wider_jobs(rows: list[dict], methods: list[str], validation: list[str]) -> list[Job]:
    """Of each method the best setting with what is `wider`, on all validation classes."""
    best = {m: choose(rows, m, validation) for m in searched(methods) if ENTRIES[m].wider}
    return [
        Job("search", m, c, 0, {**h, **more}) for m, h in best.items() for more in ENTRIES[m].wider for c in validation
    ]


def choose(rows: list[dict], method: str, validation: list[str]) -> dict:
    """The setting that is best on average over the validation classes, with the method's own choices.

    Raises:
        ValueError: none was tried on all of them, or all diverged.
    """
    entry = ENTRIES[method]
    found = [tried(rows, entry.like or method, concept) for concept in validation]
    values = [(h, [v for own in found for other, v in own if other == h]) for h, _ in found[0]]
    whole = [(hyper, statistics.fmean(v)) for hyper, v in values if len(v) == len(validation) and any(v)]
    if not whole:
        raise ValueError(f"{method}: no setting of {len(values)} that were tried has scores")
    return {**max(whole, key=lambda pair: pair[1])[0], **entry.choices}


def report_jobs(methods: list[str], concepts: list[str], classes: list[str], seeds: int, chosen: dict) -> list[Job]:
    """Seed by seed, so that early rows span all; last the other classes, by ours alone."""
    jobs = [Job("report", m, c, seed, chosen[m]) for seed in range(seeds) for c in concepts for m in methods]
    others = [c for c in classes if c not in concepts] if "ours" in methods else []
    return jobs + [Job("report", "ours", c, 0, chosen["ours"]) for c in others]


# --------------------------------------------------------------------------------------------- a worker


def retained(args: argparse.Namespace, concept: str, many: int) -> str:
    """A folder of so many real training pictures of all other classes with their captions."""
    from PIL import Image

    from semu_diffusion.adapter.weights import write_atomic

    data = loaded(args.data)
    folder = args.workdir / f"retain-{fingerprint_of(args.data)}-{many}-{concept}"
    if (folder / "metadata.jsonl").is_file():
        return str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    gone, lines = data.classes.index(concept), []
    for k in (data.train.y != gone).nonzero().flatten().tolist()[:many]:
        Image.fromarray(data.train.x[k].permute(1, 2, 0).numpy()).save(folder / f"{k}.png")
        lines.append(json.dumps({"file_name": f"{k}.png", "text": data.classes[int(data.train.y[k])]}))
    write_atomic(folder / "metadata.jsonl", "\n".join(lines) + "\n")
    return str(folder)


@functools.cache
def loaded(source: str):
    """The pictures of this process."""
    from semu_diffusion.classification import load_data

    return load_data(source)


@functools.cache
def fingerprint_of(source: str) -> str:
    """SHA-256 over the pictures, labels and names: rows of other data do not belong into the same table."""
    data = loaded(source)
    digest = hashlib.sha256("\n".join(data.classes).encode())
    for tensor in (data.train.x, data.train.y, data.test.x, data.test.y):
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()[:16]


def opened(args: argparse.Namespace):
    """The model, its denoiser under bf16 autocast where asked for; as Accelerate does it, its outputs are float32."""
    import torch
    from accelerate.utils import convert_outputs_to_fp32

    from semu_diffusion.diffusion import load_pipeline

    pipe = load_pipeline(args.model, args.device)
    if args.bf16:
        cast = torch.autocast(pipe.device.type, torch.bfloat16)(type(pipe.unet).forward)
        pipe.unet.forward = MethodType(convert_outputs_to_fp32(cast), pipe.unet)
    return pipe


CACHE: dict = {}  # of this process: the judge, the base model's pictures, the features of real ones and their classes


def judge_of(args: argparse.Namespace, device="cpu"):
    """The classifier as a judge."""
    from semu_diffusion.classification import PictureJudge, load_classifier

    return PictureJudge(load_classifier(args.classifier)).to(args.device or device)


def judging(args: argparse.Namespace) -> tuple:
    """What is in the cache, made with the first row."""
    from safetensors.torch import load_file

    if not CACHE:
        pipe, data = opened(args), loaded(args.data)
        judge = judge_of(args, pipe.device)
        base = drawn(pipe, judge, data.classes, args.pictures, args.sampler_steps)
        CACHE["all"] = judge, base, load_file(args.real)["features"], data.train.y
    return CACHE["all"]


def real_features(args: argparse.Namespace) -> Path:
    """A file of the judge's features of the real training pictures, made once for all processes."""
    from semu_diffusion.adapter.weights import save_atomic

    from .judge import see

    data = loaded(args.data)
    file = args.workdir / f"real-{fingerprint_of(args.data)}-{fingerprint(Path(args.classifier))}.safetensors"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_atomic({"features": see(judge_of(args), data.train.x / 255, data.train.y).features}, file)
    return file


def judged(args: argparse.Namespace) -> dict:
    """What the judge is, and the share of real test pictures that it names right, in percent."""
    from .judge import see, share

    about, test = json.loads((Path(args.classifier) / "model.json").read_text()), loaded(args.data).test
    seen = see(judge_of(args), test.x / 255, test.y)
    right = share(seen.logits.argmax(1) == test.y)
    return {"model": about["model"], "width": about["arguments"]["width"], "pictures": len(test.y), "right": right}


def drawn(pipe, judge, names: list[str], pictures: int, steps: int):
    """What the judge sees in a model's pictures of all classes."""
    from semu_diffusion.diffusion import draw

    from .judge import asked, see

    prompts, seeds, labels = asked(names, pictures)
    return see(judge, draw(pipe, prompts, seeds, steps, BUDGET.guidance, 100), labels)


def work(job: Job, args: argparse.Namespace) -> dict:
    """A job in a worker process; a setting that diverges is a row with an `error` and no scores."""
    import torch

    from .judge import scores, sheet

    torch.set_num_threads(args.threads)
    entry, names = ENTRIES[job.method], loaded(args.data).classes
    more, budget = {}, args.budget
    if entry.retains:
        budget = replace(budget, keep_latents=budget.keep_latents // 2)
        more["retain_images"] = retained(args, job.concept, budget.keep_latents)
    try:
        edited, cost = edit(entry.method, opened(args), job.concept, budget, job.seed, **job.hyper, **more)
    except FloatingPointError as error:
        return {**asdict(job), "error": str(error)}
    judge, base, real, real_labels = judging(args)
    seen, k = drawn(edited.pipe, judge, names, args.pictures, args.sampler_steps), names.index(job.concept)
    if (job.phase, job.method, job.seed) == ("report", "ours", 0) and job.concept in args.concept:
        sheet(base, seen, names, args.sheets / f"cifar10-{job.concept}.png")
    rows = {"base": scores(k, base, base, real, real_labels), "scores": scores(k, seen, base, real, real_labels)}
    return {**asdict(job), **rows, "cost": cost}


# ---------------------------------------------------------------------------------------------- the file


def summary(rows: list[dict], concepts: list[str]) -> dict[str, dict]:
    """Per method over the classes that all have: mean and 95 % bootstrap interval of each score, and mean costs."""
    found = {}
    for method in ENTRIES:
        own = [r for r in rows if r["phase"] == "report" and r["method"] == method and r["concept"] in concepts]
        whole = [row for row in own if "scores" in row]
        if own:
            found[method] = {"rows": len(own), "diverged": len(own) - len(whole), "hyper": own[0]["hyper"]}
        if whole:
            cost = {k: statistics.fmean(row["cost"][k] for row in whole) for k in COSTS}
            found[method] |= {**{k: spread([r[k] for r in whole]) for k in ("base", "scores")}, "cost": cost}
    return found


def write(path: Path, head: dict, rows: list[dict], concepts: list[str]) -> None:
    """The results file, rows by their keys, and the summary."""
    rows = sorted(rows, key=key_of)
    write_json(path, {**head, "concepts": concepts, "summary": summary(rows, concepts), "rows": rows})


def line(row: dict) -> str:
    """A row for the terminal."""
    name = f"{row['phase']:<7} {row['method']:<20} {row['concept']:<12} seed {row['seed']}"
    shown = row.get("error") or "  ".join(f"{k} {v:.1f}" for k, v in row["scores"].items())
    return f"{name}  {shown}"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--model", default="cifar10", help="or a folder of scripts/build_cifar10_ddpm.py")
    add("--classifier", help="folder of a classifier of the same classes; default: the judge beside the model")
    add("--data", default="../shared/data/cifar10", help="folder of parquet files or pictures, or a Hub id")
    add("--concept", action="append", metavar="C", help=f"classes for all methods; default: {', '.join(CONCEPTS)}")
    add("--validation", action="append", metavar="C", help=f"classes of the search; default: {', '.join(VALIDATION)}")
    add("--method", action="append", choices=ENTRIES, help="only this one (repeatable)")
    add("--seeds", type=int, default=3, help="edits per method and class, seeds 0, 1, ...")
    add("--pictures", type=int, default=100, help="pictures per class and model")
    add("--sampler-steps", type=int, default=BUDGET.sampler_steps, help="of DDIM, for what is judged")
    add("--evaluations", type=int, default=BUDGET.evaluations, help="budget of each edit")
    add("--bf16", action="store_true", help="the denoiser under bf16 autocast; weights and losses stay in float32")
    add("--workers", type=int, default=1, help="edits at a time")
    add("--threads", type=int, default=1, help="torch threads of each worker")
    add("--device", help="cpu, cuda, ...")
    add("--workdir", type=Path, default=Path("build/cifar10"), help="folder for the real pictures that are kept")
    add("--sheets", type=Path, default=Path("docs/images"), help="folder for before and after of ours")
    add("--output", type=Path, default=Path("eval/results/cifar10.json"))
    return parser.parse_args(argv)


def checked(args: argparse.Namespace) -> None:
    """SystemExit for a folder that is not there, a class that there is none of, or one both searched and reported."""
    absent = next((folder for folder in (args.folder, args.classifier) if not Path(folder).is_dir()), None)
    if absent:
        raise SystemExit(f"error: {absent} is not there; scripts/build_cifar10_ddpm.py builds the model")
    try:
        names, concepts = loaded(args.data).classes, [*args.concept, *args.validation]
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    unknown = [c for c in concepts if c not in names]
    if unknown:
        raise SystemExit(f"error: {args.data} has no class {unknown[0]!r}; known: {', '.join(names)}")
    if both := sorted({*args.validation} & {*args.concept}):
        raise SystemExit(f"error: {both[0]} is a class of the search; give another --validation")


def main(argv: list[str] | None = None) -> None:
    from semu_diffusion.diffusion.pipeline import model_path
    from semu_diffusion.versions import versions

    args = parse_args(argv)
    args.folder = model_path(args.model)
    args.classifier = args.classifier or str(Path(args.folder) / "judge")
    args.concept, args.validation = args.concept or list(CONCEPTS), args.validation or list(VALIDATION)
    args.budget = replace(BUDGET, evaluations=args.evaluations)
    checked(args)
    methods = args.method or list(ENTRIES)
    protocol = {
        "model": fingerprint(Path(args.folder) / "unet"), "classifier": fingerprint(Path(args.classifier)),
        "data": fingerprint_of(args.data), "budget": asdict(args.budget), "pictures": args.pictures,
        "sampler_steps": args.sampler_steps, "validation": args.validation, "bf16": args.bf16,
    }  # fmt: skip
    place = machine(workers=args.workers, threads=args.threads, device=args.device or "cpu")
    head = {
        "command": command(), "protocol": protocol, "judge": judged(args), "versions": versions(), "machine": place,
    }  # fmt: skip
    rows = resumed(args.output, head, ("protocol",)).get("rows", [])
    args.real = real_features(args)  # before there are several processes
    run, save = functools.partial(work, args=args), functools.partial(write, args.output, head, rows, args.concept)
    run_all(search_jobs(methods, args.validation[0]), rows, run, save, args.workers, line)
    for _ in range(FURTHER):
        run_all(further_jobs(rows, methods, args.validation[0]), rows, run, save, args.workers, line)
    for jobs in (final_jobs, wider_jobs):
        run_all(jobs(rows, methods, args.validation), rows, run, save, args.workers, line)
    chosen = {m: choose(rows, m, args.validation) for m in methods}
    jobs = report_jobs(methods, args.concept, loaded(args.data).classes, args.seeds, chosen)
    run_all(jobs, rows, run, save, args.workers, line)
    save()  # with this command, also where earlier ones left nothing to run


if __name__ == "__main__":
    main()
