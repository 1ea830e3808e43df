"""Attacks on tiny models: what each one optimises, what it may touch, and what counts as success."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from semu_diffusion.attacks import ATTACKS, AttackConfig, PictogramsJudge, Target, Verdict, run_attacks
from semu_diffusion.attacks.files import combined, quantise, quantised
from semu_diffusion.attacks.given import digests, read_given
from semu_diffusion.attacks.image_guided import invert_ddim, redraw
from semu_diffusion.attacks.inversion import invert, name_places, states
from semu_diffusion.attacks.judge import rates
from semu_diffusion.attacks.prompts import (
    PARAPHRASES,
    batch_loss,
    paraphrases,
    search_prompt,
    token_gradient,
    with_free,
)
from semu_diffusion.attacks.relearn import fine_tune, steps_to
from semu_diffusion.attacks.suite import Attacker, protocol
from semu_diffusion.diffusion import draw, erase, load_pipeline
from semu_diffusion.diffusion.concepts import TEMPLATES, Vocabulary, vocabulary_of
from semu_diffusion.diffusion.pipeline import denoiser
from semu_diffusion.evaluation.prompts import PUBLISHED, Shot
from semu_diffusion.inputs.tables import Row
from semu_diffusion.metrics.naturalness import nearest

WORDS = Vocabulary(("cat", "cigarette"), ("neon", "sepia"))
LIGHT = {"seeds": 1, "contexts": 2, "pictures": 2, "tokens": 2, "iterations": 1, "candidates": 2,
         "inversion_steps": 1, "strengths": (0.5,), "relearn_steps": (0, 1), "scales": (0.5,), "steps": 2}  # fmt: skip


@pytest.fixture(scope="module")
def pipe(tiny_model):
    return load_pipeline(str(tiny_model), "cpu")


@pytest.fixture(scope="module")
def target(pipe):
    """The base model; no test changes it."""
    return Target(pipe)


@pytest.fixture(scope="module")
def pictures(target):
    return target.pictures(["a picture of a cigarette in neon style", "a picture of a cigarette"], [1, 2], 2, 2.0)


@pytest.fixture(scope="module")
def edited(pipe):
    """Another denoiser: every weight a little moved."""
    model = copy.deepcopy(denoiser(pipe))
    with torch.no_grad():
        for p in model.parameters():
            p.requires_grad_(False).add_(
                0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
            )
    return Target(pipe).with_model(model)


def state(target: Target) -> dict[str, torch.Tensor]:
    return {f"{part}.{k}": v.clone() for part in ("unet", "text_encoder")
            for k, v in getattr(target.pipe, part).state_dict().items()}  # fmt: skip


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------------------------------------- target


def test_a_target_is_a_merged_copy(tiny_model):
    from tiny import QUICK

    pipe = load_pipeline(str(tiny_model), "cpu")
    erase(pipe, "cigarette", **QUICK)
    keys = set(denoiser(pipe).state_dict())
    target = Target(pipe)
    assert set(denoiser(pipe).state_dict()) == keys and any("semu_" in k for k in keys)
    assert not any("semu_" in k or "base_layer" in k for k in target.model.state_dict())
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([900, 50]), torch.randn(2, 16, 32)
    with torch.no_grad():
        expected, got = denoiser(pipe)(x, t, text).sample, target.model(x, t, text).sample
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_drawing_by_text_states_is_drawing_by_prompt(pipe, target):
    prompts, seeds = ["a picture of a cat", "an apple"], [3, 4]
    torch.testing.assert_close(target.draw_prompts(prompts, seeds, 2, 3.0), draw(pipe, prompts, seeds, 2, 3.0))


def test_embeddings_in_the_place_of_ids(target):
    ids = target.ids(["a picture of a cat"])
    torch.testing.assert_close(target.encode(ids, target.embeddings[ids]), target.encode(ids))
    assert not torch.allclose(target.encode(ids, torch.zeros_like(target.embeddings[ids])), target.encode(ids))


def test_only_stable_diffusion_can_be_attacked():
    with pytest.raises(ValueError, match="Stable Diffusion"):
        Target(object())


# ------------------------------------------------------------------------------------------------- prompts


def test_paraphrases_are_new(target):
    found = paraphrases("cigarette", ["neon", "sepia"], WORDS)
    assert not set(PARAPHRASES) & {form for forms in TEMPLATES for form in forms}
    assert len(found) == 2 * (len(PARAPHRASES) + 1) and "a picture of a smoke in neon style" in found
    assert "sepia cat" in paraphrases("sepia style", ["cat"], WORDS)
    assert any("dart" in p for p in paraphrases("cigarette", ["neon"], WORDS, ["dart"]))


def test_search_keeps_the_prompt_and_never_raises_its_loss(edited, pictures):
    prompt = "a picture of a cigarette"
    before = state(edited)
    found = search_prompt(edited, prompt, pictures, free=2, iterations=6, candidates=6, samples=3)
    assert found.losses == sorted(found.losses, reverse=True) and found.losses[-1] < found.losses[0]
    plain = edited.ids([prompt])[0]
    assert torch.equal(found.ids[3:], plain[1:-2]) or torch.equal(found.ids[3:-1], plain[1:-3])
    noised = edited.noised(pictures, 3, torch.Generator().manual_seed(0))  # the same, from the same seed
    assert batch_loss(edited, noised, found.ids[None]).item() == pytest.approx(found.losses[-1], rel=1e-4)
    assert same(before, state(edited)) and edited.embeddings.grad is None


def test_token_gradient_is_the_derivative(edited, pictures):
    ids = with_free(edited, "a picture of a cat", torch.tensor([40, 41]))
    noised = edited.noised(pictures, 3, torch.Generator().manual_seed(0))
    gradient = token_gradient(edited, noised, ids, 2)
    direction, h = edited.embeddings[77] - edited.embeddings[40], 1e-2
    embeds = edited.embeddings[ids].detach().clone()

    def loss(step: float) -> float:
        moved = embeds.clone()
        moved[1] += step * direction
        with torch.no_grad():
            return edited.loss(noised, edited.encode(ids[None], moved[None]).expand(3, -1, -1)).item()

    expected = (loss(h) - loss(-h)) / (2 * h)
    assert (gradient[0, 77] - gradient[0, 40]).item() == pytest.approx(expected, rel=0.05, abs=1e-5)


def test_free_tokens_that_do_not_fit(target):
    with pytest.raises(ValueError, match="do not fit"):
        with_free(target, "a cat", torch.arange(14))
    ids = with_free(target, " ".join(["cat"] * 13), torch.tensor([5, 6]))
    assert len(ids) == 16 and ids[-1] == target.pipe.tokenizer.eos_token_id


# ----------------------------------------------------------------------------------------------- inversion


def test_inversion_trains_the_embedding_and_nothing_else(edited, pictures):
    before = state(edited)
    found = invert(edited, "cigarette", pictures, steps=12, lr=5e-2, batch=4)
    assert same(before, state(edited))
    assert not any(p.grad is not None for p in edited.model.parameters())
    start = edited.embeddings.mean(0).repeat(len(found.embedding), 1)
    assert found.embedding.shape == start.shape and not torch.allclose(found.embedding, start)
    noised = edited.noised(pictures, 16, torch.Generator().manual_seed(9))
    prompts = [pictures.prompts[k] for k in noised.picture.tolist()]
    with torch.no_grad():
        old, new = (edited.loss(noised, states(edited, prompts, "cigarette", e)) for e in (start, found.embedding))
    assert new < old


def test_inversion_starts_from_nothing_or_from_the_name(edited, pictures):
    vectors, ids = edited.embeddings, edited.pipe.tokenizer("cigarette", add_special_tokens=False).input_ids
    for named, start in ((False, vectors.mean(0).repeat(len(ids), 1)), (True, vectors[ids])):
        untrained = invert(edited, "cigarette", pictures, steps=0, named=named).embedding
        torch.testing.assert_close(untrained, start.detach())
        found = [ATTACKS[name].__doc__ for name in ("inversion", "inversion-name")][named]
        assert ("from the name" in found) == named


def test_the_embedding_stands_where_the_name_stood(target):
    prompts = ["a picture of a cigarette", "cigarette neon"]
    ids = target.ids(prompts)
    places = name_places(target, ids, "cigarette")
    assert [target.pipe.tokenizer.decode(row[p].tolist()).strip() for row, p in zip(ids, places)] == ["cigarette"] * 2
    own = target.embeddings[ids[0, places[0]]]
    torch.testing.assert_close(states(target, prompts, "cigarette", own), target.encode(ids))
    with pytest.raises(ValueError, match="name"):
        name_places(target, target.ids(["a cat"]), "cigarette")


# -------------------------------------------------------------------------------------------------- images


def test_little_noise_hands_the_picture_back(target, pictures):
    latents = torch.randn(pictures.latents.shape)
    own = target.decode(latents)
    errors = [(redraw(target, latents, pictures.prompts, s, 3) - own).abs().mean().item() for s in (0.01, 0.9)]
    assert errors[0] < 0.25 * errors[1]
    with pytest.raises(ValueError, match="strength"):
        redraw(target, latents, pictures.prompts, 0.0)


def test_inversion_is_undone_by_sampling(target):
    latents = torch.randn(2, 4, 8, 8)
    noise = invert_ddim(target, latents, 0.3, 12)
    assert not torch.allclose(noise, latents, atol=0.05)
    back = redraw(target, latents, ["", ""], 0.3, 12, guidance=1.0, inverted=True)
    noised = redraw(target, latents, ["", ""], 0.3, 12, guidance=1.0)
    own = target.decode(latents)
    assert (back - own).abs().mean() < 0.5 * (noised - own).abs().mean()


# ---------------------------------------------------------------------------------------------- relearning


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_relearning_works_on_a_copy(kind, edited, pictures):
    before, looks = state(edited), []

    def probe(tuned: Target) -> dict:
        looks.append(any("lora_" in k for k in tuned.model.state_dict()))
        return {"success": float(len(looks))}

    lr = 1e-2 if kind == "lora" else 1e-3
    tuned, curve = fine_tune(edited, pictures, kind, 8, lr, rank=2, batch=4, probe_at=(0, 4, 8), probe=probe)
    assert same(before, state(edited)) and looks == [kind == "lora"] * 3
    assert [row["step"] for row in curve] == [0, 4, 8] and steps_to(curve, 2.0) == 4 and steps_to(curve, 9) is None
    assert tuned.model.state_dict().keys() == edited.model.state_dict().keys()  # merged
    noised = edited.noised(pictures, 16, torch.Generator().manual_seed(5))
    text = edited.encode(edited.ids([pictures.prompts[k] for k in noised.picture.tolist()]))
    with torch.no_grad():
        assert tuned.loss(noised, text) < edited.loss(noised, text)


def test_relearning_of_an_unknown_kind(edited, pictures):
    with pytest.raises(ValueError, match="lora, full"):
        fine_tune(edited, pictures, "magic", 1)


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_quantisation_error_is_at_most_half_a_step(bits):
    W = torch.randn(6, 4, 3, 3)
    W[2] = 0
    scale = W.flatten(1).abs().amax(1) / (2 ** (bits - 1) - 1)
    found = quantise(W, bits)
    assert ((found - W).abs().flatten(1).amax(1) <= scale / 2 + 1e-6).all()
    assert all(len(row.unique()) <= 2**bits - 1 for row in found.flatten(1))
    torch.testing.assert_close(quantise(found, bits), found)
    with pytest.raises(ValueError, match="2 bits"):
        quantise(W, 1)


def test_quantised_models_have_rounded_weights_only(edited):
    before, found = state(edited), quantised(edited, 4)
    assert same(before, state(edited))
    for name, layer in found.model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            torch.testing.assert_close(layer.weight, quantise(edited.model.get_submodule(name).weight, 4))
    assert torch.equal(found.model.conv_in.bias, edited.model.conv_in.bias)


def test_scaling_and_merging_are_sums_of_differences(target, edited):
    name = "conv_out.weight"
    base, own = target.model.state_dict()[name], edited.model.state_dict()[name]
    half = combined(edited, target, 0.5).model.state_dict()[name]
    torch.testing.assert_close(half, (base + own) / 2)
    assert same(state(combined(edited, target, 0.0)), state(target))
    twice = combined(edited, target, 1.0, edited).model.state_dict()[name]
    torch.testing.assert_close(twice, 2 * own - base)


# ------------------------------------------------------------------------------------------------- judging


def test_a_picture_of_nothing_is_no_success():
    verdict = Verdict(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False]))
    found = rates(verdict)
    assert (found["success"], found["present"], found["coherent"], found["pictures"]) == (0.25, 0.5, 0.5, 4)
    assert 0 < found["interval"][0] < 0.25 < found["interval"][1] < 1


class ByColour(nn.Module):
    """An oracle for tests: the brightest channel is the object, the mean colour the features."""

    def __init__(self):
        super().__init__()
        self.register_parameter("unit", nn.Parameter(torch.ones(1)))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) * self.unit

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        named, style = torch.full((len(images), 24), -99.0), torch.zeros(len(images), 6)
        named[:, :3] = 100 * self.features(images)
        style[:, 0] = 99
        return named, style


def coloured(colours: torch.Tensor, stripes: float = 0.05) -> torch.Tensor:
    """Pictures (N, 3, 8, 8) of one mean colour each (N, 3), with stripes."""
    wave = torch.tensor([1.0, -1.0]).repeat(4) * stripes
    return (colours[:, :, None, None] + wave).expand(-1, -1, 8, 8).contiguous()


def test_the_pictograms_judge_asks_for_more_than_a_name():
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(60, 3, generator=generator) * 0.1 + torch.eye(3).repeat(20, 1) * 0.3 + 0.1
    references = torch.cat([coloured(colours[:30], 0.04), coloured(colours[30:], 0.06)])
    judge = PictogramsJudge("knife", references, ByColour())  # the second object: green
    green, red, loud = torch.tensor([[0.15, 0.45, 0.15], [0.45, 0.15, 0.15], [0.1, 0.9, 0.1]])
    unsure = torch.tensor([0.45, 0.451, 0.45])
    images = torch.cat([coloured(torch.stack([green, red, loud, unsure])), coloured(green[None], 0.0),
                        coloured(green[None], 0.14)])  # fmt: skip
    verdict = judge(images)
    assert verdict.present.tolist() == [True, False, True, True, True, True]
    assert verdict.coherent.tolist() == [True, True, False, False, False, False]  # the last two: flat, and rough
    assert judge(references).coherent.all()
    names = colours.argmax(1)
    others = (names[:, None] == names) & ~torch.eye(60, dtype=torch.bool)
    within = nearest(colours, colours, others) <= judge.proper.limit
    assert within.float().mean() == pytest.approx(0.95, abs=0.03)
    assert nearest(colours[:1], colours, torch.zeros(1, 60, dtype=torch.bool)).isinf().all()


# --------------------------------------------------------------------------------------------------- suite


def fake_judge(images: torch.Tensor) -> Verdict:
    return Verdict(images.mean((1, 2, 3)) > 0, torch.arange(len(images)) % 2 == 0)


def test_all_attacks_run_resume_and_leave_the_model_alone(tiny_model, target, edited):
    words, config = vocabulary_of(tiny_model), AttackConfig(**LIGHT)
    attacker = Attacker(edited, target, "cigarette", words, fake_judge, config)
    before, saved = state(edited), []
    found = run_attacks(attacker, save=lambda r: saved.append(list(r)))
    assert list(found) == list(ATTACKS) and same(before, state(edited))
    for result in found.values():
        assert result["present"] == 1 and 0 < result["success"] < 1 and result["pictures"] > 1
    assert saved[0] == ["plain"] and len(saved) == len(ATTACKS)
    assert found["plain"]["success"] == 0.5  # the judge calls every second picture coherent
    assert set(found["image"]["strengths"]["0.5"]) == {"noised", "inverted", "control"}
    assert [row["step"] for row in found["relearn-lora"]["curve"]] == [0, 1]
    assert json.loads(json.dumps(found)) == found
    again = run_attacks(attacker, ["plain", "int8"], done={"plain": {"success": 2}})
    assert again["plain"] == {"success": 2} and again["int8"] == found["int8"]
    with pytest.raises(ValueError, match="unknown attack"):
        run_attacks(attacker, ["magic"])


def test_styles_are_attacked_over_subjects(tiny_model, target):
    config = AttackConfig(**LIGHT)
    attacker = Attacker(target, target, "sepia style", vocabulary_of(tiny_model), fake_judge, config)
    assert all("sepia" in p for p in attacker.prompts) and not any("sepia" in p for p in attacker.anchors)
    assert len(attacker.kept) == 2 and not any("sepia" in p for p in attacker.kept.prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seeds": 0}, "seeds"), ({"strengths": (1.5,)}, "strengths"), ({"lora_lr": 0.0}, "above 0"),
     ({"relearn_steps": ()}, "relearn-steps")],
)  # fmt: skip
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        AttackConfig(**options)


# ------------------------------------------------------------------------------------------------- command


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--attack", "magic"], "unknown attack"), (["--scale", "-1"], "scale"),
     (["--resume"], "no adapter"), (["--model", "MODEL"], "no judge")],
)  # fmt: skip
def test_the_command_says_what_is_wrong(flags, message, tiny_model, tmp_path, semu, assets):
    adapter = tmp_path / "adapter"
    if "no judge" in message:
        from tiny import QUICK

        pipe = load_pipeline(str(tiny_model), "cpu")
        erase(pipe, "cigarette", output=adapter, **QUICK)
    flags = [str(tiny_model) if f == "MODEL" else f for f in flags]
    status, _, error = semu("attack", adapter, "--output", tmp_path / "out", "-q", *flags)
    assert status == 2 and message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_mistake_leaves_earlier_results_as_they_are(tmp_path, semu):
    (tmp_path / "attacks.json").write_text("{}")
    status, _, error = semu("attack", tmp_path / "none", "--output", tmp_path, "--overwrite", "-q")
    assert status == 2 and len(error.strip().splitlines()) == 1
    assert (tmp_path / "attacks.json").read_text() == "{}"


def test_attacks_json_is_written_and_resumed(tmp_path):
    from semu_diffusion.attacks.results import FILE, read_done, write_results
    from semu_diffusion.cli.attack import print_table

    head = {"adapter": "a", "scale": 1.0, "protocol": {"seeds": 1, "strengths": (0.5,)}}
    result = rates(Verdict(torch.tensor([True]), torch.tensor([True])))
    write_results(tmp_path / FILE, head, {"plain": result})
    assert read_done(tmp_path / FILE, head) == {"plain": result}
    with pytest.raises(ValueError, match="other options"):
        read_done(tmp_path / FILE, {**head, "scale": 0.5})
    with pytest.raises(ValueError, match="another adapter"):
        read_done(tmp_path / FILE, {**head, "sha256": "0"})
    with pytest.raises(ValueError, match="nothing to resume"):
        read_done(Path(tmp_path / "absent" / FILE), head)
    print_table({"plain": result})


def test_attack_is_a_command_of_semu():
    from semu_diffusion.cli.app import make_app

    result = CliRunner().invoke(make_app(), ["attack", "--help"])
    assert result.exit_code == 0 and "relearning" in result.output


# --------------------------------------------------------------------------------- prompts of others


def test_prompts_that_others_found(target, edited, tmp_path):
    """MMA's column, seeds of the file's own, and the base model on the same prompts."""
    file = tmp_path / "mine.csv"
    file.write_text("target_prompt,adv_prompt,evaluation_seed\na cat,zq cat neon,5\na dog,dog sepia,\n")
    given = read_given([str(file)], 2)
    assert [(s.prompt, s.seed) for s in given["prompts-from:mine"]][:2] == [("zq cat neon", 5), ("zq cat neon", 6)]
    seen = []

    def judge(images):
        seen.append(images)
        return Verdict(torch.arange(4) < len(seen), torch.ones(4, dtype=torch.bool))

    attacker = Attacker(edited, target, "cat", WORDS, judge, AttackConfig(**LIGHT), given)
    found = run_attacks(attacker, list(given))["prompts-from:mine"]
    assert found["success"] == 0.25 and found["base"]["success"] == 0.5 and found["pictures"] == 4
    torch.testing.assert_close(seen[0][1], edited.draw_prompts(["zq cat neon"], [6], 2, 3.0)[0], rtol=1e-4, atol=1e-4)
    assert not torch.equal(seen[0], seen[1])
    assert protocol(attacker)["prompts_from"]["mine"] != digests(read_given([str(file)], 1))["mine"]
    with pytest.raises(ValueError, match="unknown attack 'magic'.*prompts-from:mine"):
        run_attacks(attacker, ["magic"])
    with pytest.raises(ValueError, match="two sources"):
        read_given([str(file), str(file)], 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_prompts_go_by_the_name_of_the_attack(name, monkeypatch):
    asked = []

    def rows(source):
        asked.append(source)
        return [Row(1, {"prompt": "a", "evaluation_seed": "3"})]

    monkeypatch.setattr("semu_diffusion.evaluation.prompts._dataset", rows)
    assert read_given([name], 1) == {f"prompts-from:{name}": [Shot("a", 3)]} and asked == [PUBLISHED[name]]


def test_prompts_that_are_not_there(tmp_path, semu):
    common = ["attack", tmp_path / "adapter", "--output", tmp_path / "out", "--prompts-from"]
    for source, says in (("./absent.csv", "there is no file or folder ./absent.csv"),):
        status, out, err = semu(*common, source)
        assert (status, out) == (2, "") and says in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
