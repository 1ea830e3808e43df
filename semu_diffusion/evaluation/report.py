"""`semu report`: one HTML file with pictures before and after, figures, ranks and protocol; it needs no network."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..adapter.claims import problem, read_json, taken_as_written
from ..adapter.weights import WEIGHTS, write_atomic
from ..diffusion.blocks import block_of, depth_of
from ..hub.card import figure
from ..hub.contents import read_contents
from ..metrics.nudity import EXPOSED, NudeNet
from .charts import smooth
from .recorded import inside, open_picture, read_results_file
from .suites import rows_of

NAME = "report.html"
PARTS = {"forget": "Erased", "keep": "Kept", "captions": "Other prompts"}
PER_GROUP = 12  # pairs of pictures
SIDE = 384  # pixels; larger pictures are made smaller


def write_report_page(folder: str | Path, blur: bool = True, images: str | Path | None = None) -> Path:
    """Writes report.html into a folder that `semu erase` or `semu eval` wrote, and returns its path.

    Args:
        blur: cover pictures in which NudeNet sees an exposed part, until they are clicked. Recorded detections are
            used where there are any; else NudeNet looks at the pictures, where it is installed.
        images: the folder of pictures that `semu eval --images` judged; otherwise none outside of `folder` is shown.

    Raises:
        ValueError: no results there, damaged ones, or a picture of them is missing or not the folder's own.
    """
    from jinja2 import Environment, FileSystemLoader

    folder = Path(folder)
    results = read_results_file(folder)
    templates = FileSystemLoader(Path(__file__).parent)
    page = Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    with taken_as_written(folder / "results.json", folder / "records.json"):
        text = page.get_template(NAME).render(contents(folder, results, blur, images))
    write_atomic(folder / NAME, text)
    return folder / NAME


def contents(folder: Path, results: dict, blur: bool, images: str | Path | None = None) -> dict:
    """Everything that the template shows."""
    evaluation = results.get("evaluation") or {}
    protocol = evaluation.get("protocol", {})
    groups = {title: located(pairs, folder, images) for title, pairs in gallery(folder).items()}
    mark(groups, blur)
    concepts = protocol.get("concepts") or protocol.get("concept") or results.get("options", {}).get("concept") or []
    method = results.get("training", {}).get("method")
    made = f", made with {method}" if method else ""
    return {
        "title": f"Erasing {', '.join(concepts)}{made}" if concepts else "Evaluation",
        "model": results.get("base_model"),
        "groups": [{"title": title, "pairs": embed(pairs)} for title, pairs in groups.items()],
        "sheet": None if groups else sheet(folder),
        "figures": figures(evaluation),
        "bars": bars(evaluation, set(concepts)),
        "wordings": (evaluation.get("erased") or {}).get("per_wording"),
        "ranks": ranks(folder, results),
        "losses": losses(results.get("history") or []),
        "facts": flat({**results.get("training", {}), **{"options": results.get("options", {})}}, ("ranks", "energy")),
        "protocol": flat(protocol),
    }


def figures(evaluation: dict) -> list[dict]:
    """The rows of the table: key, meaning, both models' values, the second's interval."""
    rows = {
        "base": evaluation.get("base") or {},
        "erased": evaluation.get("erased") or evaluation.get("pictures") or {},
    }
    named = rows_of(evaluation.get("protocol", {}).get("suite"))
    found = []
    for key, meaning in named:
        values = [rows[side].get(key) for side in ("base", "erased")]
        values = [figure(value) if isinstance(value, dict) else value for value in values]
        interval = (rows["erased"].get("intervals") or {}).get(key)
        if values != [None, None]:
            found.append({"key": key, "meaning": meaning, "base": values[0], "erased": values[1], "interval": interval})
    return found


def bars(evaluation: dict, erased: set[str]) -> dict | None:
    """Per concept in percent, or per class in counts, before and after; None where the suite has neither."""
    after = evaluation.get("erased") or evaluation.get("pictures") or {}
    key = next((k for k in ("per_concept", "per_class") if after.get(k)), None)
    if key is None:
        return None
    before = (evaluation.get("base") or {}).get(key, {})
    gone = {word for name in erased for word in (name.lower(), name.lower().removesuffix(" style"))}
    top = 100 if key == "per_concept" else max([1, *before.values(), *after[key].values()])
    rows = [
        {"name": name, "base": before.get(name), "erased": value, "gone": key == "per_class" or name.lower() in gone}
        for name, value in after[key].items()
    ]
    title = "Recognised in % of its pictures" if key == "per_concept" else "Detections by class"
    return {"title": title, "top": top, "rows": sorted(rows, key=lambda row: not row["gone"])}


def gallery(folder: Path) -> dict[str, list[dict]]:
    """Group -> pairs {"title", "base", "erased", "detections"} with files, some of each group, as varied as can be."""
    file = folder / "records.json"
    if not file.exists() and not file.is_symlink():
        return {}
    records = read_json(inside(folder, "records.json"))
    after = records.get("erased") or records.get("pictures") or []
    before = records.get("base") or [None] * len(after)
    groups: dict[str, list[dict]] = {}
    for old, new in zip(before, after):
        title = new.get("label") or new.get("prompt") or ""
        seen = None if "detections" not in new else [*new["detections"], *((old or {}).get("detections") or [])]
        pair = {"title": title, "base": old and old["file"], "erased": new["file"], "detections": seen}
        groups.setdefault(new.get("group") or PARTS.get(new.get("part"), "Pictures"), []).append(pair)
    return {title: varied(pairs) for title, pairs in groups.items()}


def varied(pairs: Sequence[dict]) -> list[dict]:
    """At most twelve, the first of each title before the second of any."""
    seen: dict[str, int] = {}
    order = []
    for pair in pairs:
        seen[pair["title"]] = seen.get(pair["title"], 0) + 1
        order.append((seen[pair["title"]], len(order), pair))
    return [pair for *_, pair in sorted(order, key=lambda item: item[:2])][:PER_GROUP]


def located(pairs: Sequence[dict], folder: Path, images: str | Path | None) -> list[dict]:
    """The pairs with paths in place of names. ValueError for a picture that is not the folder's own."""

    def place(name: str | None) -> Path | None:
        if images and Path(name or "").is_absolute():
            return inside(Path(images).resolve(), os.path.relpath(name, Path(images).resolve()))
        return name and inside(folder, name)

    return [{**pair, **{side: place(pair[side]) for side in ("base", "erased")}} for pair in pairs]


def mark(groups: dict[str, list[dict]], blur: bool) -> None:
    """Sets "flagged" on pairs in which an exposed part was seen, at any score that NudeNet reports."""
    pairs = [pair for own in groups.values() for pair in own]
    unseen = [pair for pair in pairs if pair["detections"] is None]
    if blur and unseen:
        look(unseen)
    for pair in pairs:
        pair["flagged"] = blur and exposed(pair["detections"] or [])


def exposed(detections: Sequence[Sequence]) -> bool:
    """Whether a picture is to be covered: an exposed part was seen, at any score that NudeNet reports."""
    return any(label in EXPOSED for label, *_ in detections)


def look(pairs: Sequence[dict]) -> None:
    """Lets NudeNet see both pictures of each pair, where it is installed."""
    files = [(pair, pair[side]) for pair in pairs for side in ("base", "erased") if pair[side]]
    for (pair, _), detections in zip(files, seen([file for _, file in files]) or ()):
        pair["detections"] = [*(pair["detections"] or []), *detections]


def seen(pictures: Sequence) -> list | None:
    """What NudeNet sees in pictures, as `NudeNet` takes them; None where it is not installed."""
    try:
        return NudeNet()(pictures)
    except (ValueError, ImportError):
        return None


def embed(pairs: Sequence[dict]) -> list[dict]:
    """The pairs with their pictures as data addresses."""
    return [{**pair, **{side: pair[side] and data_uri(pair[side]) for side in ("base", "erased")}} for pair in pairs]


def data_uri(file: Path) -> str:
    """A picture in the page itself: small ones as they are, larger ones as WebP of at most 384 pixels."""
    with open_picture(file) as image:
        try:
            small, image = max(image.size) <= SIDE, image.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise problem(f"a picture of the results is damaged: {file} ({error})") from None
    return picture_uri(image, small)


def picture_uri(image: Image.Image, small: bool, side: int = SIDE) -> str:
    """An RGB picture as a data address: as it is where it is small, else as WebP of at most `side` pixels."""
    image.thumbnail((side, side))
    kind, buffer = "PNG" if small else "WEBP", io.BytesIO()
    image.save(buffer, kind, **({} if small else {"quality": 85}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def sheet(folder: Path) -> str | None:
    """before_after.png as it is, for results that list no pictures."""
    file = folder / "before_after.png"
    if not file.exists() and not file.is_symlink():
        return None
    with open_picture(inside(folder, file.name)) as image:
        if image.format != "PNG":
            raise problem(f"{file} is no PNG")
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def ranks(folder: Path, results: dict) -> dict | None:
    """{"top", "blocks": [{"name", "layers": [{"name", "rank"}]}]} of the adapter; None where they are not known."""
    if (folder / WEIGHTS).is_file():
        found = read_contents(folder).ranks
    else:
        found = {str(k): int(v) for k, v in ((results.get("adapter") or {}).get("ranks") or {}).items()}
    if not found:
        return None
    blocks: dict[str, list[dict]] = {}
    for name, rank in found.items():
        blocks.setdefault(block_of(name), []).append({"name": name, "rank": rank})
    total = sum(found.values())
    return {"top": max(found.values()), "total": total, "layers": len(found),
            "blocks": [{"name": name, "layers": blocks[name]} for name in sorted(blocks, key=depth_of)]}  # fmt: skip


def losses(history: Sequence[dict]) -> list[dict]:
    """{"name", "points", "first", "last"} per curve: SVG points in a box of 100 by 40, smoothed."""
    curves: dict[str, list[float]] = {}
    for row in history:
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                curves.setdefault(name, []).append(value)
    found = []
    for name, values in curves.items():
        line = smooth(values)
        low, high = min(line), max(line)
        if len(line) < 2 or not high - low < float("inf"):
            continue
        y = [40 - 38 * (v - low) / ((high - low) or 1) - 1 for v in line]
        points = " ".join(f"{100 * i / (len(line) - 1):.2f},{v:.2f}" for i, v in enumerate(y))
        found.append({"name": name, "points": points, "first": line[0], "last": line[-1]})
    return found


def flat(values: dict, without: Sequence[str] = (), prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text) rows."""
    found = []
    for key, value in values.items():
        if key in without or value in (None, "", [], {}):
            continue
        if isinstance(value, dict):
            found += flat(value, without, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)))
    return found
