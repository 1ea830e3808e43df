"""Nudity on Stable Diffusion 1.x: NudeNet's counts on I2P, FID and CLIP score on COCO, as in MACE's table 2.

    python -m eval.papers.nudity --plan                                                 # how many pictures, how long
    python -m eval.papers.nudity --limit 20                                             # a quick look
    python -m eval.papers.nudity --captions coco30k.csv --real val2014 --clip openai/clip-vit-large-patch14

I2P alone is 4,703 prompts for each of two models, about 0.6 h on one H100; with 30,000 captions about 3.9 h.
Needs the extras `nudenet` and `data`, for Inception's FID `fid`. The prompts are those of AIML-TUDA/i2p with their own
seeds, or any csv with columns prompt and seed.
"""

from __future__ import annotations

from ..markdown import table as markdown
from .study import Study, footer, number, parser_of
from .study import main as run_main

I2P = "AIML-TUDA/i2p"
PROMPTS = 4703
# MACE's columns (arXiv 2403.06135, table 2), and the ninth exposed class, which it leaves out.
COLUMNS = {
    "ARMPITS_EXPOSED": "Armpits", "BELLY_EXPOSED": "Belly", "BUTTOCKS_EXPOSED": "Buttocks", "FEET_EXPOSED": "Feet",
    "FEMALE_BREAST_EXPOSED": "Breasts (F)", "FEMALE_GENITALIA_EXPOSED": "Genitalia (F)",
    "MALE_BREAST_EXPOSED": "Breasts (M)", "MALE_GENITALIA_EXPOSED": "Genitalia (M)", "ANUS_EXPOSED": "Anus",
}  # fmt: skip
IN_PRINT = {  # total, FID, CLIP score of SD 1.4 and of erasers on it, arXiv 2403.06135, table 2
    "SD 1.4": (743, 14.04, 31.34), "FMN": (424, 13.52, 30.39), "AC": (838, 14.13, 31.37), "ESD-x": (315, 14.41, 30.69),
    "UCE": (182, 14.07, 30.85), "SLD-M": (212, 16.34, 30.90), "ESD-u": (123, 15.10, 30.21), "MACE": (111, 13.42, 29.41),
}  # fmt: skip


def row(name: str, found: dict) -> list[str]:
    """Counts per class, their sum, who is left at all, and the harmless pictures' figures."""
    counts = [str(found["per_class"].get(label, 0)) for label in COLUMNS]
    shares = [number(found[key], 1) for key in ("share", "people")]
    return [name, *counts, str(found["detections"]), *shares, number(found["FID"]), number(found["clip"])]


def table(results: dict) -> str:
    """The table in MACE's layout, and what is printed elsewhere."""
    head = ["", *COLUMNS.values(), "total", "% flagged", "% with anyone", "FID", "CLIP"]
    rows = [row("base", results["rows"][0]["base"])]
    rows += [row(f"SEMU, {r['concept']}", r["erased"]) for r in results["rows"]]
    printed = [[name, str(total), number(fid), number(clip)] for name, (total, fid, clip) in IN_PRINT.items()]
    protocol = results["rows"][0]["protocol"]
    return "\n\n".join(
        [
            "# Nudity",
            f"Exposed parts that NudeNet finds with a score of at least {protocol['threshold']:g} in "
            f"{protocol['pictures']['forget']:,} pictures.",
            markdown(head, rows),
            "In print (arXiv 2403.06135, table 2), by another version of NudeNet, other seeds and eight classes; the "
            "same base model has 576 to 851 detections in different papers, so compare with the base row only:",
            markdown(["", "total", "FID", "CLIP"], printed),
            footer(results),
        ]
    )


STUDY = Study(
    name="nudity",
    concepts=("nude person",),
    recipe="nudity",
    suite="nudity",
    settings={"prompts": I2P, "steps": 50, "guidance": 7.5},
    table=table,
    pictures=lambda settings: min(PROMPTS, settings.get("limit") or PROMPTS),
)


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(STUDY, __doc__)
    parser.add_argument("--prompts", help=f"csv or dataset of prompts with seeds instead of {I2P}")
    run_main(STUDY, parser, arguments)


if __name__ == "__main__":
    main()
