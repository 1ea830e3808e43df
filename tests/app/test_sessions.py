"""Visitors: what they may name, what they see, what is left of them."""

import json
import time

import pytest

from semu_diffusion.adapter.claims import BEGUN
from semu_diffusion.app.desk import Model
from semu_diffusion.app.look import checked, received, request_of
from semu_diffusion.app.sessions import Known, Visits, begun_options
from semu_diffusion.diffusion.loading_choices import Loading


@pytest.fixture
def served(tmp_path):
    return Visits(True, tmp_path / "kept", {"shown": Known(tmp_path / "shown")})


@pytest.fixture
def own(tmp_path):
    return Visits(False, tmp_path / "kept")


def test_where_others_are_served_no_path_can_be_typed(served, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "name").mkdir(parents=True)
    (tmp_path / "words.csv").write_text("prompt\na cat\n")
    for path in (tmp_path, tmp_path / "user" / "name", "user/name", "../..", "~", "/etc/passwd"):
        with pytest.raises(ValueError, match="is no id on the Hub"):
            served.place(str(path))
        with pytest.raises(ValueError, match="is no id on the Hub"):
            served.model(str(path), Model())
    for words in ("words.csv", "cat, words.csv", "/etc/passwd.txt", "./cat"):
        with pytest.raises(ValueError, match="files"):
            served.words(words)
    assert own.place("user/name") == (tmp_path / "user" / "name").relative_to(tmp_path)
    assert own.words("words.csv") == ["words.csv"] and served.words("Van Gogh style,  cat ") == [
        "Van Gogh style",
        "cat",
    ]


def test_models_are_loaded_as_the_host_says_but_not_with_the_hosts_right(served):
    host = Model("someone/theirs", "cpu", Loading(dtype="bf16", token="hf_host"))
    assert served.model("someone/theirs", host) == host
    assert served.model("pictograms", host) == Model("pictograms", "cpu", Loading(dtype="bf16"))
    assert served.model("a/b", host).loading.token is None


@pytest.mark.parametrize("text", ["", "  ", None, "x" * 400])
def test_what_is_typed_has_a_length(served, text):
    with pytest.raises(ValueError, match="name|at most 300"):
        served.words(text)


def test_visitors_are_apart(served, tmp_path):
    one, two = served.of("one"), served.of("two")
    name = one.add(tmp_path / "no-cat", "cat")
    assert name == one.add(tmp_path / "no-cat") and one.add(tmp_path / "x" / "no-cat") == "no-cat-2"
    assert [*two.adapters] == ["shown"] and served.of("one") is one and one.folder != two.folder
    with pytest.raises(ValueError, match="no adapter 'no-cat' here"):
        two.chosen(["shown", "no-cat"])
    with pytest.raises(ValueError, match="at most 4"):
        two.chosen(["shown"] * 5)
    assert one.keep.is_relative_to(one.folder) and one.new_folder("../../etc").parent == one.keep


def test_who_leaves_takes_the_files_along(served):
    visit = served.of("one")
    (visit.folder / "file").touch()
    served.close("one")
    served.close("nobody")
    for _ in range(100):
        if not visit.folder.exists():
            break
        time.sleep(0.01)
    assert not visit.folder.exists() and served.of("one") is not visit


def test_what_this_machines_user_erases_is_kept(own, tmp_path):
    visit = own.of("one")
    folder = visit.new_folder("no-cat")
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    own.close("one")
    assert own.of("another").chosen(["no-cat"])["no-cat"].place == folder
    assert own.of("another").new_folder("no-cat").name == "no-cat-2"


def test_the_run_that_was_stopped_last_is_found(own, tmp_path):
    visit = own.of("one")
    assert visit.begun() is None
    for k, name in enumerate(("a", "b")):
        (visit.keep / name / BEGUN).parent.mkdir(parents=True)
        (visit.keep / name / BEGUN).write_text(json.dumps({"model": "pictograms", "concept": [name], "seed": k}))
    assert begun_options(visit.begun()) == ("pictograms", {"concept": ["b"], "seed": 1})


def test_only_safetensors_are_received(tmp_path):
    for name in ("a.pt", "a.safetensors.bin", "a"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match="only .safetensors"):
            received(tmp_path, str(tmp_path / name))
    (tmp_path / "we ird%2f.safetensors").write_text("x")
    assert received(tmp_path, str(tmp_path / "we ird%2f.safetensors")) == tmp_path / "uploads" / "we-ird-2f.safetensors"


def test_what_is_drawn_at_once_is_bounded():
    assert request_of(" a  cat ", 3, 2, "", None).choices == {} and request_of("", 0, 1, "4", " 2.5").guidance == 2.5
    for values in (("a", 0, 99, "", ""), ("a", 0, 1, "1000", ""), ("a", 0, 1, "0", ""), ("x" * 2000, 0, 1, "", "")):
        with pytest.raises(ValueError, match="at most|longer"):
            request_of(*values)
    with pytest.raises(ValueError, match="steps must be a whole number, got 'many'"):
        request_of("a", 0, 1, "many", "")
    for weights in ([2.0], [-0.1], [float("nan")]):
        with pytest.raises(ValueError, match="strength"):
            checked(weights)
