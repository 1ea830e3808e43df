"""The scale benchmark in its tiny form: every section runs and says what it should."""

import dataclasses
import json
import sys
import time

import pytest
import torch
from tiny import QUICK

from eval.scale import benchmark as bench_scale
from eval.scale import counting, phases, scaling
from eval.scale import models as scale_models
from eval.scale.sections import PHASES
from semu_diffusion import erase, load_pipeline
from semu_diffusion.adapter import SemuConfig, SemuLayer
from semu_diffusion.adapter.moments import second_moments


def run(monkeypatch, output, *arguments):
    monkeypatch.setattr(
        sys, "argv", ["eval/scale/benchmark.py", "--size", "tiny", "--rank", "4", "--output", str(output), *arguments]
    )
    bench_scale.main()
    return json.loads(output.read_text())


def test_sections_are_measured_and_kept(monkeypatch, tmp_path):
    file = tmp_path / "scale.json"
    quick = ("--rounds", "1", "--steps", "1", "--latents", "8")
    found = run(monkeypatch, file, "--only", "svd", *quick)
    for kind in ("random", "decaying"):
        assert found["svd"][kind]["energy_of_exact"]["worst"]["of_exact"] > 0.995
        assert set(found["svd"][kind]["semu_over"]) == {"exact", "published"}
    assert found["svd"]["layers"] == len(scale_models.shapes(scale_models.make("tiny", "meta")))
    found = run(monkeypatch, file, "--only", "step", "--only", "inference", "--only", "bytes", *quick)
    assert list(found) == ["svd", "step", "inference", "bytes"]  # the earlier section is still there
    step = found["step"]
    assert set(step["seconds"]) == {"forward", "semu", "lora", "full", "published"}
    assert all(0 < t["min"] <= t["median"] <= t["max"] for t in step["seconds"].values())
    assert step["trained"]["semu"] == step["trained"]["published"] < step["trained"]["lora"] < step["trained"]["full"]
    assert "full with live teacher" in step["semu_over"]
    assert set(found["inference"]["seconds"]) == {"base", "semu", "semu merged", "lora", "base again"}
    text = "\n".join(scaling.measured(found))
    for ratio in (found["step"]["semu_over"]["lora"], found["inference"]["over"]["semu merged"]["base"]):
        assert f"| {ratio['median']:.2f}× ({ratio['min']:.2f} to {ratio['max']:.2f}) |" in text
    assert f"{1 / found['svd']['random']['semu_over']['exact']['median']:.1f}× (" in text
    sizes = found["bytes"]
    assert sizes["trained_bytes"] == 4 * step["trained"]["semu"] and sizes["lora"] == 4 * step["trained"]["lora"]


def test_tiny_numbers_cannot_land_among_the_results(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["eval/scale/benchmark.py", "--size", "tiny"])
    with pytest.raises(SystemExit):
        bench_scale.parse_args()


def test_variants_compute_the_same_and_leave_no_trace():
    model = scale_models.make("tiny", sample_size=8)
    call = scale_models.inputs("tiny", model, 1)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        base = call(model)
        for name, variant in scale_models.VARIANTS.items():
            trained = variant(model, 3)
            torch.testing.assert_close(call(model), base)  # R = 0, B = 0
            assert all(p.requires_grad for p in trained)
            scale_models.restore(model)
            assert model.state_dict().keys() == state.keys()
            assert not any(p.requires_grad for p in model.parameters()), name
    parameters = scale_models.as_published(model, 3)
    rebuilt = {name: (m.U, m.R, m.V) for name, m in model.named_modules() if isinstance(m, scale_models.Rebuilt)}
    for parameter in parameters:
        parameter.data = torch.randn_like(parameter)
    with torch.no_grad():
        other = call(model)
        scale_models.restore(model)
        scale_models.as_semu(model, 3)
        for name, (U, R, V) in rebuilt.items():
            model.get_submodule(name).set_basis("default", U, V, R)
        assert (call(model) - base).norm() > 0.1 * base.norm()
        torch.testing.assert_close(call(model), other, rtol=1e-3, atol=1e-4)  # both forwards are W + U R V^T
        scale_models.merge(model)
        torch.testing.assert_close(call(model), other, rtol=1e-3, atol=1e-4)
        assert all(m.merged for m in model.modules() if isinstance(m, SemuLayer))


def test_the_written_pipeline_can_be_erased_from(tmp_path):
    pipe = load_pipeline(str(scale_models.write_pipeline("tiny", tmp_path / "model", 8)))
    erasure = erase(pipe, "cat", **{**QUICK, "steps": 1})
    assert erasure.progress.step == 1


def test_costs_are_counted_from_the_configuration(tmp_path, monkeypatch):
    tiny = scaling.describe("tiny", 4)
    call = scale_models.inputs("tiny", scale_models.make("tiny"), 1)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the CPU's fused kernel is not counted
        assert tiny.forward == counting.counted(scale_models.make("tiny"), call)  # meta tensors do the same sums
        monkeypatch.setattr("semu_diffusion.adapter.moments.gram_matrix", lambda A: A @ A.mT)  # all of it, as on a GPU
        with_moments = lambda m: second_moments(m, SemuConfig(), lambda: call(m))  # noqa: E731
        assert tiny.forward + tiny.moments == counting.counted(scale_models.make("tiny"), with_moments)
    assert 2 * tiny.forward < tiny.semu.flops < 2.6 * tiny.forward  # no gradients of weights
    assert tiny.semu.flops < tiny.lora.flops < tiny.full.flops < 3 * tiny.forward
    model = scale_models.make("tiny")
    assert tiny.semu.trained == sum(p.numel() for p in scale_models.as_semu(model, 4))
    assert tiny.adapter == 4 * sum(v.numel() for k, v in model.state_dict().items() if "semu_" in k)
    config = scaling.EraseConfig(concept="x", sampler_steps=10)
    one, many = (scaling.run_flops(tiny, config, n, 64) for n in (1, 64))
    assert one["gradient"] == 64 * many["gradient"] and one["training"] > 60 * many["training"]
    assert many["latents"] == 3 * 10 * (1 + 2) * tiny.forward  # 48 and 80 latents: somebody has one, and two
    assert many["bases"] == tiny.largest + 4 * (tiny.forward + tiny.moments) and tiny.largest < tiny.basis
    watch = second_moments(model, SemuConfig(), lambda: call(model))
    assert tiny.summed == sum(4 * C.numel() for C in {id(C): C for C in watch.values()}.values())
    assert set(scaling.moved_bytes(tiny, config, 1).values()) == {0}
    assert scaling.moved_bytes(tiny, config, 64)["SEMU"] < scaling.moved_bytes(tiny, config, 64)["LoRA"]
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps({"rank": 4, "models": [dataclasses.asdict(tiny)], "plans": []}))
    assert scaling.from_file(counts, ["tiny"], 4) == ([tiny], [])
    with pytest.raises(SystemExit, match="does not have all these models at rank 8"):
        scaling.from_file(counts, ["tiny"], 8)
    text = scaling.page([tiny], config, 4, 64, {})
    assert text.count("| tiny |") == 7 and "Counted and measured" not in text


def test_a_phase_inside_of_another_is_counted_once():
    clock = phases.Clock()

    def busy(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    inner = clock.timed("inner", lambda: busy(0.02))
    clock.timed("outer", lambda: (busy(0.03), inner(), inner()))()
    assert clock.seconds["inner"] == pytest.approx(0.04, abs=0.01)
    assert clock.seconds["outer"] == pytest.approx(0.03, abs=0.01) and len(clock.calls["inner"]) == 2


def test_phases_of_an_erasure_beside_another_way_of_as_many_evaluations(tmp_path):
    folder = str(scale_models.write_pipeline("tiny", tmp_path / "model", 8))
    load = lambda: load_pipeline(folder, "cpu")  # noqa: E731
    config = phases.EraseConfig("cigarette", guidance=7.5, **phases.SIZES["tiny"])
    ours, evaluations = phases.run_ours(load, config)
    assert set(ours["phases"]) == set(PHASES) - {"checks"}  # of so few records none are held out
    assert ours["seconds"] == pytest.approx(sum(ours["phases"].values())) and ours["steps"] == 3
    other = phases.run_other(load, "esd-x", config, evaluations)
    assert evaluations - 2 < other["evaluations"] <= evaluations
    assert set(other["phases"]) == {"drawing", "training"}
