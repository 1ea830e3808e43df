"""What the model itself says is nearest to a concept, and the plan that is made of it."""

import json

import pytest
import torch
from tiny import quick

from semu_diffusion import load_pipeline
from semu_diffusion.callbacks import Callback
from semu_diffusion.diffusion import EraseConfig
from semu_diffusion.diffusion.concepts import COMMON, Vocabulary, concept_of, vocabulary_of
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.nearest import SAME, nearest, token_words
from semu_diffusion.diffusion.plan import STRENGTH, make_plan
from semu_diffusion.pictograms.words import OBJECTS, SYNONYMS


class Notes(Callback):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def embedded(assets):
    return family_of(load_pipeline("pictograms", "cpu"))


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return family_of(load_pipeline(str(tiny_model), "cpu"))


def plan_of(family, words, gone=(), **options):
    notes = Notes()
    plan, config = make_plan(family, EraseConfig(**options), words, list(gone), notes)
    return plan, config, notes.lines


# Few steps: the distances of names and other things are far apart.
FEW = {"sampler_steps": 2, "guidance": 3.0}


def test_the_embedded_model_knows_what_is_another_name_and_what_another_thing(embedded):
    """Its captions call some objects by two names: those are alike, never an anchor and never a neighbour."""
    for name, other in (("cat", "kitten"), ("airplane", "plane")):
        words = Vocabulary((*OBJECTS[:8], *SYNONYMS.values()), ("photo", "neon"))
        found = nearest(embedded, concept_of(name, words), words, [], EraseConfig(concept=name, **FEW))
        assert found.alike == (other,)
        assert found.anchor not in (None, name, other) and other not in found.neighbours
        assert found.distances[other][1] < SAME / 2 < 1.3 * SAME < found.distances[found.anchor][1]
        again = nearest(embedded, concept_of(name, words), words, [], EraseConfig(concept=name, **FEW))
        assert again == found


def test_what_is_erased_is_neither_drawn_instead_nor_kept(embedded, assets):
    words = vocabulary_of(assets)
    first, *_ = plan_of(embedded, words, concept="guitar", **FEW)
    (anchor,) = first.anchors["guitar"]
    second, *_ = plan_of(embedded, words, gone=[anchor], concept="guitar", **FEW)
    assert second.anchors["guitar"] != [anchor] and anchor not in second.neighbours["guitar"]
    assert not any(anchor in p for p in second.keep)


def test_the_plan_says_what_it_chose_and_falls_to_the_strength_of_its_anchor(embedded, assets):
    words = vocabulary_of(assets)
    plan, config, said = plan_of(embedded, words, concept="guitar", **FEW)
    (anchor,) = plan.anchors["guitar"]
    assert config.strength == STRENGTH[True] == 0.25
    assert said[0].startswith(f"erasing the object guitar: a picture of a guitar → a picture of a {anchor}, ")
    assert said[1] == f"kept with more care, as nearest to guitar: {', '.join(plan.neighbours['guitar'])}"
    near = {*plan.neighbours["guitar"], anchor}
    share = sum(any(w in p for w in near) for p in plan.keep) / len(plan.keep)
    assert len(plan.keep) == config.keep_latents and 0.4 < share < 0.7
    assert plan_of(embedded, words, concept="guitar", strength=0.5, **FEW)[1].strength == 0.5
    nothing, config, _ = plan_of(embedded, words, concept="guitar", anchor="", **FEW)
    assert config.strength == STRENGTH[False] == 0.75 and nothing.anchors == {"guitar": [""]}
    named, *_ = plan_of(embedded, words, concept="guitar", anchor="fish", **FEW)
    assert named.anchors == {"guitar": ["fish"]} and all("fish" in p.anchor for p in named.pairs)


def test_a_tokenizers_whole_words_are_candidates_where_the_model_brings_none(tiny):
    found = token_words(tiny.pipe, "cat")
    assert {"dog", "cigarette", "apple", "tree"} <= set(found) and "cat" not in found
    assert all(len(word) > 2 for word in found)
    plan, *_ = plan_of(tiny, COMMON, concept="cat", **FEW)
    assert plan.anchors["cat"] != [""] and "cat" not in plan.neighbours["cat"]


def test_persons_have_their_kinds_anchor_and_the_nearest_of_their_kind(tiny):
    plan, _, said = plan_of(tiny, COMMON, concept="Brad Pitt", **FEW)
    assert plan.anchors == {"Brad Pitt": ["a person"]} and said[0].startswith("erasing the person Brad Pitt: ")
    assert plan.neighbours["Brad Pitt"] and "Brad Pitt" not in plan.neighbours["Brad Pitt"]


def test_results_and_adapter_record_the_choice(tiny_model, tmp_path):
    done = quick(tiny_model, "cat", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    about = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    (anchor,) = done.plan.anchors["cat"]
    assert results["training"]["anchors"] == {"cat": [anchor]} and results["options"]["strength"] == 0.25
    assert anchor in json.dumps(about) and "neighbours" in json.dumps(about)


# ------------------------------------------------------------------------------------------------- lengths


def test_a_concept_that_would_be_cut_off_is_refused(tiny, tmp_path):
    far = "tree " * 14
    with pytest.raises(ValueError, match="would be cut off; shorten it"):
        plan_of(tiny, COMMON, concept=f"{far}dog", **FEW)
    file = tmp_path / "p.csv"
    file.write_text(f"prompt,anchor\n{far}a cat,{far}a dog\n")
    with pytest.raises(ValueError, match="would be cut off; shorten it"):
        plan_of(tiny, COMMON, concept=str(file), **FEW)
    file.write_text(f"prompt,anchor\na cat {far},a dog {far}\n")
    _, _, said = plan_of(tiny, COMMON, concept=str(file), keep=["tree"], **FEW)
    assert said[-1].startswith("2 prompts are longer than the model reads")


def test_the_seed_of_a_row_is_the_noise_that_the_pipeline_would_draw(tiny, tmp_path):
    from semu_diffusion.diffusion.concepts import Pair
    from semu_diffusion.diffusion.states import Contexts, draw_records

    contexts = Contexts(tiny, ["a cat", "a dog"])
    pairs = [Pair("a cat", "a dog"), Pair("a cat", "a dog", 7)]
    first = draw_records(tiny, contexts, pairs, [True, True], 2, 3.0, 0, 8, lambda n: None)[0]["x"]
    noise = torch.randn(1, *tiny.latent_shape, generator=torch.Generator().manual_seed(7))
    assert torch.equal(first[1:], noise) and not torch.equal(first[:1], noise)


def test_negative_leads_away_from_the_name_alone(tiny):
    """Of a whole sentence it would lead away from the styles in it, too (ESD is trained with the bare word)."""
    words = Vocabulary(("cat", "dog"), ("neon", "sepia"))
    plan, config, _ = plan_of(tiny, words, concept=["cat"], synonym=["kitten"], objective="negative", **FEW)
    assert [(p.prompt, p.anchor) for p in plan.pairs] == [("cat", ""), ("kitten", "")] and config.strength == 0.75
    for style, name in (("neon style", "neon style"), ("Van Gogh style", "Van Gogh")):
        plan, *_ = plan_of(tiny, words, concept=[style], objective="negative", **FEW)
        assert [(p.prompt, p.anchor) for p in plan.pairs] == [(name, "")]
    with pytest.raises(ValueError, match="the objective negative has no anchor"):
        EraseConfig(concept=["cat"], objective="negative", anchor="dog")
