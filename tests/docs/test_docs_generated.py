"""Pages and tables that programs write are what they write from the results files of today."""

import shutil
import sys

import pytest
from pages import GENERATED, ROOT

from eval import tables
from eval.cifar10 import page as cifar10
from eval.classification import report
from eval.pictograms import page as pictograms
from eval.scale import scaling

RESULTS = ROOT / "eval" / "results"
WRITERS = {
    "benchmark.md": (pictograms.main, "--results RESULTS --docs DOCS --readme DOCS/README.md"),
    "cifar10.md": (cifar10.main, "--results RESULTS --docs DOCS"),
    "classification.md": (report.main, "--results RESULTS/classification.json --output DOCS/classification.md"),
    "pictograms.md": (tables.main, "--output DOCS/pictograms.md"),
    "scaling.md": (scaling.main, "--counted RESULTS/counts.json --output DOCS/scaling.md"),
}


@pytest.mark.parametrize("name", GENERATED)
def test_pages_are_what_their_writers_write(name, tmp_path, monkeypatch):
    """With the tables in the README and in other pages that the same program fills."""
    main, words = WRITERS[name]
    (tmp_path / "images").mkdir()
    shutil.copyfile(ROOT / "README.md", tmp_path / "README.md")
    words = words.replace("DOCS", str(tmp_path)).replace("RESULTS", str(RESULTS)).split()
    monkeypatch.setattr(sys, "argv", ["program", *words])
    monkeypatch.chdir(ROOT)
    main()
    written = sorted(tmp_path.glob("*.md"))
    assert tmp_path / name in written
    for file in written:
        assert file.read_text() == (ROOT / ("." if file.name == "README.md" else "docs") / file.name).read_text()
