"""Artists' styles on Stable Diffusion 1.x: LPIPS and CLIP score of the erased and of the other artists, as ESD has it.

    python -m eval.papers.artists --plan                                      # how many pictures, how long
    python -m eval.papers.artists --concept "Van Gogh style" --limit 1        # a quick look
    python -m eval.papers.artists --clip openai/clip-vit-large-patch14

Five artists erased one by one, 20 pictures of each drawn by six models: 600 pictures, with the erasing about 0.2 h on
one H100. Needs the extra `lpips`. Other prompts go in by --prompts, a csv with columns prompt, seed and artist, such as
the one that ESD published.
"""

from __future__ import annotations

import argparse
import csv
import io

from semu_diffusion.diffusion.recipes import FOLDER

from ..markdown import table as markdown
from ..records import write_text
from .study import Study, footer, number, parser_of
from .study import main as run_main

PROMPTS = FOLDER / "artists.csv"  # five works of each of five artists
ARTISTS = ("Van Gogh", "Monet", "Picasso", "Rembrandt", "Andy Warhol")
WORKS, SEEDS = 5, 4


def limited(args: argparse.Namespace, settings: dict) -> dict:
    """--limit is of the works of each artist: those are written beside the results."""
    if args.prompts or not args.limit:
        return settings
    with open(PROMPTS, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = [row for artist in ARTISTS for row in [r for r in rows if r["artist"] == artist][: args.limit]]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    write_text(args.output / "prompts.csv", text.getvalue())
    return {k: v for k, v in settings.items() if k != "limit"} | {"prompts": str(args.output / "prompts.csv")}


def table(results: dict) -> str:
    """ESD's columns: the erased artist far from the base model's pictures, the others near them."""
    head = ["erased", "LPIPS erased ↑", "LPIPS others ↓", "CLIP erased ↓", "before", "CLIP others ↑", "before"]
    rows = []
    for r in results["rows"]:
        base, erased = r["base"], r["erased"]
        cells = [number(erased[key], 3) for key in ("LPIPS_forget", "LPIPS_keep")]
        cells += [number(side[key]) for key in ("clip_forget", "clip") for side in (erased, base)]
        rows.append([r["concept"], *cells])
    return "\n\n".join(
        [
            "# Artists' styles",
            "LPIPS is between the erased and the base model's pictures of the same prompt and seed.",
            markdown(head, rows),
            footer(results),
        ]
    )


STUDY = Study(
    name="artists",
    concepts=tuple(f"{artist} style" for artist in ARTISTS),
    recipe="artist",
    suite="style",
    settings={"prompts": str(PROMPTS), "seeds": SEEDS, "steps": 50, "guidance": 7.5},
    table=table,
    pictures=lambda settings: len(ARTISTS) * settings["seeds"] * min(WORKS, settings.get("limit") or WORKS),
    prepare=limited,
)


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(STUDY, __doc__)
    parser.add_argument("--prompts", help="csv with columns prompt, seed and artist instead of our own")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="pictures per prompt")
    run_main(STUDY, parser, arguments)


if __name__ == "__main__":
    main()
