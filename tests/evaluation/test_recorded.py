"""Reports and verification of folders by strangers: nothing from outside, and any damage in one line."""

import json
import os
import random
import shutil
import struct
import zlib

import pytest
from mutation import mutate_json
from PIL import Image

from semu_diffusion.evaluation.charts import loss_chart
from semu_diffusion.evaluation.recorded import inside
from semu_diffusion.evaluation.report import write_report_page
from semu_diffusion.evaluation.verification import compare, measure_again, read_results
from semu_diffusion.hub.card import plain, write_card

MUTATIONS = 300
TRAINING = {"steps": 4, "trained": 9, "trained_percent": 0.5, "left": 0.25, "seconds": 1.5}
ROW = {"UA": 95.0, "IRA": 90.0, "per_concept": {"cigarette": 5.0, "dog": 92.5}, "intervals": {"UA": [80.5, 99.1]},
       "counts": {"forget": 2, "keep": 2}}  # fmt: skip
PROTOCOL = {"suite": "pictograms", "concepts": {"cigarette": "object"}, "seeds_forget": 1, "seeds_keep": 1,
            "sampler": "DDIMScheduler", "steps": 2, "guidance": 3.0, "versions": {"torch": "2"}}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Results with four pictures, beside a private one."""
    folder = tmp_path / "folder"
    records = {side: [] for side in ("base", "erased")}
    for side in records:
        (folder / side).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8), (60 * i, 90, 0)).save(folder / side / f"{i}.png")
            records[side].append({"file": f"{side}/{i}.png", "part": "forget", "label": f"dog {i}", "detections": []})
    results = {"base_model": "a/b", "options": {"concept": ["cigarette"], "steps": 4}, "training": TRAINING,
               "history": [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}], "adapter": {"ranks": {"conv_in": 3}},
               "evaluation": {"base": ROW, "erased": ROW, "protocol": PROTOCOL}}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "records.json").write_text(json.dumps(records))
    Image.new("RGB", (8, 8), (200, 0, 200)).save(tmp_path / "private.png")
    return folder


def name_picture(folder, name):
    records = json.loads((folder / "records.json").read_text())
    records["erased"][0]["file"] = name
    (folder / "records.json").write_text(json.dumps(records))


def bomb(side):
    """A PNG of a few hundred bytes that says it has side x side pixels."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def relink(file, target):
    file.unlink()
    file.symlink_to(target)


HOSTILE = {
    "absolute": (lambda f: name_picture(f, str(f.parent / "private.png")), "is not within"),
    "above": (lambda f: name_picture(f, "../private.png"), "is not within"),
    "above, hidden": (lambda f: name_picture(f, "base/../../private.png"), "is not within"),
    "number": (lambda f: name_picture(f, 5), "not as semu writes it"),
    "nul": (lambda f: name_picture(f, "a\0b"), "not as semu writes it|missing"),
    "folder": (lambda f: name_picture(f, "base"), "no regular file"),
    "link": (
        lambda f: ((f / "erased/0.png").unlink(), (f / "erased/0.png").symlink_to("../../private.png")),
        "is a link",
    ),
    "linked folder": (lambda f: (shutil.rmtree(f / "erased"), (f / "erased").symlink_to(f.parent)), "is a link"),
    "fifo": (lambda f: ((f / "erased/0.png").unlink(), os.mkfifo(f / "erased/0.png")), "no regular file"),
    "bomb": (lambda f: (f / "erased/0.png").write_bytes(bomb(30_000)), "pixels"),
    "huge bomb": (lambda f: (f / "erased/0.png").write_bytes(bomb(2**30)), "pixels|damaged"),
    "cut": (lambda f: (f / "erased/0.png").write_bytes(bomb(9)), "damaged"),
    "records a fifo": (lambda f: ((f / "records.json").unlink(), os.mkfifo(f / "records.json")), "no regular file"),
    "records a link": (
        lambda f: ((f / "records.json").unlink(), (f / "records.json").symlink_to("results.json")),
        "link",
    ),
    "results a fifo": (lambda f: ((f / "results.json").unlink(), os.mkfifo(f / "results.json")), "no regular file"),
    "results a list": (lambda f: (f / "results.json").write_text("[1]"), "holds no results"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_from_outside(case, folder, semu):
    import re

    change, expected = HOSTILE[case]
    change(folder)
    status, out, err = semu("report", folder)
    assert status == 2 and out == "" and len(err.splitlines()) == 1 and re.search(expected, err), err
    assert not (folder / "report.html").exists()


def test_a_sheet_that_is_a_link(folder, semu):
    (folder / "records.json").unlink()
    (folder / "before_after.png").symlink_to("../private.png")
    assert semu("report", folder)[0] == 2
    (folder / "before_after.png").unlink()
    (folder / "before_after.png").write_text("<svg>")
    assert semu("report", folder)[0] == 2


def test_the_page_is_not_written_through_a_link(folder, tmp_path):
    for name in ("report.html.tmp", "report.html"):
        (folder / name).symlink_to(tmp_path / "private.png")
    before = (tmp_path / "private.png").read_bytes()
    assert write_report_page(folder).read_text().startswith("<!doctype html>")
    assert (tmp_path / "private.png").read_bytes() == before and not (folder / "report.html").is_symlink()


def test_pictures_elsewhere_are_shown_when_asked_for(folder, tmp_path, semu):
    name_picture(folder, str((tmp_path / "private.png").resolve()))
    assert "those of --images" in semu("report", folder)[2]
    assert semu("report", folder, "--images", tmp_path)[0] == 0
    assert "conv_in: rank 3" in (folder / "report.html").read_text()
    with pytest.raises(ValueError, match="is not within"):
        inside(folder, "/etc/hostname")


def test_damaged_results_end_in_one_line(folder, monkeypatch):
    """And never in another error; what would be drawn is not."""
    monkeypatch.setattr("semu_diffusion.evaluation.suites.pictograms.run_pictograms", lambda *_, **__: ({}, {}))
    monkeypatch.setattr("semu_diffusion.evaluation.verification.run_suite", lambda *_, **__: ({}, {}))
    rng, refused = random.Random(0), 0
    whole = {name: (folder / name).read_text() for name in ("results.json", "records.json")}
    for k in range(MUTATIONS):
        for name, text in whole.items():
            (folder / name).write_text(mutate_json(rng, text) if k % 2 == (name == "records.json") else text)
        for task in (write_report_page, verified, carded):
            try:
                task(folder)
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 1500
    assert refused > MUTATIONS / 4


def verified(folder):
    recorded = read_results(folder)["evaluation"]
    measure_again(None, recorded, {}, folder)
    compare(recorded, {"base": ROW, "erased": ROW})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"evaluation": 5}, "records no evaluation"),
        ({"evaluation": ["erased"]}, "records no evaluation"),
        ({"evaluation": {"pictures": {}}}, "of a folder of pictures"),
        ({"adapter": "x"}, "not as semu writes it"),
        ({"adapter": [1]}, "not as semu writes it"),
        ({"adapter": {"scale": "much"}}, "not as semu writes it"),
        ({"adapter": {"scale": None}}, "not as semu writes it"),
        ({"adapter": {"scale": -1}}, "scale must be a number"),
        ({"adapter": {"scale": float("nan")}}, "scale must be a number"),
        ({"base_model": ["x"]}, "these results were made with"),
    ],
    ids=str,
)
def test_verifying_results_of_other_types_is_one_line(change, said, folder, semu):
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**results, "base_model": None, **change}))
    status, out, err = semu("eval", "--verify", "nowhere", "--results", folder / "results.json", "--quiet")
    assert status == 2 and out == "" and len(err.splitlines()) == 1 and said in err and "unexpected" not in err, err


def carded(folder):
    from adapters import adapted_model

    from semu_diffusion.adapter.weights import save_adapter
    from semu_diffusion.evaluation.suites.pictograms import ROWS

    if not (folder / "adapter_config.json").exists():
        save_adapter(adapted_model("mlp"), folder, about={"base_model": "a/b", "concept": ["cat"]})
    results = json.loads((folder / "results.json").read_text())
    if isinstance(results, dict):
        write_card(folder, results, ROWS)


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "[a](javascript:x)", "# head\n# two", "a|b`c`", "![x](y)"]
)
def test_a_card_holds_plain_words(text, tmp_path):
    from adapters import adapted_model

    from semu_diffusion.adapter.weights import save_adapter

    save_adapter(adapted_model("mlp"), tmp_path, about={"base_model": f"x {text}", "concept": [text], "anchor": text})
    write_card(tmp_path, {"merged": [text, "b"], "weights": [1, 2], "base_model": text})
    card = (tmp_path / "README.md").read_text()
    assert text not in card and "<script" not in card and "](javascript" not in card and "![x]" not in card
    assert not set("<>[]`|#!*\n") & set(plain(text))


def test_a_dollar_is_no_formula(tmp_path):
    loss_chart([{"step": 1, "$x_$": 1.0, "$\\frac": 2.0}, {"step": 2, "$x_$": 2.0, "$\\frac": 1.0}], tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size[0] > 100
