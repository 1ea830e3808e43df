"""Output folders: one run at a time, only ours replaced, and no half files; JSON of strangers."""

import json
import os

import pytest
import torch
from shell import held_by_another

from semu_diffusion.adapter.claims import (
    MARKER,
    check_output,
    check_space,
    claimed,
    entries,
    filled,
    is_ours,
    read_json,
    remove_files,
)
from semu_diffusion.adapter.config import without_paths
from semu_diffusion.adapter.sealed import load_sealed, save_sealed


def test_a_second_process_is_refused_and_a_killed_one_lets_go(tmp_path):
    with held_by_another(tmp_path / "out"):
        with pytest.raises(ValueError, match="another run is writing into .*out; wait"), claimed(tmp_path / "out"):
            pass
        assert (tmp_path / "out" / MARKER).exists()  # the refused one took nothing away
    with claimed(tmp_path / "out"):
        (tmp_path / "out" / "a").write_text("mine")
    assert entries(tmp_path / "out") == ["a"] and is_ours(tmp_path / "out")


def test_a_claim_within_a_claim_and_one_that_writes_nothing(tmp_path):
    with claimed(tmp_path / "a" / "b"), claimed(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    for folder in ("empty", "mine"):
        with pytest.raises(KeyError), claimed(tmp_path / folder):
            raise KeyError
    assert [*tmp_path.rglob(MARKER)] == [] and (tmp_path / "empty").is_dir() and not is_ours(tmp_path / "mine")


@pytest.mark.parametrize("place", ["file/out", "/proc/out", "x" * 300])
def test_a_place_that_cannot_be_written(place, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="cannot write into .* give another --output"), claimed(tmp_path / place):
        pass


@pytest.mark.parametrize(
    ("file", "text", "ours"),
    [
        ("adapter_config.json", '{"peft_type": "SEMU"}', True),
        ("text_encoder/adapter_config.json", '{"peft_type": "SEMU"}', True),
        ("base/made_by.json", "{}", True),
        (".work/config.json", "{}", True),
        (MARKER, "", True),
        ("results.json", '{"base_model": "a", "evaluation": {}}', True),
        ("results.json", '{"accuracy": 1}', False),
        ("results.json", "[", False),
        ("adapter_config.json", '{"peft_type": "LORA"}', False),
        ("adapter_config.json", "[]", False),
        ("README.md", "# mine", False),
        ("gallery/mine.png", "", False),
    ],
)
def test_only_folders_of_ours_are_overwritten(file, text, ours, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    (tmp_path / "notes").write_text("mine")
    assert is_ours(tmp_path) == ours
    with pytest.raises(ValueError, match="is not empty; use --overwrite"):
        check_output(tmp_path, False)
    if ours:
        assert check_output(tmp_path, True) == tmp_path
        return
    with pytest.raises(ValueError, match="holds what semu did not write .such as .*another --output"):
        check_output(tmp_path, True)


def test_what_killed_runs_leave_goes_and_nothing_else(tmp_path):
    left = [".tmpAb3dE9", "adapter_model.safetensors.tmp", "results.json.tmp", "loss.png.tmp",
            "base/3-0123456789ab.png.tmp", "merges.txt.tmp",
            ".part-7/adapter_model.safetensors", "text_encoder/.tmpZZZZZZ"]  # fmt: skip
    kept = ["notes.tmp", ".tmp", ".tmp1234567", "a.png", ".hidden.png", "base/a.png", "mine/x/results.json.tmp"]
    for name in [*left, *kept]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with claimed(tmp_path):
        pass
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found - {MARKER} == set(kept)


def test_filled_is_all_or_nothing(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "mine").write_text("mine")
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError), filled(tmp_path) as part:
        (part / "a").write_text("new")
        raise OSError
    assert (tmp_path / "a").read_text() == "old" and entries(tmp_path) == ["a", "base"]
    with filled(tmp_path) as part:
        (part / "a").write_text("new")
        (part / "base").mkdir()
        (part / "base" / "b").write_text("new")
    assert (tmp_path / "a").read_text() == "new" and {p.name for p in (tmp_path / "base").iterdir()} == {"mine", "b"}


def test_only_files_of_a_name_are_removed(tmp_path):
    for name in ("base-01.png", "base-02.png", "mine.png"):
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    remove_files(tmp_path / "link", ".*")
    remove_files(tmp_path / "absent", ".*")
    remove_files(tmp_path, r"base-\d+\.png")
    assert entries(tmp_path) == ["link", "mine.png"]


def test_space_is_asked_for_beforehand(tmp_path):
    check_space(tmp_path / "not" / "yet", 1000, "it")
    with pytest.raises(ValueError, match="too full: the model needs about 1000000000.00 GB, and .* GB are free"):
        check_space(tmp_path / "not" / "yet", 1e18, "the model")


def test_json_of_strangers(tmp_path):
    file = tmp_path / "a.json"
    for text, message in (
        ("[" * 10**5, "not JSON"),
        ("{", "not JSON"),
        ("\udcff", "not JSON"),
        ("9" * 5000, "not JSON"),
    ):
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ValueError, match=message) as caught:
            read_json(file)
        assert "\n" not in str(caught.value)
    file.write_text("[1]" + " " * 100)
    assert read_json(file) == [1]
    with pytest.raises(ValueError, match="more than 50 bytes"):
        read_json(file, 50)
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", ".", "absent.json"):
        with pytest.raises(ValueError, match="no regular file|no absent.json in"):
            read_json(tmp_path / name)


@pytest.mark.parametrize(
    ("value", "shared"),
    [
        ("/home/me/models/sd15", "sd15"), ("/home/me/sd15/", "sd15"), ("../runs/a", "a"), ("./a", "a"),
        ("~/a.txt", "a.txt"), ("C:\\Users\\me\\a", "a"), ("file:///home/a", "a"), ("someone/model", "someone/model"),
        ("cat and/or dog", "cat and/or dog"), (r"attn2\.to_k", r"attn2\.to_k"), (5, 5), (None, None),
        ({"a": ["/x/y", {"b": "/x/z"}]}, {"a": ["y", {"b": "z"}]}), ("x/" * 9999, "x/" * 9999),
    ],
)  # fmt: skip
def test_no_path_of_this_machine(value, shared):
    assert without_paths(value) == shared


def test_a_hub_name_that_is_a_folder_here_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "runs" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert without_paths("runs/base") == "base"


# --------------------------------------------------------------------------------------------------- seals


def test_every_bit_of_a_sealed_file_counts(tmp_path):
    file, tensors = tmp_path / "a.safetensors", {"x": torch.randn(3, 2), "n": torch.tensor(4), "e": torch.zeros(0, 2)}
    save_sealed(tensors, file, {"key": "k"})
    found, facts = load_sealed(file)
    assert facts["key"] == "k" and all(torch.equal(found[name], value) for name, value in tensors.items())
    data = file.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    for place in range(begin, len(data)):
        for bit in (0, 7):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            with pytest.raises(ValueError, match="is damaged"):
                load_sealed(file)
    for changed in (data.replace(b'"key":"k"', b'"key":"j"'), data.replace(b'"x":', b'"y":')):
        file.write_bytes(changed)
        with pytest.raises(ValueError, match="is damaged"):
            load_sealed(file)
    header = json.loads(data[8:begin])
    for text in (json.dumps({**header, "__metadata__": {"key": "k"}}), '{"a": 5}', ""):
        file.write_bytes(len(text).to_bytes(8, "little") + text.encode() + data[begin:])
        with pytest.raises(ValueError, match="is damaged"):
            load_sealed(file)
    for size in (0, 5, 20, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(ValueError, match="is damaged"):
            load_sealed(file)
