"""Datasets by the library of that name: opened with errors in one line, pictures decoded by our own reader."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .pictures import open_picture
from .tables import PROMPT, is_table

PICTURES = ("image", "img", "picture", "pixel_values", "jpg", "png", "webp")
LABELS = ("label", "labels", "fine_label", "target")


def library():
    """The datasets package. ValueError where it is not installed."""
    try:
        import datasets
    except ImportError:
        raise ValueError("data sets need the datasets package: pip install 'semu-diffusion[data]'") from None
    datasets.disable_progress_bars()
    return datasets


def load(*args, **kwargs):
    """`datasets.load_dataset`. ValueError, in one line, for whatever it raises."""
    try:
        return library().load_dataset(*args, **kwargs)
    except ValueError as error:
        said = error
    except Exception as error:  # the library raises a dozen kinds, from ConnectionError to its own
        said = error
    raise ValueError(" ".join(str(said).split())[:300]) from None


def load_splits(source: str):
    """The DatasetDict of a parquet file, a folder of parquet files or pictures, or a Hub id."""
    library()
    path = Path(source)
    try:
        if path.is_file():
            return load("parquet", data_files={"train": str(path)})
        files = {f.stem.split("-")[0]: str(path / f"{f.stem.split('-')[0]}*.parquet") for f in path.glob("*.parquet")}
        if files:
            return load("parquet", data_files=files)
        return load("imagefolder", data_dir=source) if path.is_dir() else load(source)
    except ValueError as error:
        raise ValueError(f"cannot read the data {source!r}: {error}") from None


def load_split(source: str):
    """One split of a dataset: `name` (its training split, or its only one), `name:split`, or a parquet file or folder.

    Raises:
        ValueError: nothing there, no such split, or the package is absent.
    """
    library()
    name, split = (source, "") if Path(source).exists() else source.partition(":")[::2]
    local = name.startswith((".", "/", "~")) or name.count("/") > 1 or is_table(name)
    if local and not Path(name).exists():
        raise ValueError(f"there is no file or folder {name}")
    splits = load_splits(name)
    wanted = split or next((n for n in ("train", "training") if n in splits), next(iter(splits)))
    if wanted not in splits or (not split and wanted not in ("train", "training") and len(splits) > 1):
        raise ValueError(f"{name} has the splits {', '.join(splits)}; name one as {name}:{next(iter(splits))}")
    return splits[wanted]


def kinds(split) -> dict[str, str]:
    """What each column holds: "picture", "label" (a ClassLabel), or "" for anything else."""
    found = {}
    for name, kind in split.features.items():
        encoded = isinstance(kind, dict) and "bytes" in kind  # pictures of a parquet file that lost its header
        binary = getattr(kind, "dtype", "") in ("binary", "large_binary") and name.lower() in PICTURES
        picture = type(kind).__name__ == "Image" or encoded or binary
        found[name] = "picture" if picture else "label" if type(kind).__name__ == "ClassLabel" else ""
    return found


def picture_column(split, source: str) -> str:
    """The column of pictures, whatever its name. ValueError where there is none, or several and none is named so."""
    found = [name for name, kind in kinds(split).items() if kind == "picture"]
    usual = [name for name in found if name.strip().lower() in PICTURES]
    if len(found) == 1 or usual:
        return (usual or found)[0]
    what = f"several ({', '.join(found)}), none of them named {PICTURES[0]}" if found else "none"
    raise ValueError(f"{source} needs a column of pictures, and has {what}; its columns: {', '.join(split.features)}")


def caption_texts(split) -> tuple[list[str | None], list[str]]:
    """A caption or None for each row, from a column of texts, else the names of its classes; and what to say of it."""
    by_name, kind = {str(name).strip().lower(): name for name in split.features}, kinds(split)
    text = next((by_name[name] for name in PROMPT if name in by_name), None)
    label = next((name for name in kind if kind[name] == "label"), None)
    if text is None and label is None:
        return [None] * len(split), []
    if text is None:
        names = split.features[label].names
        return [names[k] if k is not None and k >= 0 else None for k in split[label]], [f"captions: names of {label}"]
    values = list(split[text])
    several = any(isinstance(value, list) and len(value) > 1 for value in values)
    values = [(value or [None])[0] if isinstance(value, list) else value for value in values]
    notes = [f"the first caption of several is taken of each picture (column {text})"] if several else []
    return [" ".join(str(value).split()) or None if value is not None else None for value in values], notes


def undecoded(split, picture: str):
    """The split, which gives its pictures as they are stored."""
    if type(split.features[picture]).__name__ != "Image":
        return split
    return split.cast_column(picture, library().Image(decode=False))


def stored_picture(value, name: str) -> Image.Image:
    """A picture as datasets store it, {"bytes", "path"} or bytes alone, through `open_picture`."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not value:
        raise ValueError(f"{name} holds no picture")
    return open_picture(value, name)
