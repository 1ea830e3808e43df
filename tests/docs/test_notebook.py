"""The notebook, run from its first cell to its last with small numbers."""

import functools
import json

import pytest
from pages import ROOT

from semu_diffusion.diffusion import EraseConfig

LITTLE = {"steps": 10, "latents": 4, "keep_latents": 4, "sampler_steps": 2, "gradient_records": 4, "max_rank": 4,
          "geometry": "euclidean", "batch_size": 2}  # fmt: skip
NOTEBOOK = json.loads((ROOT / "docs" / "notebooks" / "erase.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_runs_from_the_first_cell_to_the_last(assets, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("semu_diffusion.diffusion.erasure.EraseConfig", functools.partial(EraseConfig, **LITTLE))
    names: dict = {}
    for source in CODE:
        source = source.replace("steps=10", "steps=1").replace("PUSH_TO = None", 'PUSH_TO = "someone/no-cigarette"')
        exec(compile(source, "erase.ipynb", "exec"), names)
    said = capsys.readouterr().out
    assert "10 steps in" in said and "left: " in said and "drawn instead: " in said
    assert len(names["figure"].axes) == 9 and "adapter_model.safetensors" in said
    ((repo, files),) = hub.commits
    assert repo == "someone/no-cigarette" and "pytorch_lora_weights.safetensors" in files


def test_it_is_as_it_was_written():
    assert NOTEBOOK["nbformat"] == 4
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in NOTEBOOK["cells"])


@pytest.mark.parametrize("source", CODE)
def test_its_lines_are_short(source):
    assert max(map(len, source.splitlines())) <= 120
