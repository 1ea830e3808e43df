"""The report: one file that a browser opens without a network, with sliders that move and flagged pictures covered."""

import json
import re
import shutil

import pytest
import torch
from tiny import QUICK

from semu_diffusion.diffusion import EraseConfig, load_pipeline, run_erasure
from semu_diffusion.evaluation import report
from semu_diffusion.evaluation.pictures import write_picture

TITLE = "A <b>cat</b> & co"


def picture(hue: int, side: int = 64) -> torch.Tensor:
    """A plain colour with a dark disc."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    disc = (x**2 + y**2 < 0.4).float()
    return torch.stack([0.5 + 0.4 * torch.cos(torch.tensor(hue + k * 2.1)) - 0.2 * disc for k in range(3)]).clamp(0, 1)


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    """An erasure with an evaluation and pictures, of which the first is flagged and the last is large."""
    folder = tmp_path_factory.mktemp("report") / "out"
    run_erasure(load_pipeline(str(tiny_model)), EraseConfig(concept="cigarette", **QUICK), folder)
    records = {"base": [], "erased": []}
    for side in records:
        (folder / side).mkdir()
        for i in range(8):
            part, label = ("forget", "cigarette") if i < 3 else ("keep", TITLE if i == 3 else f"dog {i}")
            write_picture(picture(i + (side == "erased"), 500 if i == 7 else 64), folder / side / f"{i}.png")
            seen = [["FEET_EXPOSED", 0.4, [0, 0, 9, 9]]] if (side, i) == ("base", 0) else [["FACE_MALE", 0.9, [0] * 4]]
            records[side].append({"file": f"{side}/{i}.png", "part": part, "label": label, "detections": seen})
    row = {"UA": 0.0, "IRA": 100.0, "drift": None, "per_concept": {"cigarette": 100.0, "dog": 97.5}, "intervals": {}}
    erased = {**row, "UA": 95.0, "drift": 0.0123, "intervals": {"UA": [80.5, 99.1]}}
    erased["per_concept"] = {"cigarette": 5.0, "dog": 92.5}
    protocol = {"suite": "custom", "concept": ["cigarette"], "steps": 2, "versions": {"torch": "2"}, "limit": None}
    results = json.loads((folder / "results.json").read_text())
    results["evaluation"] = {"base": row, "erased": erased, "protocol": protocol}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "records.json").write_text(json.dumps(records))
    return folder


def test_the_page_holds_everything(folder, semu):
    assert semu("report", folder) == (0, f"{folder / 'report.html'}\n", "")
    page = (folder / "report.html").read_text()
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]*)""", page)
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert "http" not in page
    assert page.count("data:image/png") == 14 and page.count("data:image/webp") == 2
    assert "<b>cat" not in page and "A &lt;b&gt;cat&lt;/b&gt; &amp; co" in page
    assert page.count('class="stack flagged"') == page.count("Click to show") == 1
    assert "80.5 to 99.1" in page and "0.0123" in page and "versions.torch" in page and "cross-attention" in page
    assert len(re.findall(r'<i title="[^"]+: rank \d+"', page)) > 5 and "<polyline" in page


def test_without_blur_and_without_records(folder, tmp_path, semu):
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    assert semu("report", plain, "--no-blur")[0] == 0 and "Click to show" not in (plain / "report.html").read_text()
    (plain / "records.json").unlink()
    write_picture(picture(0), plain / "before_after.png")
    assert semu("report", plain)[0] == 0 and 'class="sheet" src="data:image/png' in (plain / "report.html").read_text()


def test_pictures_without_records_of_nudenet_are_looked_at(folder, tmp_path, monkeypatch):
    """A suite that does not call NudeNet has its pictures seen when the report is written."""
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    records = json.loads((plain / "records.json").read_text())
    for side in records.values():
        for record in side:
            del record["detections"]
    (plain / "records.json").write_text(json.dumps(records))
    seen = lambda self, files: [[("BELLY_EXPOSED", 0.3, [0] * 4)] if f.name == "5.png" else [] for f in files]  # noqa: E731
    monkeypatch.setattr(report.NudeNet, "__call__", seen)
    assert report.write_report_page(plain).read_text().count('class="stack flagged"') == 1


def test_what_is_not_there_is_said(folder, tmp_path, semu):
    status, _, err = semu("report", tmp_path)
    assert status == 2 and "no results.json in" in err and not [*tmp_path.iterdir()]
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken, ignore=shutil.ignore_patterns("report.html"))
    (broken / "base" / "1.png").write_text("no picture")
    status, _, err = semu("report", broken)
    assert status == 2 and "1.png" in err and not (broken / "report.html").exists()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 375)])
def test_in_chromium(folder, browser, scheme, width, tmp_path):
    file = report.write_report_page(folder)
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    images = page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(images) == 16 and min(images) == 64 and max(images) == 384
    assert errors == [] and all(url.startswith(("file:", "data:")) for url in requests)
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out on a phone
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) > 384) == (scheme == "light")

    stack = page.locator(".stack").nth(1)
    clip = lambda: stack.locator(".before").evaluate("e => getComputedStyle(e).clipPath")  # noqa: E731
    before = clip()
    box = stack.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 20)
    page.mouse.up()
    assert clip() != before and float(stack.locator("input").input_value()) > 80

    flagged = page.locator(".stack").first
    blur = lambda: flagged.locator("img").first.evaluate("e => getComputedStyle(e).filter")  # noqa: E731
    assert "blur" in blur()
    flagged.locator("button").click()
    assert blur() == "none" and flagged.locator("button").count() == 0 and errors == []
    page.close()


def test_bars_know_an_erased_style_by_its_bare_name():
    rows = report.bars({"erased": {"per_concept": {"Monet": 90.0, "Van Gogh": 1.0}}}, {"van gogh style"})["rows"]
    assert [(row["name"], row["gone"]) for row in rows] == [("Van Gogh", True), ("Monet", False)]
