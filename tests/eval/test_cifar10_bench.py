"""The benchmark of the class-conditional model: its scores by hand, its search, and a whole run on a tiny model."""

import argparse
import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from classifiers import write_noise

from eval.cifar10 import benchmark, judge, page
from eval.cifar10.benchmark import choose, report_jobs, search_jobs
from eval.cifar10.methods import ENTRIES, WIDER, settings
from semu_diffusion.classification import PictureJudge, load_classifier, save_classifier

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import build_cifar10_ddpm as builder  # noqa: E402

NAMES = ["red", "green", "blue"]


def seen(named: list[int], labels: list[int], sure: float = 9.0) -> judge.Seen:
    """Pictures that a classifier of three classes names so."""
    images = torch.rand(len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = sure * torch.nn.functional.one_hot(torch.tensor(named), 3).float()
    return judge.Seen(torch.tensor(labels), images, logits, images.flatten(1)[:, :2])


def test_scores_by_hand():
    labels = [0] * 4 + [1] * 4 + [2] * 4
    base = seen(labels, labels)
    after = seen([1, 1, 2, 0] + [1, 1, 1, 0] + [2] * 4, labels)
    real, real_labels = base.features + 1.0, base.labels
    found = judge.scores(0, after, base, real, real_labels)
    assert (found["UA"], found["IRA"], found["natural"]) == (75.0, 87.5, 100.0)
    assert found["FID"] == pytest.approx(2.0)  # the same covariance, means one apart in both of two features
    assert judge.scores(0, base, base, real, real_labels)["UA"] == 0.0
    bland = judge.Seen(after.labels, after.images, 0.1 * after.logits, after.features)
    flat = judge.Seen(after.labels, 0.0 * after.images, after.logits, after.features)
    assert judge.scores(0, bland, base, real, real_labels)["natural"] == 0.0
    assert judge.scores(0, flat, base, real, real_labels)["natural"] == 0.0


def test_a_pictures_seed_is_its_own():
    prompts, seeds, labels = judge.asked(NAMES, 2)
    assert prompts == ["red", "red", "green", "green", "blue", "blue"] and labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(seeds)) == 6 and judge.asked(NAMES, 5)[1][:2] == seeds[:2]


@pytest.mark.parametrize("arch", ["resnet18", "vgg16"])
def test_the_judges_features_are_what_its_head_gets(arch):
    classifier = load_classifier(arch, 3, 3, 4)
    look, images = PictureJudge(classifier), torch.rand(5, 3, 32, 32)
    logits, features = look.seen(images)
    assert features.shape == (5, look.num_features) and not look.training
    torch.testing.assert_close(classifier.head(features), logits)
    torch.testing.assert_close(logits, classifier.eval()(2 * images - 1))
    torch.testing.assert_close(look.features(images), features)
    with pytest.raises(ValueError, match="no Linear layer"):
        PictureJudge(torch.nn.Conv2d(3, 3, 1))


def row(method: str, ua: float, ira: float, hyper: dict, phase: str = "search", concept: str = "frog") -> dict:
    scores = {"UA": ua, "IRA": ira, "FID": 3.0, "natural": 90.0}
    cost = dict.fromkeys(benchmark.COSTS, 1.0)
    return {"phase": phase, "method": method, "concept": concept, "seed": 0, "hyper": hyper, "scores": scores,
            "base": {**scores, "UA": 4.0}, "cost": cost}  # fmt: skip


def test_every_method_is_searched_alike_and_variants_take_over_what_ours_found():
    searched = {m: settings(m) for m in ENTRIES if not ENTRIES[m].like}
    assert {len(s) for m, s in searched.items() if not m.startswith("semu-published")} == {6}
    assert all(h["keep_weight"] == 0.0 for h in searched["semu-published-free"])
    jobs = search_jobs(["ours", "ours-next", "salun"], "frog")
    assert {job.method for job in jobs} == {"ours", "salun"} and len(jobs) == 12
    rows = [row("ours", 50 + k, 90, h) for k, h in enumerate(searched["ours"])]
    rows[-1] = {k: v for k, v in rows[-1].items() if k != "scores"} | {"error": "the loss is nan"}
    assert choose(rows, "ours", ["frog"]) == searched["ours"][4]
    rows[3]["scores"]["natural"] = 97.0
    assert choose(rows, "ours", ["frog"]) == searched["ours"][3]  # less forgotten, but proper pictures
    rows[3]["scores"]["natural"] = 90.0
    assert choose(rows, "ours-next", ["frog"]) == {**searched["ours"][4], "anchor": "next"}
    with pytest.raises(ValueError, match="salun: no setting of 0"):
        choose(rows, "salun", ["frog"])


def test_a_search_that_ends_at_an_edge_of_its_learning_rates_goes_on():
    hypers = settings("ours")
    rows = [row("ours", 50, 90, h) for h in hypers]
    rates = sorted({h["lr"] for h in hypers})
    best = next(r for r in rows if r["hyper"] == {"lr": rates[-1], "strength": 0.25})
    best["scores"]["UA"] = 60
    jobs = benchmark.further_jobs(rows, ["ours", "ours-next"], "frog")
    want = {"lr": pytest.approx(rates[-1] ** 2 / rates[-2]), "strength": 0.25}
    assert [(j.phase, j.method, j.concept, j.hyper) for j in jobs] == [("search", "ours", "frog", want)]
    rows.append(row("ours", 55, 90, jobs[0].hyper))
    assert benchmark.further_jobs(rows, ["ours"], "frog") == []  # the best has others on both sides
    rows[0]["scores"]["UA"] = 70
    (job,) = benchmark.further_jobs(rows, ["ours"], "frog")
    assert job.hyper == {**rows[0]["hyper"], "lr": pytest.approx(rates[0] ** 2 / rates[1])}


def test_the_better_half_is_tried_on_the_second_class_and_counts_as_much_there():
    hypers = settings("ours")
    rows = [row("ours", 60 + k, 90, h) for k, h in enumerate(hypers)]
    jobs = benchmark.final_jobs(rows, ["ours", "ours-next"], ["frog", "bird"])
    assert [(j.concept, j.hyper) for j in jobs] == [("bird", h) for h in hypers[:2:-1]]
    rows += [row("ours", 60 - 9 * k, 90, j.hyper, concept="bird") for k, j in enumerate(jobs[::-1])]
    assert choose(rows, "ours", ["frog", "bird"]) == hypers[3]  # the others lose more there than they gain on the first
    with pytest.raises(ValueError, match="no setting of 6"):
        choose(rows, "ours", ["frog", "cat"])


def test_larger_bases_are_tried_with_the_best_of_all_and_not_twice():
    best, classes = settings("ours")[2], ["frog", "bird"]
    rows = [row("ours", 60, 90, best, concept=c) for c in classes]
    jobs = benchmark.wider_jobs(rows, ["ours", "ours-next", "salun"], classes)
    wider = [{**best, **more} for more in WIDER]
    assert [(j.method, j.hyper, j.concept) for j in jobs] == [("ours", h, c) for h in wider for c in classes]
    rows += [row("ours", 70 + k, 90, j.hyper, concept=j.concept) for k, j in enumerate(jobs)]
    assert choose(rows, "ours", classes) == wider[-1]
    again = benchmark.wider_jobs(rows, ["ours"], classes)
    assert {job.key for job in again} == {job.key for job in jobs}


def test_the_other_classes_are_erased_by_ours_alone():
    chosen = {"ours": {"lr": 1}, "salun": {"lr": 2}}
    jobs = report_jobs(["ours", "salun"], ["cat"], ["cat", "dog", "frog"], 2, chosen)
    assert [(j.method, j.concept, j.seed) for j in jobs] == [
        ("ours", "cat", 0), ("salun", "cat", 0), ("ours", "cat", 1), ("salun", "cat", 1),
        ("ours", "dog", 0), ("ours", "frog", 0),
    ]  # fmt: skip
    assert len(report_jobs(["salun"], ["cat"], ["cat", "dog"], 1, chosen)) == 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny untrained model, a classifier and pictures of three classes."""
    from diffusers import DDIMPipeline

    folder = tmp_path_factory.mktemp("cifar10")
    DDIMPipeline(builder.make_unet([16, 16], 1, 3), builder.make_scheduler()).save_pretrained(folder / "model")
    (folder / "model" / "vocabulary.json").write_text(json.dumps({"subjects": NAMES, "styles": []}))
    save_classifier(load_classifier("resnet18", 3, 3, 4), folder / "classifier")
    write_noise(folder / "data", NAMES, 6)
    return folder


def arguments(folder: Path, tmp_path: Path) -> list[str]:
    words = {"model": folder / "model", "classifier": folder / "classifier", "data": folder / "data", "pictures": 6,
             "sampler-steps": 2, "validation": "green", "concept": "red", "seeds": 1, "workdir": tmp_path / "work",
             "sheets": tmp_path / "images", "output": tmp_path / "cifar10.json", "evaluations": 160}  # fmt: skip
    return [part for key, value in words.items() for part in (f"--{key}", str(value))]


def test_from_the_search_to_the_page(folders, tmp_path, monkeypatch):
    """One setting searched, two methods; the second run finds all rows there."""
    small = benchmark.Budget(evaluations=160, latents=2, keep_latents=4, sampler_steps=2, guidance=2.0, batch_size=2)
    more = {"gradient_records": 4, "moment_records": 4, "max_rank": 2, "lr": 0.1}
    monkeypatch.setattr(benchmark, "BUDGET", small)
    monkeypatch.setattr(benchmark, "CACHE", {})
    monkeypatch.setattr(benchmark, "settings", lambda m: [more if m == "ours" else {"prompts": "shared", "lr": 1e-4}])
    methods = [part for m in ("ours", "ours-retain", "salun") for part in ("--method", m)]
    run, kept_by = benchmark.edit, {}  # folder of real pictures -> drawings beside them

    def edit(*arguments, **options):
        kept_by[options.get("retain_images")] = arguments[3].keep_latents
        return run(*arguments, **options)

    monkeypatch.setattr(benchmark, "edit", edit)
    benchmark.main([*arguments(folders, tmp_path), *methods])
    found = json.loads((tmp_path / "cifar10.json").read_text())
    reported = {(r["method"], r["concept"]): r for r in found["rows"] if r["phase"] == "report"}
    assert set(reported) == {
        ("ours", "red"),
        ("ours-retain", "red"),
        ("salun", "red"),
        ("ours", "green"),
        ("ours", "blue"),
    }
    assert all(0 <= r["scores"][k] <= 100 for r in reported.values() for k in ("UA", "IRA", "natural"))
    ours, retain = (reported[m, "red"]["cost"]["evaluations"] for m in ("ours", "ours-retain"))
    assert 0 < ours <= small.evaluations and 0 < retain <= small.evaluations
    (lines,) = (tmp_path / "work").glob("retain-*-red/metadata.jsonl")
    kept = [json.loads(line) for line in lines.read_text().splitlines()]
    assert kept_by == {None: small.keep_latents, str(lines.parent): small.keep_latents // 2}
    assert len(kept) == small.keep_latents // 2 and {k["text"] for k in kept} <= {"green", "blue"}
    assert (tmp_path / "images" / "cifar10-red.png").is_file()
    monkeypatch.setattr(benchmark, "edit", None)  # nothing is run again
    benchmark.main([*arguments(folders, tmp_path), *methods])
    page.main(["--results", str(tmp_path), "--docs", str(tmp_path)])
    text = (tmp_path / "cifar10.md").read_text()
    assert "| before |" in text and "| SalUn | 1 |" in text and "| blue |" in text
    assert "| ours, half of what is kept real | 1 |" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--concept", "mauve"], "no class 'mauve'; known: red, green, blue"),
        (["--concept", "green"], "the search"),
        (["--data", "nowhere"], "cannot read the data 'nowhere'"),
        (["--model", "nowhere"], "nowhere is not there"),
        (["--classifier", "nowhere"], "nowhere is not there"),
    ],
)
def test_classes_and_folders_that_cannot_be(folders, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        benchmark.main([*arguments(folders, tmp_path), *more])


def test_other_pictures_have_another_fingerprint(folders, tmp_path):
    """So that real pictures kept from one are not taken for those of another, nor its rows."""
    own = benchmark.fingerprint_of(str(folders / "data"))
    (tmp_path / "train.parquet").write_bytes((folders / "data" / "test.parquet").read_bytes())
    (tmp_path / "test.parquet").write_bytes((folders / "data" / "test.parquet").read_bytes())
    assert own != benchmark.fingerprint_of(str(tmp_path))
    again = tmp_path / "again"
    again.mkdir()
    for name in ("train", "test"):
        (again / f"{name}.parquet").write_bytes((folders / "data" / f"{name}.parquet").read_bytes())
    assert own == benchmark.fingerprint_of(str(again))


def test_no_page_without_rows(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        page.main(["--results", str(tmp_path), "--docs", str(tmp_path)])
    assert stopped.value.code == 2 and "eval.cifar10.benchmark" in capsys.readouterr().err


def test_bf16_is_autocast_of_the_denoiser_alone(folders):
    """Its outputs are float32 near the others', its weights stay, and a copy runs on its own weights."""
    args = benchmark.parse_args(["--model", str(folders / "model"), "--device", "cpu", "--bf16"])
    plain, cast = (benchmark.opened(argparse.Namespace(**{**vars(args), "bf16": bf16})).unet for bf16 in (False, True))
    torch.manual_seed(0)
    x, label = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    want, found = (unet(x, 500, class_labels=label).sample for unet in (plain, cast))
    assert found.dtype == torch.float32 and {p.dtype for p in cast.parameters()} == {torch.float32}
    error = (found - want).norm() / want.norm()
    assert 0 < error < 0.05
    other = copy.deepcopy(cast)
    with torch.no_grad():
        other.conv_out.weight.zero_()
        other.conv_out.bias.zero_()
    assert not other(x, 500, class_labels=label).sample.any() and cast(x, 500, class_labels=label).sample.any()
