"""Suites over prompts: the same on any number of processes, taken up where they stopped, and verified afterwards."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from shell import call_semu, call_semu_together
from tiny import QUICK
from tiny_clip import build_clip
from torch import nn

from semu_diffusion.cli import entry as cli
from semu_diffusion.diffusion import EraseConfig, load_pipeline, run_erasure
from semu_diffusion.evaluation import drawing as studio
from semu_diffusion.evaluation.grid import distances
from semu_diffusion.evaluation.judges import Namer, check_names
from semu_diffusion.evaluation.pictures import is_whole
from semu_diffusion.evaluation.prompts import IMAGENETTE, digest, imagenette, read_prompts
from semu_diffusion.evaluation.suites import pictograms as suites
from semu_diffusion.evaluation.suites.run import EvalConfig, shots_of
from semu_diffusion.evaluation.verification import compare, measure_again, read_results
from semu_diffusion.inputs.pictures import list_pictures

WEIGHTS = "adapter_model.safetensors"
LABELS = ("cigarette", "cat", "dog", "apple", "tree")


@pytest.fixture(scope="module")
def desk(tiny_model, tmp_path_factory):
    """A folder with an adapter, a CLIP model and labelled prompts, and the arguments of an evaluation with them."""
    folder = tmp_path_factory.mktemp("desk")
    pipe = load_pipeline(str(tiny_model))
    settings = EraseConfig(concept="cigarette", **{**QUICK, "steps": 8}, lr=0.3)
    run_erasure(pipe, settings, folder / "adapter")
    build_clip(folder / "clip")
    rows = [f"a picture of a {label},{7 * i + k},{label}" for i, label in enumerate(LABELS) for k in range(2)]
    (folder / "prompts.csv").write_text("prompt,evaluation_seed,class\n" + "\n".join(rows))
    return folder


def arguments(desk, tiny_model, output, *more):
    return ["eval", "--suite", "custom", "--model", tiny_model, desk / "adapter", "--output", output,
            "--prompts", desk / "prompts.csv", "--clip", desk / "clip", "--steps", 2, "--batch-size", 4, "--quiet",
            *more]  # fmt: skip


def files(folder) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.png"))}


@pytest.fixture(scope="module")
def scores(desk, tiny_model):
    """The folder of an evaluation by one process."""
    assert call_semu(*arguments(desk, tiny_model, desk / "scores", "--json")) == 0
    return desk / "scores"


# -------------------------------------------------------------------------------------------- what it writes


def test_an_evaluation_and_its_protocol(scores, desk):
    results = json.loads((scores / "results.json").read_text())
    report = json.loads((scores / "evaluation.json").read_text())
    assert results["evaluation"] == report and results["adapter"]["scale"] == 1
    base, erased, protocol = report["base"], report["erased"], report["protocol"]
    assert erased["counts"] == {"forget": 2, "keep": 8} and base["counts"] == erased["counts"]
    assert base["drift"] is None and erased["drift"] > 0 and erased["FID"] > 0
    low, high = erased["intervals"]["drift"]
    assert low <= erased["drift"] <= high and erased["intervals"]["UA"][0] <= erased["UA"]
    assert protocol["prompts_hash"] == digest(shots_of(EvalConfig("custom", ["cigarette"], str(desk / "prompts.csv"))))
    assert (protocol["steps"], protocol["guidance"], protocol["sampler"]) == (2, 7.5, "DDIMScheduler")
    assert protocol["size"] == [16, 16] and protocol["first_and_last_seed"] == [0, 29] and protocol["seeds"] == 1
    assert [len(judge.get("model", "")) for judge in protocol["judges"]][:2] == [64, 64]
    assert protocol["versions"]["torch"]
    records = json.loads((scores / "records.json").read_text())
    assert len(records["erased"]) == 10 and all((scores / r["file"]).is_file() for r in records["base"])
    assert records["erased"][0]["named"] in LABELS and "features" not in records["base"][0]
    moved = [r["moved"] for r in records["erased"] if r["part"] == "keep"]
    assert erased["drift"] == pytest.approx(sum(moved) / 8)


def test_the_table(scores, desk, tiny_model, tmp_path, semu):
    shutil.copytree(scores / "base", tmp_path / "out" / "base")
    shutil.copytree(scores / "erased", tmp_path / "out" / "erased")
    status, out, err = semu(*arguments(desk, tiny_model, tmp_path / "out"))
    assert status == 0 and err == "" and "UA" in out and "drift" in out
    status, out, err = semu(*arguments(desk, tiny_model, tmp_path / "out"))
    assert status == 2 and "--overwrite" in err  # it is finished, so it is not taken up


# --------------------------------------------------------------------------------- processes, interruptions


def test_two_processes_draw_and_score_the_same(scores, desk, tiny_model, tmp_path):
    assert call_semu_together(2, *arguments(desk, tiny_model, tmp_path / "two")) == [0, 0]
    assert files(tmp_path / "two") == files(scores)
    one, two = (json.loads((folder / "evaluation.json").read_text()) for folder in (scores, tmp_path / "two"))
    assert one == two
    assert json.loads((tmp_path / "two" / "records.json").read_text()) == json.loads(
        (scores / "records.json").read_text()
    )


def distances_in(rank, images, folder):
    """What one of two processes says about pictures that both have."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    found = distances(*images, Guesser())
    torch.distributed.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(found))


def test_the_pictograms_distances_are_the_same_in_any_number_of_processes(tmp_path):
    """Each process reads all pictures, so nothing may be added up over them."""
    base = torch.rand(6, 3, 8, 8)
    images = (base**1.1, base)
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=distances_in, args=(rank, images, tmp_path)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    one = distances(*images, Guesser())
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [one] * 2
    assert one["FID"] > 0 and one["drift"] > 0


def evaluate_in(desk, tiny_model, output):
    sys.argv = ["semu", *map(str, arguments(desk, tiny_model, output))]
    cli.main()


def test_a_killed_run_makes_only_what_is_missing(scores, desk, tiny_model, tmp_path, monkeypatch, semu):
    output = tmp_path / "out"
    child = multiprocessing.get_context("fork").Process(target=evaluate_in, args=(desk, tiny_model, output))
    child.start()
    deadline = time.monotonic() + 60
    while len(list(output.rglob("*.png"))) < 4 and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    begun = {name: data for name, data in files(output).items() if "/." not in name}
    assert 4 <= len(begun) < 20
    half = output / next(iter(begun))
    half.write_bytes(half.read_bytes()[:-5])
    written, write = [], studio.write_picture
    monkeypatch.setattr(studio, "write_picture", lambda image, file: (written.append(file), write(image, file)))
    assert semu(*arguments(desk, tiny_model, output))[0] == 0
    expected = files(scores)
    assert {str(f.relative_to(output)) for f in written} == {*expected} - {*begun} | {str(half.relative_to(output))}
    assert {name: data for name, data in files(output).items() if "/." not in name} == expected
    reports = [json.loads((folder / "evaluation.json").read_text()) for folder in (output, scores)]
    assert reports[0] == reports[1]


class Guesser(nn.Module):
    """An oracle of four features."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(4, classes) for classes in (24, 6))

    def features(self, images):
        return images[:, 0, 0, :4]

    def forward(self, images):
        return [head(self.features(images)) for head in self.heads]


def test_pictograms_are_scored_alike_from_memory_and_from_files(tiny_model, tmp_path, monkeypatch):
    """The suite itself; what is drawn is noise by seed, since the embedded model would take minutes."""

    def draw(pipe, prompts, seeds, *how):
        noise = [torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(noise)

    monkeypatch.setattr(studio, "draw", draw)
    oracle = Guesser()
    monkeypatch.setattr(suites, "load_oracle", lambda path: oracle)
    pipe, adapter = load_pipeline(str(tiny_model)), {"sha256": "0", "scale": 1.0}
    memory, _ = suites.run_pictograms(pipe, ["cigarette"], 1)
    report, pictures = suites.run_pictograms(pipe, ["cigarette"], 1, folder=tmp_path, adapter=adapter)
    assert report == memory and len(files(tmp_path)) == 2 * 144
    assert report["erased"]["drift"] == 0 and report["erased"]["intervals"]["drift"] == [0, 0]
    assert all(v.agrees for v in compare(memory, measure_again(pipe, report, adapter, tmp_path)))
    suites.write_report(tmp_path / "out", report, pictures, ["cigarette"])
    records = json.loads((tmp_path / "out" / "records.json").read_text())
    assert all((tmp_path / "out" / r["file"]).is_file() for side in records.values() for r in side)
    assert records["base"][0]["group"] == "Erased: cigarette" and len(records["base"]) == len(records["erased"])


def test_pictures_of_another_evaluation_are_not_taken(scores, desk, tiny_model, tmp_path, semu):
    shutil.copytree(scores / "base", tmp_path / "out" / "base")
    line = semu(*arguments(desk, tiny_model, tmp_path / "out", "--guidance", 2))[2]
    assert "pictures of another guidance" in line and "--overwrite" in line
    assert not is_whole(tmp_path / "nothing.png")


def test_a_classifier_that_lacks_a_label_is_refused():
    namer = Namer(None, ["saw, chainsaw", "cat"], {"name": "someone/net"})
    check_names(namer, ["saw", "Cat", "chainsaw", "saw, chainsaw"])
    with pytest.raises(ValueError, match="someone/net knows no dog, sepia"):
        check_names(namer, ["sepia", "cat", "dog"])


# ----------------------------------------------------------------------------------------------- verifying


def scaled(adapter, folder, factor: float):
    """A copy of an adapter with all its R multiplied."""
    shutil.copytree(adapter, folder)
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    tensors = {k: v * factor if k.endswith("semu_R") else v for k, v in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata)
    return folder


def test_verify_agrees_on_the_adapter_and_fails_on_half_of_it(scores, desk, tiny_model, tmp_path, semu):
    common = ["--model", tiny_model, "--clip", desk / "clip", "--results", scores / "results.json", "--quiet"]
    status, out, err = semu("eval", "--verify", desk / "adapter", *common, "--json")
    said = json.loads(out)
    assert status == 0 and err == "" and said["differences"] == []
    assert {f["agrees"] for f in said["figures"]} == {True} and len(said["figures"]) > 6
    half = scaled(desk / "adapter", tmp_path / "half", 0.5)
    status, out, _ = semu("eval", "--verify", half, *common, "--json")
    figures = {(f["side"], f["figure"]): f["agrees"] for f in json.loads(out)["figures"]}
    assert status == 1 and figures["erased", "drift"] is False
    assert all(agrees for (side, _), agrees in figures.items() if side == "base")
    assert "the adapter is not the file" in out


def test_verify_says_what_it_lacks(scores, desk, tiny_model, tmp_path, semu):
    status, _, err = semu("eval", "--verify", desk / "adapter", "--model", tiny_model)
    assert status == 2 and "records no evaluation" in err
    results = json.loads((scores / "results.json").read_text())
    (tmp_path / "changed.csv").write_text((desk / "prompts.csv").read_text().replace("cat", "tree"))
    results["evaluation"]["protocol"]["prompts"] = str(tmp_path / "changed.csv")
    (tmp_path / "results.json").write_text(json.dumps(results))
    common = ["eval", "--verify", desk / "adapter", "--model", tiny_model, "--clip", desk / "clip", "--results"]
    status, _, err = semu(*common, tmp_path / "results.json", "--quiet")
    assert status == 2 and "prompts are not those that were recorded" in err
    assert semu(*common, tmp_path / "none.json")[0] == 2
    recorded = ["--results", scores / "results.json"]
    for given, lacks in ((["--model", tiny_model], "with --clip"), (["--clip", desk / "clip"], "with --model")):
        status, _, err = semu("eval", "--verify", desk / "adapter", *recorded, *given)
        assert status == 2 and lacks in err and "if you trust it" in err


def test_verify_draws_its_own_pictures(scores, desk, tiny_model, semu):
    common = ["--model", tiny_model, "--clip", desk / "clip", "--results", scores / "results.json", "--quiet"]
    status, _, err = semu("eval", "--verify", desk / "adapter", *common, "--output", scores)
    assert status == 2 and "is not empty" in err


def test_results_of_an_adapter_on_the_hub(scores, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: str(scores / file))
    assert read_results("me/no-cigarette") == read_results(scores)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="me/no-cigarette"):
        read_results("me/no-cigarette")  # tests have no network


# ------------------------------------------------------------------------------------------------- nudity


def test_nudity_end_to_end(desk, tiny_model, tmp_path, semu):
    pytest.importorskip("nudenet", reason="NudeNet is not installed")
    (tmp_path / "i2p.csv").write_text("prompt,sd_seed\na picture of a cat,5\na picture of a dog,6\n")
    (tmp_path / "coco.txt").write_text("a picture of a tree\na picture of an apple\n")
    command = ["eval", "--suite", "nudity", "--model", tiny_model, desk / "adapter", "--steps", 2]
    command += ["--prompts", tmp_path / "i2p.csv", "--captions", tmp_path / "coco.txt", "--clip", desk / "clip"]
    status, out, err = semu(*command, "--output", tmp_path / "out", "--quiet", "--json")
    assert status == 0, err
    report = json.loads(out)
    assert report["erased"]["counts"] == {"forget": 2, "captions": 2} and report["erased"]["FID"] is not None
    assert report["base"]["detections"] == sum(report["base"]["per_class"].values())
    assert len(report["base"]["per_class"]) == 9 and report["base"]["clip"] is not None
    detector = report["protocol"]["judges"][0]
    assert detector["name"] == "NudeNet" and len(detector["model"]) == 64 and report["protocol"]["threshold"] == 0.6
    assert report["protocol"]["versions"]["nudenet"].startswith("3.4")


def test_photographs_made_elsewhere(tmp_path, semu):
    pytest.importorskip("nudenet", reason="NudeNet is not installed")
    data = pytest.importorskip("skimage.data", reason="the photographs come with scikit-image")
    (tmp_path / "photos").mkdir()
    for name in ("astronaut", "coffee"):
        Image.fromarray(getattr(data, name)()).save(tmp_path / "photos" / f"{name}.png")
    command = ["eval", "--suite", "nudity", "--images", tmp_path / "photos", "--quiet"]
    status, out, _ = semu(*command, "--output", tmp_path / "out", "--nude-class", "FACE_FEMALE")
    assert status == 0 and out.startswith("2 pictures: 1 detections, 50.00 % flagged, 50.00 % show someone")
    records = json.loads((tmp_path / "out" / "records.json").read_text())["pictures"]
    assert [d[0] for r in records for d in r["detections"]] == ["FACE_FEMALE"]
    status, out, _ = semu(*command, "--output", tmp_path / "exposed", "--json")
    assert json.loads(out)["pictures"]["detections"] == 0  # a face is no exposed class


def test_a_photograph_that_was_cut_off_is_named(tmp_path, semu):
    pytest.importorskip("nudenet", reason="NudeNet is not installed")
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.effect_noise((64, 64), 50).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "b.png").write_bytes((tmp_path / "photos" / "a.png").read_bytes()[:1500])
    (tmp_path / "photos" / "._a.png").write_bytes(b"of a Mac")
    command = ["eval", "--suite", "nudity", "--images", tmp_path / "photos", "--output", tmp_path / "out", "--quiet"]
    status, out, err = semu(*command)
    assert status == 2 and out == "" and len(err.splitlines()) == 1 and "b.png is not a picture" in err, err
    assert not (tmp_path / "out").exists()
    (tmp_path / "photos" / "b.png").unlink()
    assert semu(*command)[1].startswith("1 pictures: ")


# ------------------------------------------------------------------------------------------ prompts, errors


def test_prompts_of_published_files(tmp_path):
    (tmp_path / "a.csv").write_text(
        'case_number,prompt,evaluation_seed,class\n0,"one, two",4,cat\n1,,5,\n2,three,6.0,\n'
    )
    with pytest.warns(UserWarning, match="1 rows without a prompt, the first in line 3"):
        shots = read_prompts(tmp_path / "a.csv", repeat=2)
    assert [s[:3] for s in shots] == [
        ("one, two", 4, "cat"),
        ("one, two", 5, "cat"),
        ("three", 6, ""),
        ("three", 7, ""),
    ]
    (tmp_path / "b.txt").write_text("one\n\ntwo\nthree\n")
    shots = read_prompts(tmp_path / "b.txt", limit=2)
    assert [s.prompt for s in shots] == ["one", "two"] and len({s.seed for s in shots}) == 2
    assert len({s.file for s in imagenette(3)}) == 30 and {s.label for s in imagenette(1)} == {*IMAGENETTE}
    assert imagenette(1)[1].prompt == "an image of an English springer"
    assert digest(shots) != digest(shots[::-1]) != digest([s._replace(seed=0) for s in shots])


def test_imagenette_parts():
    shots = shots_of(EvalConfig("imagenette", ["church"], seeds=2))
    assert [s.label for s in shots if s.part == "forget"] == ["church"] * 2 and len(shots) == 20


WRONG = {
    "no prompts": (["--suite", "nudity"], "needs --prompts"),
    "no such prompts": (["--suite", "custom", "--prompts", "none.csv"], "no prompts at none.csv"),
    "no labels": (["--suite", "custom", "--prompts", "plain.txt", "--clip", "x"], "needs a label"),
    "another concept": (["--suite", "imagenette"], "none of the prompts is labelled cigarette; labels: English"),
    "bad seed": (["--suite", "nudity", "--prompts", "seed.csv"], "the seed 'x' is no whole number"),
    "empty": (["--suite", "nudity", "--prompts", "empty.csv"], "holds no prompts"),
    "no judge": (["--suite", "custom", "--prompts", "good.csv"], "--classifier"),
    "no classifier": (
        ["--suite", "custom", "--prompts", "good.csv", "--classifier", "./none"],
        "cannot load the class",
    ),
    "unknown class": (["--suite", "nudity", "--prompts", "good.csv", "--nude-class", "KNEE"], "unknown NudeNet class"),
    "threshold": (["--suite", "nudity", "--prompts", "good.csv", "--threshold", "0.1"], "0.25..1"),
    "no suite of its own": ([], "say which: --suite pictograms, nudity"),
    "unused options": (
        ["--suite", "pictograms", "--steps", "3", "--nude-class", "FEET_EXPOSED"],
        "no --steps, --nude-class",
    ),
    "images": (["--suite", "style", "--images", "."], "--images goes with --suite nudity"),
    "no images": (["--suite", "nudity", "--images", "nowhere"], "no pictures in nowhere"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_writes_nothing(case, desk, tiny_model, tmp_path, monkeypatch, semu):
    monkeypatch.chdir(tmp_path)
    contents = {"plain.txt": "a cat", "seed.csv": "prompt,seed\na,x", "empty.csv": "prompt\n",
                "good.csv": "prompt,label\na cigarette,cigarette"}  # fmt: skip
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    options, message = WRONG[case]
    status, out, err = semu("eval", "--model", tiny_model, desk / "adapter", "--output", "OUT", *options,
                            "--quiet")  # fmt: skip
    assert status == 2 and out == "" and message in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / "OUT").exists()


def test_list_pictures(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "deep" / "a.jpg")
    (tmp_path / "note.txt").write_text("no")
    assert [f.name for f in list_pictures(tmp_path)] == ["a.jpg"]
