"""The peers of the benchmark: what defines each method, against a computation of its own."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from eval.peers.diffusion import METHODS, Budget, edit
from eval.peers.diffusion import work as work_module
from eval.peers.diffusion.forget_me_not import attention_maps, concept_marks, steering_loss
from eval.peers.diffusion.own import OWN, own_prompts
from eval.peers.diffusion.pictures import clean_latents
from eval.peers.diffusion.salun import saliency
from eval.peers.diffusion.selective_amnesia import fisher, penalty
from eval.peers.diffusion.semu_published import Update, basis, project, published_ranks
from eval.peers.diffusion.sfron import ascent
from eval.peers.diffusion.work import Meter, Work
from semu_diffusion.diffusion import load_pipeline
from semu_diffusion.diffusion.concepts import Pair, vocabulary_of
from semu_diffusion.diffusion.erasers.tokens import aligned, positions
from semu_diffusion.diffusion.erasers.uce import embeddings, solve
from semu_diffusion.diffusion.pipeline import denoiser

SMALL = Budget(evaluations=110, latents=4, keep_latents=4, sampler_steps=3, batch_size=4)
OURS = replace(SMALL, evaluations=400)  # it chooses an anchor, and its stop rule looks at held-out records
QUICK = {"gradient_records": 8, "moment_records": 8, "steps": 2}  # of our own methods


@pytest.fixture(scope="module")
def loaded(tiny_model):
    return load_pipeline(str(tiny_model), "cpu")


@pytest.fixture
def pipe(loaded):
    """The tiny pipeline with a denoiser of its own, so that nothing is edited twice."""
    fresh = type(loaded)(**{**loaded.components, "unet": copy.deepcopy(loaded.unet)}, requires_safety_checker=False)
    fresh.register_to_config(_name_or_path=loaded.config["_name_or_path"])
    return fresh


def weights(pipe) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in denoiser(pipe).named_parameters()}


def changed(pipe, before) -> set[str]:
    return {name for name, p in denoiser(pipe).named_parameters() if not torch.equal(p, before.get(name, p))}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_edits_within_its_budget(name, pipe):
    before, x = weights(pipe), torch.randn(2, 4, 8, 8)
    text, t = torch.randn(2, 16, 32), torch.tensor([500, 100])
    with torch.no_grad():
        old = denoiser(pipe)(x, t, text).sample
    ours = name.startswith("ours")
    extra = {**QUICK, **METHODS[name].more} if ours else {}
    budget = OURS if ours or not METHODS[name].own else SMALL  # the shared prompts ask the model, too
    edited, facts = edit(name, pipe, "cigarette", budget, 0, **extra)
    with torch.no_grad():
        assert not torch.equal(denoiser(edited.pipe)(x, t, text).sample, old)
    assert facts["evaluations"] <= budget.evaluations or name == "ours-robust"  # its round comes on top
    assert facts["seconds"] > 0
    assert facts["gradient_evaluations"] <= facts["evaluations"]
    assert facts["trained"] > 0 and facts["shipped_bytes"] > 0
    assert not any(p.requires_grad for p in denoiser(pipe).parameters())
    small = ours or name in ("low-rank", "fade")
    assert bool(changed(pipe, before)) != small  # adapters leave the weights alone


@pytest.mark.parametrize("given", [0, 20])
def test_ours_takes_what_the_budget_leaves_beside_its_training(given, pipe, tmp_path):
    """Where the stop rule ends nothing: no sample more, and most of what there is, with pictures of the user's, too."""
    budget, options = replace(SMALL, evaluations=1400, latents=64), {"steps": 500, "stop_at": 0.0}
    for k in range(given):
        Image.fromarray(np.full((16, 16, 3), 9 * k, np.uint8)).save(tmp_path / f"{k}.png")
        options |= {f"{part}_images": str(tmp_path) for part in ("forget", "retain")} | {"retain_prompt": "a cat"}
    _, facts = edit("ours-remain", pipe, "cigarette", budget, 0, **{**QUICK, **options, "moment_records": 128})
    assert 1250 < facts["evaluations"] <= budget.evaluations


@pytest.mark.parametrize(("name", "inside"), [("esd-x", True), ("esd-u", False)])
def test_esd_trains_its_side_of_the_model(name, inside, pipe):
    before = weights(pipe)
    edit(name, pipe, "cigarette", SMALL, 0)
    names = changed(pipe, before)
    assert names and all((".attn2." in n) is inside for n in names)
    assert inside or not any("conv_out" in n or "time_embedding" in n for n in names)


def test_uce_is_the_least_squares_solution(pipe):
    old, new, kept = embeddings(Work(pipe, "cigarette", SMALL, 0, "expanded", draw=False))
    W, (keep, damping) = torch.randn(6, old.shape[1]), (0.5, 0.1)
    d = W.shape[1]
    # The same minimum by stacked rows: sqrt(weight) * [c; c_k; I] X^T = sqrt(weight) * [c* W^T; c_k W^T; W^T]
    ridge = (keep * damping * kept.double().square().mean()).sqrt()
    a, b = (1 / len(old)) ** 0.5, (keep / len(kept)) ** 0.5
    rows = torch.cat([a * old, b * kept, ridge.float() * torch.eye(d)]).double()
    answers = torch.cat([a * new @ W.T, b * kept @ W.T, ridge.float() * W.T]).double()
    expected = torch.linalg.lstsq(rows, answers, driver="gelsd").solution.T.float()
    torch.testing.assert_close(solve(W, old, new, kept, keep, damping), expected, rtol=1e-3, atol=1e-4)


def test_uce_needs_no_run_of_the_model_and_changes_keys_and_values_only(pipe):
    before = weights(pipe)
    _, facts = edit("uce", pipe, "cigarette", SMALL, 0)
    assert facts["evaluations"] == 0
    assert changed(pipe, before) == {n for n in before if ".attn2.to_k" in n or ".attn2.to_v" in n}


def test_concept_tokens_and_their_counterparts(pipe):
    pair = Pair("a picture of a cigarette in neon style", "a picture in neon style")
    padded = {"padding": "max_length", "truncation": True, "max_length": pipe.tokenizer.model_max_length}
    ids = [pipe.tokenizer(p, **padded).input_ids for p in (pair.prompt, pair.anchor)]
    at = positions(pipe.tokenizer, pair.prompt, ["cigarette"])
    assert pipe.tokenizer.decode([ids[0][k] for k in at]).strip() == "cigarette"
    found = dict(aligned(pipe.tokenizer, pair, ["cigarette"]))
    words = {pipe.tokenizer.decode([ids[0][a]]).strip(): pipe.tokenizer.decode([ids[1][b]]).strip()
             for a, b in found.items()}  # fmt: skip
    assert words["cigarette"] == "picture" and words["neon"] == "neon" and words["style"] == "style"
    assert min(found) == at[0]  # nothing before the concept: those embeddings are everybody's
    end = pipe.tokenizer.eos_token_id
    assert all(ids[1][b] == end for a, b in found.items() if ids[0][a] == end)
    alone = dict(aligned(pipe.tokenizer, Pair("cigarette", ""), ["cigarette"]))
    assert alone[1] == 0 and alone[2] == 1  # the start token, then the end token


def test_salun_mask_holds_the_largest_gradients(pipe):
    work = Work(pipe, "cigarette", SMALL, 0, "image")
    parameters = work.parameters("all")
    state = work.generator.get_state()
    masks = saliency(work, parameters, 0.3, records=8)
    work.generator.set_state(state)
    index = work.pick(work.forget, 8)
    work.distance(index, work.targets(index)).backward()
    grads = torch.cat([p.grad.abs().flatten() if p.grad is not None else torch.zeros(p.numel())
                       for p in parameters.values()])  # fmt: skip
    mask = torch.cat([m.flatten() for m in masks]).bool()
    assert mask.float().mean() == pytest.approx(0.3, abs=1e-3)
    assert grads[mask].min() >= grads[~mask].max() * (1 - 1e-3)


def test_salun_leaves_unmasked_weights_alone(pipe):
    before = weights(pipe)
    _, facts = edit("salun", pipe, "cigarette", SMALL, 0, share=0.1)
    moved = sum(int((p != before[n]).sum()) for n, p in denoiser(pipe).named_parameters())
    assert 0 < moved <= facts["trained"] <= 0.11 * sum(w.numel() for w in before.values())


def test_attention_maps_are_those_of_the_model(pipe):
    work = Work(pipe, "cigarette", SMALL, 0, "image", keep=False, steer="concept")
    marks = concept_marks(work)[work.states.prompt[work.forget]]
    assert (marks.sum(1) >= 1).all()
    index = work.forget[:3]
    attention = next(m for n, m in work.model.named_modules() if n.endswith("attn2"))
    seen = {}
    handle = attention.register_forward_hook(lambda m, args, kwargs, out: seen.update(x=args[0], text=kwargs["encoder_hidden_states"], out=out), with_kwargs=True)  # noqa: E501  # fmt: skip
    with torch.no_grad(), attention_maps(work.model) as maps:
        work.predict(index)
    handle.remove()
    assert len(maps) == sum(n.endswith("attn2") for n, _ in work.model.named_modules())
    value = attention.head_to_batch_dim(attention.to_v(seen["text"]))
    out = attention.to_out[0](attention.batch_to_head_dim(maps[0] @ value))
    torch.testing.assert_close(out, seen["out"], rtol=1e-4, atol=1e-5)
    marks = concept_marks(work)[work.states.prompt[index]]
    expected = torch.stack([(A.unflatten(0, (3, -1))[k, ..., marks[k].bool()] ** 2).mean() for A in maps for k in range(3)])  # noqa: E501  # fmt: skip
    assert steering_loss(maps, marks).item() == pytest.approx(expected.mean().item(), rel=1e-4)


def test_forget_me_not_lowers_the_attention(pipe):
    def attention() -> float:
        work = Work(pipe, "cigarette", SMALL, 0, "image", keep=False, steer="concept")
        with torch.no_grad(), attention_maps(work.model) as maps:
            work.predict(work.forget)
        return steering_loss(maps, concept_marks(work)[work.states.prompt[work.forget]]).item()

    before = attention()
    edit("forget-me-not", pipe, "cigarette", SMALL, 0, lr=1e-3, steps=3)
    assert attention() < before


def test_elastic_penalty_and_fisher_of_a_known_model(pipe):
    work = Work(pipe, "cigarette", SMALL, 0, "image")
    parameters = work.parameters("all")
    F = fisher(work, parameters, 3)
    total = sum(f.sum() for f in F.values()) / sum(f.numel() for f in F.values())
    assert total.item() == pytest.approx(1.0, rel=1e-4) and all((f >= 0).all() for f in F.values())
    start = {n: p.detach().clone() for n, p in parameters.items()}
    assert penalty(parameters, start, F).item() == 0
    name = "conv_out.bias"
    with torch.no_grad():
        parameters[name] += 0.5
    value = penalty(parameters, start, F)
    assert value.item() == pytest.approx(0.125 * F[name].sum().item(), rel=1e-4)
    (grad,) = torch.autograd.grad(value, [parameters[name]])
    torch.testing.assert_close(grad, 0.5 * F[name], rtol=1e-4, atol=1e-6)
    # The last bias adds to every pixel of its channel: its Fisher information is the same for all channels.
    assert F[name].std() < F[name].mean()


def test_sfron_weights_and_pictures(pipe):
    errors = torch.tensor([0.25, 1.0], requires_grad=True)
    ascent(errors, 0.5).backward()
    torch.testing.assert_close(errors.grad, torch.tensor([2.0, 1.0]) / 1.5 / 2)
    work = Work(pipe, "cigarette", SMALL, 0, "image", keep=False, steer="concept")
    latents, rows = clean_latents(work)
    assert latents.shape == (4, 4, 8, 8)
    # The same pictures by sampling on with the recorded states' guided prediction to the end.
    index = work.forget[-4:]
    s = work.states
    led = s.empty[index] + 3.0 * (s.concept[index] - s.empty[index])
    a = work.family.alphas[s.t[index]][:, None, None, None]
    torch.testing.assert_close(latents, (s.x[index] - (1 - a).sqrt() * led) / a.sqrt(), rtol=1e-4, atol=1e-4)
    assert torch.equal(rows, s.prompt[index])


def test_low_rank_adapter_is_a_lora_and_untouched_at_the_start(pipe):
    edited, facts = edit("low-rank", pipe, "cigarette", SMALL, 0, rank=2)
    names = [n for n, _ in denoiser(edited.pipe).named_parameters() if "lora_" in n]
    assert names and all("attentions" in n for n in names)
    assert facts["trained"] == sum(denoiser(pipe).get_parameter(n).numel() for n in names)


def test_published_rank_rule_keeps_at_most_gamma():
    S = torch.tensor([[3.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert published_ranks(S, 0.9).tolist() == [1, 0, 2]  # 9/11 <= .9 < 10/11; 1 > .9; 1/3, 2/3 <= .9
    assert published_ranks(S, 0.95).tolist() == [2, 0, 2]


def test_published_projection_is_orthogonal_for_unit_weights_only():
    G, W = torch.randn(5, 7), torch.randn(5, 7)
    unit = W / W.norm()
    assert (project(G, unit) * unit).sum().abs() < 1e-5
    left = (project(G, W) * W).sum() / (G * W).sum()
    assert left.item() == pytest.approx(1 - W.norm().item(), rel=1e-4)


def test_published_convolution_has_one_basis_per_input_channel():
    G, W = torch.randn(6, 3, 3, 3), torch.randn(6, 3, 3, 3)
    U, V, ranks = basis(G, 0.9)
    assert U.shape[0] == 3 and len(ranks) == 3
    own = Update(U, V, ranks)
    torch.testing.assert_close(own(W), W)
    with torch.no_grad():
        own.R.normal_()
    delta = own(W) - W
    for c in range(3):
        n = int(ranks[c])
        expected = U[c, :, :n] @ own.R[c, :n, :n] @ V[c, :n]
        torch.testing.assert_close(delta[:, c].flatten(1), expected, rtol=1e-4, atol=1e-5)


def test_a_budget_that_is_too_small_says_so(pipe):
    with pytest.raises(ValueError, match="budget"):
        edit("full", pipe, "cigarette", Budget(evaluations=20, latents=4, keep_latents=4, sampler_steps=3), 0)
    with pytest.raises(ValueError, match="unknown method"):
        edit("magic", pipe, "cigarette", SMALL, 0)


def test_the_meter_counts_samples_and_gradients(pipe):
    meter = Meter(denoiser(pipe))
    x, text = torch.randn(3, 4, 8, 8), torch.randn(3, 16, 32)
    denoiser(pipe)(x, 5, text)
    with torch.no_grad():
        denoiser(pipe)(x[:2], 5, text[:2])
    meter.close()
    denoiser(pipe)(x, 5, text)
    assert (meter.samples, meter.trained) == (5, 3)
    assert work_module.parameter_count(pipe) == sum(w.numel() for w in weights(pipe).values())


def test_the_prompts_of_the_authors(pipe):
    words = vocabulary_of(pipe.config["_name_or_path"])
    found = {kind: own_prompts(kind, "cigarette", words, 4, 0) for kind in OWN}
    assert found["name"][0] == [Pair("cigarette", "")]
    assert Pair("photo of cigarette", "photo of") in found["expanded"][0] and len(found["expanded"][0]) == 6
    assert [p.prompt for p in found["image"][0]] == ["an image of a cigarette"]
    assert found["image"][0][0].anchor in [f"an image of {o}" for o in ("a cat", "a dog", "an apple", "a tree")]
    assert all(len(keep) == 4 and "cigarette" not in " ".join(keep) for _, keep in found.values())
    assert own_prompts("name", "neon style", words, 4, 0)[0] == [Pair("neon style", "")]
    assert {m.own for m in METHODS.values()} - {""} == set(OWN)
    with pytest.raises(ValueError, match="expanded"):
        own_prompts("mine", "cigarette", words, 4, 0)
