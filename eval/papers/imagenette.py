"""Imagenette on Stable Diffusion 1.x: each of the ten classes erased, UA and FID, as in SalUn's table.

    python -m eval.papers.imagenette --plan                                   # how many pictures, how long
    python -m eval.papers.imagenette --concept church --limit 2               # a quick look
    python -m eval.papers.imagenette --real imagenette2/train                 # all ten, 100 pictures per class

1,000 pictures for each of eleven models, about 0.9 h on one H100, erasing included. A ResNet-50 of ImageNet names the
pictures (`--classifier`); FID needs the extra `fid` or `--clip`. It is that of the nine other classes' pictures to the
real ones without the erased class, over 2,048 features: the FID that SalUn prints is over 64 features of pictures that
were wrapped round to 0, 1 and 255, so its figures (about 1) mean something else.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

from semu_diffusion.evaluation.prompts import IMAGENETTE

from ..markdown import table as markdown
from .study import Study, footer, number, parser_of
from .study import main as run_main

FOLDERS = dict(
    zip(
        IMAGENETTE,
        ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413",
         "n03445777", "n03888257"),
    )
)  # fmt: skip
SEEDS = 100  # pictures per class


def seeds_of(args: argparse.Namespace, settings: dict) -> dict:
    """--limit is of the pictures per class; the prompts are few."""
    settings = {k: v for k, v in settings.items() if k != "limit"}
    return {**settings, "seeds": min(settings["seeds"], args.limit or settings["seeds"])}


def next_class(concept: str) -> dict:
    """SalUn's target: the class after this one, after the last the first."""
    if concept not in IMAGENETTE:
        raise ValueError(f"{concept!r} is no class of Imagenette; known: {', '.join(IMAGENETTE)}")
    return {"anchor": IMAGENETTE[(IMAGENETTE.index(concept) + 1) % len(IMAGENETTE)]}


def real_others(args: argparse.Namespace, concept: str, folder: Path) -> str | None:
    """A folder of links to the real pictures of the nine other classes.

    Raises:
        ValueError: --real has no folder of a class.
    """
    if not args.real:
        return None
    real, links = Path(args.real), folder / "real"
    absent = [wnid for wnid in FOLDERS.values() if not (real / wnid).is_dir()]
    if absent:
        raise ValueError(f"{real} has no folder {absent[0]}; give the folder train or val of Imagenette")
    links.mkdir(parents=True, exist_ok=True)
    for name, wnid in FOLDERS.items():
        for file in sorted((real / wnid).iterdir()) if name != concept else ():
            link = links / f"{wnid}-{file.name}"
            if not link.exists():
                link.symlink_to(os.path.abspath(file))
    return str(links)


def table(results: dict) -> str:
    """A row per class, the mean last."""
    head = ["erased class", "UA", "FID", "IRA", "named before", "UA before", "FID before", "trained %", "s"]
    rows = []
    for r in results["rows"]:
        base, erased = r["base"], r["erased"]
        before = 100 - base["UA"]
        rows.append([before, erased["UA"], erased["FID"], erased["IRA"], base["IRA"], base["UA"], base["FID"],
                     r["training"]["trained_percent"], r["training"]["seconds"]])  # fmt: skip
    shown = [line(r["concept"], values) for r, values in zip(results["rows"], rows)]
    if len(rows) > 1:
        means = [statistics.fmean(column) if None not in column else None for column in zip(*rows)]
        shown.append(line("**mean**", means))
    per_class = results["settings"]["seeds"]
    return "\n\n".join(
        [
            "# Imagenette",
            f"{per_class} pictures per class. UA: % of the erased class that the classifier names otherwise; IRA: % of "
            "the nine others that it names right, before the erasure under \"named before\".",
            markdown(head, shown),
            footer(results),
        ]
    )  # fmt: skip


def line(name: str, values: list[float | None]) -> list[str]:
    """The cells of a row."""
    _, ua, fid, ira, ira_before, ua_before, fid_before, trained, seconds = values
    cells = [number(ua), number(fid), number(ira), number(ira_before), number(ua_before), number(fid_before)]
    return [name, *cells, number(trained), number(seconds, 0)]


STUDY = Study(
    name="imagenette",
    concepts=IMAGENETTE,
    recipe="imagenette",
    suite="imagenette",
    settings={"seeds": SEEDS, "steps": 50, "guidance": 7.5},
    table=table,
    pictures=lambda settings: len(IMAGENETTE) * min(settings["seeds"], settings.get("limit") or settings["seeds"]),
    options=next_class,
    prepare=seeds_of,
    real=real_others,
)


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(STUDY, __doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="pictures per class")
    parser.add_argument("--classifier", help="of transformers; default: microsoft/resnet-50")
    run_main(STUDY, parser, arguments)


if __name__ == "__main__":
    main()
