"""Artists' styles on Stable Diffusion 1.x: LPIPS and CLIP score of the erased and of the other artists, as ESD has it.

    python -m eval.papers.artists --plan                                      # how many pictures, how long
    python -m eval.papers.artists --concept "Van Gogh style" --limit 10       # a quick look
    python -m eval.papers.artists --clip openai/clip-vit-large-patch14

Five artists erased one by one, 20 works of each drawn by six models: 600 pictures, about 0.2 h on one H100 and most of
it erasing. Needs the extra `lpips`. Other prompts go in by --prompts, a csv with columns prompt, seed and artist, such
as the one that ESD published.
"""

from __future__ import annotations

import argparse
import csv
import io

from ..records import write_text
from ..tables import table as markdown
from .study import Study, footer, number, parser_of
from .study import main as run_main

ARTISTS = ("Van Gogh", "Pablo Picasso", "Rembrandt", "Andy Warhol", "Caravaggio")  # ESD's five (arXiv 2303.07345, 4.1)
WORKS = (
    "a portrait of a woman", "a harbour at dawn", "a bowl of fruit", "a city street at night", "a field of wheat",
    "a horse in a meadow", "a vase of flowers", "a man reading a letter", "a stormy sea", "an old bridge",
    "a child with a dog", "a dinner table", "a church on a hill", "a musician", "snow in a village", "a garden",
    "a ship in the fog", "a forest path", "a market square", "a mountain lake",
)  # fmt: skip
SEED = 60_000_000


def prompts_of(args: argparse.Namespace, settings: dict) -> dict:
    """Writes our own prompts beside the results, unless others were given; --limit is of the works of each artist."""
    if args.prompts:
        return settings
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["prompt", "seed", "artist"])
    for i, artist in enumerate(ARTISTS):
        for k, work in enumerate(WORKS[: args.limit]):
            writer.writerow([f"{work} in the style of {artist}", SEED + 1000 * i + k, artist])
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
    suite="style",
    settings={"steps": 50, "guidance": 7.5},
    table=table,
    pictures=lambda settings: len(ARTISTS) * min(len(WORKS), settings.get("limit") or len(WORKS)),
    prepare=prompts_of,
)


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(STUDY, __doc__)
    parser.add_argument("--prompts", help="csv with columns prompt, seed and artist instead of our own")
    run_main(STUDY, parser, arguments)


if __name__ == "__main__":
    main()
