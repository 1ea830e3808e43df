"""The table of many concepts: an adapter that is there is not trained again."""

import json

import pytest

from eval.pictograms.many import erased_folder
from semu_diffusion.diffusion import EraseConfig


@pytest.mark.parametrize("options, trained", [({"steps": 4}, False), ({"steps": 5}, True)])
def test_an_adapter_with_the_same_options_is_taken(options, trained, tmp_path, monkeypatch):
    """results.json has what the model and the concept made of options that were left open."""
    runs = []
    monkeypatch.setattr("semu_diffusion.diffusion.run_erasure", lambda *given, **named: runs.append(named))
    done = {**EraseConfig(concept=["dog"], steps=4).to_dict(), "strength": 0.25, "sampler_steps": 10}
    (tmp_path / "results.json").write_text(json.dumps({"options": done}))
    assert erased_folder(["dog"], options, tmp_path) == tmp_path and bool(runs) == trained
