"""Pictures with captions: imagefolder's metadata, texts beside pictures, datasets with other column names."""

import json
import resource

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value
from PIL import Image as Pictures

from semu_diffusion.inputs.collections import open_collection


def picture(file, colour="red"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Pictures.new("RGB", (8, 8), colour).save(file)


def captions(folder):
    return open_collection(folder).captions


def test_texts_beside_pictures(tmp_path):
    for name in ("a.png", "b.JPG", "c.webp", "d.png", "deep/e.png"):
        picture(tmp_path / name)
    texts = {"a.txt": "a tree\n", "b.TXT": "\ufeffan apple,\r\n red", "c.webp.txt": "a cat", "d.txt": " \n",
             "deep/e.caption": "a dog"}  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
    found = open_collection(tmp_path)
    assert found.captions == ["a tree", "an apple, red", "a cat", None, "a dog"] and not found.notes


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_as_imagefolder_has_it(tmp_path, kind):
    for name in ("a.png", "deep/b.png", "deep/c.png", "d.png"):
        picture(tmp_path / name)

    def write(file, rows):
        lines = [json.dumps({"file_name": f, "text": t}) for f, t in rows]
        if kind == "csv":
            lines = ["\ufeffFile_Name, Text", *(f'{f},"{t}"' for f, t in rows)]
        file.with_suffix(f".{kind}").write_text("\n".join(lines))

    write(tmp_path / "metadata", [("a.png", "a tree, green"), ("gone.png", "x"), ("./d.png", "")])
    write(tmp_path / "deep" / "metadata", [("b.png", "a dog")])
    (tmp_path / "a.txt").write_text("another one")
    (tmp_path / "deep" / "c.txt").write_text("a cat")
    found = open_collection(tmp_path)
    assert found.captions == ["a tree, green", None, "a dog", "a cat"]
    (note,) = found.notes
    assert (
        note.startswith("2 captions in") and "gone.png (line 3" in note.replace("line 2", "line 3") and "a.txt" in note
    )


def test_our_captions_are_those_of_datasets(tmp_path):
    from datasets import load_dataset

    rows = {"a.png": "a tree", "sub/b.png": "a dog"}
    for name in rows:
        picture(tmp_path / name)
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f, "text": t}) for f, t in rows.items())
    )
    theirs = load_dataset("imagefolder", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(theirs["text"]) == sorted(captions(tmp_path)) == ["a dog", "a tree"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metadata.csv", "name,text\na.png,x\n", "no column file_name"),
        ("metadata.csv", "file_name,words\na.png,x\n", "no column prompt or caption or text or label"),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": "x"}\n{"file_name": "a.png", "text": "y"}',
            "line 2: a.png has",
        ),
        ("metadata.jsonl", '{"file_name": "a.png", "text": ["x"]}', "line 1: the text is no text"),
        ("metadata.parquet", "x", "is not read"),
        ("a.txt", b"caf\xe9", "a.txt, line 1: not UTF-8"),
    ],
)
def test_captions_that_cannot_be_read(tmp_path, name, text, said):
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said):
        open_collection(tmp_path)


def test_two_metadata_files_and_a_way_out_of_the_folder(tmp_path):
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "secret.png")
    (tmp_path / "in" / "metadata.csv").write_text("file_name,text\n../secret.png,x\na.png,y\n")
    found = open_collection(tmp_path / "in")
    assert found.captions == ["y"] and "../secret.png" in found.notes[0]
    (tmp_path / "in" / "metadata.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="both metadata.csv and metadata.jsonl"):
        open_collection(tmp_path / "in")


def test_pictures_that_are_not_read_are_counted(tmp_path):
    picture(tmp_path / "a.png")
    for name in ("b.heic", "c.AVIF", "._d.heic"):
        (tmp_path / name).write_bytes(b"x")
    assert "2 pictures in" in open_collection(tmp_path).notes[0]
    (tmp_path / "a.png").rename(tmp_path / "a.heic")
    with pytest.raises(ValueError, match="no pictures in"):
        open_collection(tmp_path)


def test_more_pictures_than_files_may_be_open(tmp_path):
    for k in range(80):
        picture(tmp_path / f"{k:03d}.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(f.name) for f in __import__("pathlib").Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        found = open_collection(tmp_path)
        pictures = [found.open(k) for k in range(len(found))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(pictures) == 80 and all(p.size == (8, 8) for p in pictures)


def dataset(folder, features, rows, name="train.parquet"):
    folder.mkdir(exist_ok=True)
    Dataset.from_dict(rows, features=Features(features)).to_parquet(folder / name)
    return str(folder)


def red():
    return Pictures.new("RGB", (4, 4), "red")


def test_datasets_with_other_column_names(tmp_path):
    source = dataset(tmp_path / "a", {"photo": Image(), "Caption": Value("string")},
                     {"photo": [red()] * 3, "Caption": ["a tree", None, " "]})  # fmt: skip
    found = open_collection(source)
    assert found.captions == ["a tree", None, None] and found.open(1).getpixel((0, 0)) == (255, 0, 0)
    source = dataset(tmp_path / "b", {"img": Image(), "mask": Image(), "label": ClassLabel(names=["cat", "dog"])},
                     {"img": [red()] * 3, "mask": [red()] * 3, "label": [1, 0, -1]})  # fmt: skip
    found = open_collection(source)
    assert found.captions == ["dog", "cat", None] and found.notes == ["captions: names of label"]
    source = dataset(tmp_path / "c", {"image": Image(), "text": Sequence(Value("string"))},
                     {"image": [red()], "text": [["one", "two"]]}, "validation.parquet")  # fmt: skip
    found = open_collection(source)
    assert found.captions == ["one"] and "the first caption of several" in found.notes[0]


@pytest.mark.parametrize(
    ("features", "rows", "said"),
    [
        ({"text": Value("string")}, {"text": ["x"]}, "needs a column of pictures, and has none; its columns: text"),
        ({"a": Image(), "b": Image()}, {"a": [None], "b": [None]}, r"has several \(a, b\)"),
    ],
)
def test_datasets_without_pictures(tmp_path, features, rows, said):
    with pytest.raises(ValueError, match=said):
        open_collection(dataset(tmp_path / "a", features, rows))


def test_rows_of_datasets_are_named(tmp_path):
    features = {"image": Image(decode=False)}
    rows = {"image": [{"bytes": b"no picture", "path": None}, None]}
    found = open_collection(dataset(tmp_path / "a", features, rows))
    for k, said in ((0, "row 0 of .* is not a picture"), (1, "row 1 of .* holds no picture")):
        with pytest.raises(ValueError, match=said):
            found.open(k)


def test_pictures_of_datasets_stand_upright(tmp_path):
    exif = Pictures.Exif()
    exif[0x0112] = 6
    Pictures.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    rows = {"image": [{"bytes": (tmp_path / "x.jpg").read_bytes(), "path": "x.jpg"}]}
    found = open_collection(dataset(tmp_path / "a", {"image": Image(decode=False)}, rows))
    assert np.asarray(found.open(0)).shape == (8, 4, 3)


def test_sources_that_are_not_there(tmp_path):
    for source, said in (
        ("./nowhere", "no file or folder ./nowhere"),
        ("pictures.csv", "no file or folder pictures.csv"),
    ):
        with pytest.raises(ValueError, match=said):
            open_collection(source)
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is a single file; give the folder"):
        open_collection(tmp_path / "a.png")
    for name in ("train", "test"):
        dataset(tmp_path / "two", {"image": Image()}, {"image": [red()]}, f"{name}.parquet")
    assert len(open_collection(tmp_path / "two")) == 1
