"""Records of the model's own trajectories, against the scheduler and the UNet called by hand."""

import pytest
import torch
from diffusers import DDIMScheduler
from tiny import STYLES, SUBJECTS

from semu_diffusion import load_pipeline
from semu_diffusion.diffusion.concepts import Pair
from semu_diffusion.diffusion.families import StableDiffusion, family_of, select
from semu_diffusion.diffusion.states import (
    ANCHOR,
    EMPTY,
    FORGET,
    KEEP,
    REMAIN,
    Contexts,
    States,
    draw_records,
    fingerprint,
    gather,
    noised_images,
    predict_distinct,
    trajectory,
)

PROMPTS = ["a picture of a cigarette in neon style", "a picture of a cigarette"]
ANCHORS = ["a picture in neon style", ""]
PAIRS = [Pair(p, a) for p, a in zip(PROMPTS, ANCHORS)]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def epsilon(tiny_model):
    return family_of(load_pipeline(str(tiny_model)))


@pytest.fixture(scope="module")
def velocity(tiny_v_model):
    return family_of(load_pipeline(str(tiny_v_model)))


@pytest.fixture(params=["epsilon", "velocity"])
def family(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def contexts(epsilon):
    return Contexts(epsilon, [*PROMPTS, *ANCHORS])


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def by_hand(pipe, x, t, prompts):
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=16, return_tensors="pt").input_ids
    with torch.no_grad():
        return pipe.unet(x, t, encoder_hidden_states=pipe.text_encoder(ids)[0]).sample


# ------------------------------------------------------------------------------------------------ families


def test_steps_are_those_of_ddim(family):
    scheduler = DDIMScheduler.from_config(family.pipe.scheduler.config, steps_offset=0)
    scheduler.set_timesteps(20)
    x, prediction = randn(2, 4, 8, 8), randn(2, 4, 8, 8, seed=2)
    for t in scheduler.timesteps:  # the last one goes to the clean picture
        s = torch.tensor([t - 50 if t >= 50 else -1] * 2)
        found = family.step(x, prediction, t.repeat(2), s)
        torch.testing.assert_close(found, scheduler.step(prediction, t, x, eta=0.0).prev_sample, **CLOSE)


def test_noise_and_truth_are_the_schedulers(family):
    clean, noise, t = randn(3, 4, 8, 8), randn(3, 4, 8, 8, seed=2), torch.tensor([0, 321, 999])
    scheduler = family.pipe.scheduler
    torch.testing.assert_close(family.noised(clean, noise, t), scheduler.add_noise(clean, noise, t), **CLOSE)
    v = scheduler.get_velocity(clean, noise, t)
    torch.testing.assert_close(
        family.truth(clean, noise, t), noise if family.prediction_type == "epsilon" else v, **CLOSE
    )


def test_a_true_prediction_leads_back_to_the_clean_latent(family):
    clean, noise, t = randn(3, 4, 8, 8), randn(3, 4, 8, 8, seed=2), torch.tensor([10, 321, 900])
    x, truth = family.noised(clean, noise, t), family.truth(clean, noise, t)
    torch.testing.assert_close(family.step(x, truth, t, torch.full((3,), -1)), clean, rtol=1e-3, atol=1e-3)
    s = torch.tensor([5, 100, 600])
    torch.testing.assert_close(family.step(x, truth, t, s), family.noised(clean, noise, s), rtol=1e-3, atol=1e-3)


def test_families_refuse_what_they_do_not_know(epsilon):
    with pytest.raises(ValueError, match="int is not a family.*Stable Diffusion"):
        family_of(3)
    config = epsilon.pipe.scheduler.config
    try:
        epsilon.pipe.scheduler = DDIMScheduler.from_config(config, prediction_type="sample")
        with pytest.raises(ValueError, match="prediction type 'sample'"):
            StableDiffusion(epsilon.pipe).check()
    finally:
        epsilon.pipe.scheduler = DDIMScheduler.from_config(config)


# ---------------------------------------------------------------------------------------------- trajectory


def test_recorded_predictions_are_those_of_the_unet(epsilon, contexts):
    records = trajectory(epsilon, contexts, PROMPTS, ANCHORS, [True, False], 3, 3.0, generator())
    assert len(records) == 3
    for r in records:
        for key, prompts in (("concept", PROMPTS), ("anchor", ANCHORS), ("empty", ["", ""])):
            torch.testing.assert_close(r[key], by_hand(epsilon.pipe, r["x"], r["t"], prompts), **CLOSE)


def test_trajectories_follow_the_prompt_or_the_anchor(family):
    words = Contexts(family, [*PROMPTS, *ANCHORS])
    records = trajectory(family, words, PROMPTS, ANCHORS, [True, False], 4, 3.0, generator())
    for now, then in zip(records, records[1:]):
        assert (then["t"] < now["t"]).all()
        follow = torch.stack([now["concept"][0], now["anchor"][1]])
        guided = now["empty"] + 3.0 * (follow - now["empty"])
        torch.testing.assert_close(then["x"], family.step(now["x"], guided, now["t"], then["t"]), **CLOSE)


def test_times_meet_the_whole_schedule(epsilon):
    words = Contexts(epsilon, ["cat"])
    records = trajectory(epsilon, words, ["cat"] * 40, [""] * 40, [True] * 40, 2, 1.0, generator())
    t = torch.cat([r["t"] for r in records])
    assert t.min() >= 0 and t.max() <= 999
    assert len(torch.unique(t // 100)) == 10


def test_distinct_prompts_run_once(epsilon, contexts, monkeypatch):
    x, t, sizes = randn(2, 4, 8, 8), torch.tensor([3, 700]), []
    predict = StableDiffusion.predict
    monkeypatch.setattr(
        StableDiffusion, "predict", lambda self, x, *args: sizes.append(len(x)) or predict(self, x, *args)
    )
    empty = torch.zeros(2, dtype=torch.long)
    for rows in ((contexts[PROMPTS], contexts[ANCHORS], empty), (contexts[PROMPTS], empty, empty), (empty,) * 3):
        values = tuple(select(contexts.values, r) for r in rows)
        with torch.no_grad():
            found = predict_distinct(epsilon, x, t, values, rows)
            for prediction, value in zip(found, values):
                torch.testing.assert_close(prediction, predict(epsilon, x, t, value), **CLOSE)
    assert sizes == [6, 4, 2]


def test_the_seed_fixes_the_records(epsilon, contexts):
    arguments = (epsilon, contexts, PAIRS * 2, [True, False] * 2, 2, 3.0)
    seen = []
    first = draw_records(*arguments, 5, 2, seen.append)
    again = draw_records(*arguments, 5, 2, seen.append)
    other = draw_records(*arguments, 6, 2, seen.append)
    assert seen == [2] * 6 and len(first) == 4
    assert all(torch.equal(a[k], b[k]) for a, b in zip(first, again) for k in a)
    assert not torch.equal(first[0]["x"], other[0]["x"])
    assert not torch.equal(first[0]["x"], first[2]["x"])  # each batch has noise of its own
    alone = trajectory(epsilon, contexts, PROMPTS, ANCHORS, [True, False], 2, 3.0, generator(5 + 2))
    assert torch.equal(alone[0]["x"], first[2]["x"])


# -------------------------------------------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def table(epsilon):
    keep = [f"{s} {k}" for s, k in zip(SUBJECTS, STYLES)]
    words = Contexts(epsilon, [*PROMPTS, *ANCHORS, *keep])
    forget = draw_records(epsilon, words, PAIRS, [True, False], 2, 3.0, 0, 32, lambda n: None)
    others = draw_records(epsilon, words, [Pair(p, "") for p in keep], [True] * 3, 2, 3.0, 1, 32, lambda n: None)
    given = noised_images(epsilon, words, randn(2, 4, 8, 8), [Pair(keep[0], "")] * 2, 2, generator())
    return words, gather(forget, others, given, words), keep


@pytest.mark.parametrize("kind", [FORGET, KEEP, ANCHOR, EMPTY])
def test_records_hold_their_prompts_and_predictions(epsilon, table, kind):
    words, states, keep = table
    names = list(words.rows)
    index = states.of_kind(kind)
    prompts = [names[k] for k in states.prompt[index]]
    assert set(prompts) == {FORGET: set(PROMPTS), KEEP: set(keep), ANCHOR: set(ANCHORS), EMPTY: {""}}[kind]
    assert len(index) == {FORGET: 4, KEEP: 6, ANCHOR: 4, EMPTY: 10}[kind]
    found = by_hand(epsilon.pipe, states.x[index], states.t[index], prompts)
    torch.testing.assert_close(states.concept[index], found, **CLOSE)


def test_forgotten_records_know_their_anchors(epsilon, table):
    words, states, _ = table
    index, names = states.of_kind(FORGET), list(words.rows)
    anchors = [ANCHORS[PROMPTS.index(names[k])] for k in states.prompt[index]]
    found = by_hand(epsilon.pipe, states.x[index], states.t[index], anchors)
    torch.testing.assert_close(states.anchor[index], found, **CLOSE)


def test_given_pictures_are_noised_with_the_truth_as_target(epsilon, table):
    _, states, _ = table
    index = states.of_kind(REMAIN)
    x, t, noise = states.x[index], states.t[index], states.concept[index]
    clean = epsilon.step(x, noise, t, torch.full_like(t, -1))
    torch.testing.assert_close(clean, randn(2, 4, 8, 8).repeat(2, 1, 1, 1), rtol=1e-3, atol=2e-3)


def test_no_anchor_records_where_the_anchor_is_the_empty_prompt(epsilon, contexts):
    forget = draw_records(epsilon, contexts, [PAIRS[1]] * 2, [True] * 2, 2, 3.0, 0, 32, lambda n: None)
    assert len(gather(forget, [], [], contexts).of_kind(ANCHOR)) == 0


def test_states_round_trip(table, tmp_path):
    states, file = table[1], tmp_path / "states.safetensors"
    assert States.load(file, "key") is None
    states.save(file, "key")
    loaded = States.load(file, "key")
    before, after = ({**vars(s), **s.contexts} for s in (states, loaded))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], v) for k, v in after.items() if k != "contexts")
    assert States.load(file, "another") is None


def test_the_fingerprint_changes_with_every_fact():
    keys = {fingerprint(a=1, b=[1, 2]), fingerprint(a=2, b=[1, 2]), fingerprint(a=1, b=[2, 1]), fingerprint(a=1)}
    assert len(keys) == 4
    assert fingerprint(a=1, b=2) == fingerprint(b=2, a=1)
