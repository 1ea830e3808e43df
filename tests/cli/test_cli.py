"""The shell interface: what it writes, what it says, and one line with status 2 for every mistake."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from shell import MAIN
from tiny import QUICK, flags

import semu_diffusion
from semu_diffusion.diffusion.config import EraseConfig, fields

FILES = {
    "adapter_model.safetensors", "adapter_config.json", "pytorch_lora_weights.safetensors", "results.json",
    "before_after.png", "loss.png", "README.md",
}  # fmt: skip


@pytest.fixture(scope="module")
def erased(tiny_model, tmp_path_factory):
    """The folder that `semu erase --json` wrote in a process of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("erased") / "out"
    arguments = ["erase", "--concept", "cigarette", "--model", str(tiny_model), "--output", str(folder), "--json"]
    command = [sys.executable, "-c", MAIN, *arguments, *flags(**QUICK)]
    return folder, subprocess.run(command, capture_output=True, text=True)


def test_erase_writes_everything(erased, tiny_model):
    folder, done = erased
    assert done.returncode == 0, done.stderr
    kohya = f"{tiny_model.name}_without_cigarette_kohya.safetensors"
    assert {p.name for p in folder.iterdir()} == {*FILES, kohya, ".semu"}
    said, results = json.loads(done.stdout), json.loads((folder / "results.json").read_text())
    assert said["output"] == str(folder) and said["training"]["steps"] == 4 and said["evaluation"] is None
    assert (
        results["options"]
        == EraseConfig(concept="cigarette", strength=0.25, settle=50, guidance=7.5, **QUICK).to_dict()
    )
    assert results["base_model"] == str(tiny_model) and len(results["history"]) == 4
    for name in ("before_after.png", "loss.png"):
        assert Image.open(folder / name).size[0] > 100
    assert "cigarette" in (folder / "README.md").read_text()
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


def test_generate_at_half_strength(erased, tiny_model, tmp_path, semu):
    common = ["generate", "--prompt", "a cigarette", "--model", tiny_model, "--steps", 2, "--quiet"]
    for name, more in {"base": [], "none": ["--scale", 0], "half": ["--scale", 0.5], "full": []}.items():
        adapter = [] if name == "base" else [erased[0], *more]
        assert semu(*common, *adapter, "--output", tmp_path / f"{name}.png") == (0, f"{tmp_path / name}.png\n", "")
    pictures = {p.stem: Image.open(p).tobytes() for p in tmp_path.iterdir()}
    assert len(pictures) == 4 and len(set(pictures.values())) == 3
    assert pictures["base"] == pictures["none"]
    status, out, _ = semu(*common, "--count", 2, "--prompt", "a dog", "--output", tmp_path / "many")
    assert status == 0 and out.splitlines() == [str(tmp_path / "many" / f"{k:04d}.png") for k in range(4)]
    assert Image.open(tmp_path / "many" / "0000.png").tobytes() == pictures["base"]


def test_a_recipe_and_options_beside_it(tiny_model, tmp_path, semu):
    recipe = {**QUICK, "concept": "cigarette", "keep-weight": 1, "beta": 0, "steps": 50}
    (tmp_path / "recipe.yaml").write_text("lr: 1e-2\n" + "".join(f"{k}: {v}\n" for k, v in recipe.items()))
    arguments = ["--model", tiny_model, "--output", tmp_path / "out", "--no-evaluate", "--quiet"]
    status, out, _ = semu("erase", "--config", tmp_path / "recipe.yaml", "--steps", 2, *arguments)
    assert status == 0 and out.startswith(f"{tmp_path / 'out'}: ")
    options = json.loads((tmp_path / "out" / "results.json").read_text())["options"]
    assert (options["steps"], options["lr"], options["concept"]) == (2, 0.01, ["cigarette"])
    assert semu("erase", "--config", tmp_path / "recipe.yaml", "--steps", 1, *arguments, "--overwrite")[0] == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["options"]["steps"] == 1


# -------------------------------------------------------------------------------------------------- errors

ERASE = ["erase", "--output", "OUT", "--model", "MODEL"]
BAD = {
    "unknown model": ["erase", "--output", "OUT", "--concept", "cat", "--model", "./nowhere"],
    "not a model": ["erase", "--output", "OUT", "--concept", "cat", "--model", "FULL"],
    "empty concept": [*ERASE, "--concept", ""],
    "blank concept": [*ERASE, "--concept", "  "],
    "no concept": ERASE,
    "concept is its anchor": [*ERASE, "--concept", "cat", "--anchor", "cat"],
    "no such prompts": [*ERASE, "--concept", "none.txt"],
    "gamma 0": [*ERASE, "--concept", "cat", "--gamma", "0"],
    "gamma 1.5": [*ERASE, "--concept", "cat", "--gamma", "1.5"],
    "gamma nan": [*ERASE, "--concept", "cat", "--gamma", "nan"],
    "gamma text": [*ERASE, "--concept", "cat", "--gamma", "much"],
    "no steps": [*ERASE, "--concept", "cat", "--steps", "0"],
    "bad objective": [*ERASE, "--concept", "cat", "--objective", "pray"],
    "bad regex": [*ERASE, "--concept", "cat", "--target-modules", "("],
    "no such layers": [*ERASE, "--concept", "cat", "--target-modules", "nothing"],
    "negative beta": [*ERASE, "--concept", "cat", "--beta", "-1"],
    "uneven parts": [*ERASE, "--concept", "cat", "--batch-size", "4", "--accumulate", "3"],
    "no such pictures": [*ERASE, "--concept", "cat", "--retain-images", "EMPTY"],
    "output in use": ["erase", "--output", "FULL", "--concept", "cat", "--model", "MODEL"],
    "output is a file": ["erase", "--output", "FULL/file", "--concept", "cat", "--model", "MODEL"],
    "nothing to resume": [*ERASE, "--concept", "cat", "--resume"],
    "nothing to resume in it": ["erase", "--output", "FULL", "--concept", "cat", "--model", "MODEL", "--resume"],
    "no recipe": [*ERASE, "--config", "nowhere.yaml"],
    "broken recipe": [*ERASE, "--config", "broken.yaml"],
    "recipe of one word": [*ERASE, "--config", "word.yaml"],
    "unknown key": [*ERASE, "--config", "unknown.yaml"],
    "text for a number": [*ERASE, "--config", "text.yaml"],
    "unknown option": [*ERASE, "--concept", "cat", "--frobnicate"],
    "missing output": ["erase", "--concept", "cat"],
    "unknown command": ["forget"],
    "bad dtype": [*ERASE, "--concept", "cat", "--dtype", "int8"],
    "bad device": [*ERASE, "--concept", "cat", "--device", "toaster"],
    "negative scale": ["generate", "--prompt", "a", "--output", "OUT", "--model", "MODEL", "--scale", "-1"],
    "scale nan": ["generate", "--prompt", "a", "--output", "OUT", "--model", "MODEL", "--scale", "nan"],
    "no pictures": ["generate", "--prompt", "a", "--output", "OUT", "--model", "MODEL", "--count", "0"],
    "two in one file": ["generate", "--prompt", "a", "--output", "OUT.png", "--model", "MODEL", "--count", "2"],
    "no adapter": ["generate", "--prompt", "a", "--output", "OUT", "--model", "MODEL", "EMPTY"],
    "unknown suite": ["eval", "EMPTY", "--output", "OUT", "--suite", "olympics"],
    "images of another suite": ["eval", "--images", "EMPTY", "--output", "OUT", "--suite", "pictograms"],
    "nothing to evaluate": ["eval", "EMPTY", "--output", "OUT", "--model", "MODEL"],
}
SAYS = {
    "unknown model": "no model at ./nowhere", "not a model": "model_index.json", "empty concept": "concept",
    "concept is its anchor": "anchor", "no such prompts": "none.txt", "gamma nan": "gamma", "bad objective": "redirect",
    "bad regex": "target-modules", "no such layers": "no Linear or Conv2d", "output in use": "--overwrite",
    "nothing to resume": "nothing to resume", "nothing to resume in it": "nothing to resume", "unknown key": "stepz",
    "text for a number": "steps must be a whole number", "unknown option": "--frobnicate", "bad dtype": "bf16",
    "bad device": "toaster", "scale nan": "scale", "no adapter": "no adapter at", "unknown suite": "pictograms",
    "images of another suite": "--images goes with --suite nudity",
    "unknown command": "forget", "missing output": "--output", "no such pictures": "no pictures in",
}  # fmt: skip


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with an empty folder, a used one, and bad recipes."""
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "file").write_text("mine")
    (tmp_path / "broken.yaml").write_text("steps: [1\nlr")
    (tmp_path / "word.yaml").write_text("cigarette")
    (tmp_path / "unknown.yaml").write_text("concept: cat\nstepz: 3\n")
    (tmp_path / "text.yaml").write_text("concept: cat\nsteps: many\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(result):
    """The line of an error: status 2, nothing on stdout, one line on stderr."""
    status, out, err = result
    lines = err.splitlines()
    assert status == 2 and out == "" and len(lines) == 1 and lines[0].startswith("semu: "), (status, out, err)
    return lines[0]


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_and_writes_nothing(case, desk, tiny_model, semu):
    before = sorted(desk.rglob("*"))
    more = flags(**{k: v for k, v in QUICK.items() if k != "target_modules"}) if BAD[case][0] == "erase" else []
    given = [str(tiny_model) if a == "MODEL" else a for a in BAD[case]]
    more = [] if case == "text for a number" or "--config" in given else [a for a in ["--quiet", *more]]
    line = one_line(semu(given[0], *more, *given[1:]))
    assert SAYS.get(case, "") in line
    assert sorted(desk.rglob("*")) == before and (desk / "FULL" / "file").read_text() == "mine"


def test_an_interruption_says_how_to_go_on(monkeypatch, semu):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr("semu_diffusion.cli.options.quieten", stop)
    status, out, err = semu("generate", "--prompt", "a", "--output", "nowhere", "--model", "nowhere")
    assert status == 130 and out == "" and err == "semu: interrupted\n"


@pytest.mark.parametrize("damage", ["empty", "cut off", "foreign", "other model", "wrong shape", "nan"])
def test_a_bad_adapter_is_refused(damage, erased, tiny_model, tmp_path, semu):
    adapter, file = tmp_path / "adapter", tmp_path / "adapter" / "adapter_model.safetensors"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_bytes((erased[0] / name).read_bytes())
    config, tensors = json.loads((adapter / "adapter_config.json").read_text()), load_file(file)
    first = next(iter(config["ranks"]))
    key = f"base_model.model.{first}.semu_R"
    if damage == "empty":
        file.write_bytes(b"")
    elif damage == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "foreign":
        (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    elif damage == "other model":
        (adapter / "adapter_config.json").write_text(json.dumps(config).replace(first, "somewhere.else"))
    elif damage == "wrong shape":
        save_file({**tensors, key: tensors[key].new_zeros(7, 7)}, file)
    else:
        save_file({**tensors, key: tensors[key] * float("nan")}, file)
    line = one_line(semu("generate", "--prompt", "a", adapter, "--model", tiny_model, "--output",
                         tmp_path / "a.png", "--quiet"))  # fmt: skip
    says = {"other model": "no Linear or Conv2d layer somewhere.else", "wrong shape": first, "nan": first,
            "foreign": "not a SEMU config"}  # fmt: skip
    assert says.get(damage, "not a whole safetensors file") in line
    assert not (tmp_path / "a.png").exists()


# ----------------------------------------------------------------------------------------- help and models


@pytest.mark.parametrize("command", ["erase", "generate", "eval", "models"])
def test_help(command, monkeypatch, semu):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    status, out, err = semu(command, "--help")
    assert status == 0 and err == "" and "Usage" in out
    if command == "erase":
        for f in fields(EraseConfig):
            assert f"--{f.name.replace('_', '-')}" in out, f.name
            assert f.metadata["help"][:30] in " ".join(out.split())


def test_the_help_of_erase_begins_with_one_screen(monkeypatch, semu):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    lines = semu("erase", "--help")[1].splitlines()
    assert all(len(line) <= 80 for line in lines)
    first = "\n".join(lines[:24])
    assert all(f"--{name} " in first for name in ("concept", "anchor", "output", "model", "max-memory", "seed", "help"))
    assert "Advanced" not in first and any("Advanced" in line for line in lines[24:26])


def test_the_former_spelling_of_an_adapter(erased, tiny_model, tmp_path, semu):
    words = ["--prompt", "a cigarette", "--model", tiny_model, "--steps", 1, "--quiet", "--output"]
    for k, given in enumerate((["--adapter", erased[0]], [f"--adapter={erased[0]}"], [erased[0]])):
        status, out, err = semu("generate", *words, tmp_path / f"{k}.png", *given)
        assert status == 0 and out == f"{tmp_path / str(k)}.png\n"
        assert err == ("" if k == 2 else f"semu: --adapter is an argument now: semu generate {erased[0]}\n")
    assert len({p.read_bytes() for p in tmp_path.iterdir()}) == 1
    line = one_line(semu("eval", "--output", tmp_path / "out"))
    assert "missing argument ADAPTER" in line
    assert "missing argument ADAPTER" in one_line(semu("eval", "--verify"))


def test_version_and_completion(semu):
    assert semu("--version") == (0, f"semu {semu_diffusion.__version__}\n", "")
    assert "--install-completion" in semu("--help")[1]


def test_doctor(semu, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    facts, own = json.loads(semu("doctor", "--json")[1]), version("torch")  # without "+cu128" in some releases
    assert facts["packages"]["torch"] == own and facts["optional packages"]["pytest"] == pytest.__version__
    assert "cores" in facts["devices"]["cpu"] and facts["hub"]["token"] == "present"
    status, out, err = semu("doctor")
    assert status == 0 and err == "" and "hf_secret" not in out and f"torch: {own}" in out


def test_no_command_shows_the_commands(semu):
    status, out, err = semu()
    assert status == 2 and all(name in out + err for name in ("erase", "generate", "eval", "models"))


def test_models(semu):
    status, out, _ = semu("models", "--json")
    listed = json.loads(out)
    assert status == 0 and any("UNet2DConditionModel" in title for title in listed["families"])
    said = semu("models")[1]
    assert all(name in said for name in (*listed["embedded"], *listed["families"], "tested with diffusers"))
    assert {export for family in listed["families"].values() for export in family["exports"]} == set(listed["exports"])
    assert not any(family["missing"] for family in listed["families"].values())
