"""The files of a Space: what they say, and that they start the page from their own folder."""

import os
import runpy
import sys
import types

import pytest
import yaml
from packaging.requirements import Requirement

import semu_diffusion
from semu_diffusion.app.desk import Model

pytest.importorskip("gradio", reason="no Gradio: pip install 'semu-diffusion[app]'")


@pytest.fixture
def space(tmp_path, semu):
    assert semu("app", "--export-space", tmp_path / "space") == (0, f"{tmp_path / 'space'}\n", "")
    return tmp_path / "space"


def test_it_has_what_a_space_needs(space):
    import gradio

    assert {p.name for p in space.iterdir() if p.name[0] != "."} == {"app.py", "requirements.txt", "README.md"}
    head = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (head["sdk"], head["app_file"], head["sdk_version"]) == ("gradio", "app.py", gradio.__version__)
    assert len(head["short_description"]) <= 60 and head["models"] == []
    ours = Requirement((space / "requirements.txt").read_text().splitlines()[0])
    assert ours.specifier.contains(semu_diffusion.__version__) and ours.extras == {"app", "nudenet"}


def test_it_starts_from_its_own_folder(space, monkeypatch):
    lent, launched = types.ModuleType("spaces"), []
    monkeypatch.setitem(sys.modules, "spaces", lent)
    monkeypatch.setattr("semu_diffusion.app.page.launch", lambda *given, **named: launched.append((given, named)))
    monkeypatch.setitem(vars(semu_diffusion.app), "launch", sys.modules["semu_diffusion.app.page"].launch)
    monkeypatch.chdir(space)
    runpy.run_path("app.py", run_name="__main__")
    assert launched == [((Model("pictograms"),), {"host": "0.0.0.0", "port": 7860})]


def test_jobs_borrow_a_gpu_where_the_space_lends_one(monkeypatch):
    from semu_diffusion.app.jobs import LONGEST, lent

    spaces, said = types.ModuleType("spaces"), []
    spaces.GPU = lambda duration: said.append(duration) or (lambda work: ("lent", work))
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    assert lent(print) is print and "SPACES_ZERO_GPU" not in os.environ
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert lent(print) == ("lent", print) and said == [LONGEST]


def test_only_what_a_space_has_is_opened_there(tmp_path, semu):
    status, _, err = semu("app", "--export-space", tmp_path / "space", "--model", tmp_path)
    assert status == 2 and "not on the Hub" in err and not (tmp_path / "space").exists()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").touch()
    assert semu("app", "--export-space", tmp_path / "used")[0] == 2
