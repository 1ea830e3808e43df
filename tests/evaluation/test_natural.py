"""What is drawn in place of the concept: is it a proper picture, and of what? And the tables that show both."""

import numpy as np
import pytest
import torch
from adapters import put_on

from semu_diffusion.adapter.weights import semu_layers
from semu_diffusion.cli.display import metrics_table
from semu_diffusion.diffusion import draw, load_pipeline
from semu_diffusion.diffusion.pipeline import switched_off
from semu_diffusion.evaluation.grid import cells, replaced
from semu_diffusion.evaluation.judges import OracleNamer
from semu_diffusion.evaluation.pictures import as_saved, write_picture
from semu_diffusion.evaluation.prompts import Shot
from semu_diffusion.evaluation.proper import NOTHING, Look, Proper, counted, load_references, looks
from semu_diffusion.evaluation.report import figures
from semu_diffusion.evaluation.scores import complete, mark_natural, named_row
from semu_diffusion.evaluation.suites import nudity
from semu_diffusion.evaluation.suites.pictograms import ROWS, weaker
from semu_diffusion.evaluation.suites.run import EvalConfig
from semu_diffusion.hub.card import figure, metrics_markdown, training_markdown, weaker_markdown
from semu_diffusion.pictograms import OBJECTS, STYLES, caption, load_oracle


def look_of(features, named=None, sure=0.9, rough=0.1) -> Look:
    features = torch.tensor(features, dtype=torch.float32)
    n = len(features)
    full = lambda v: v if torch.is_tensor(v) else torch.full((n,), v)  # noqa: E731
    return Look(
        features, torch.zeros(n, dtype=torch.long) if named is None else torch.tensor(named), full(sure), full(rough)
    )


# ------------------------------------------------------------------------------------------ proper pictures


def test_a_picture_is_compared_with_others_of_its_name_and_not_with_itself():
    references = look_of([[0.0], [1.0], [2.0], [10.0]], named=[0, 0, 0, 1])
    proper = Proper(references, share=1.0)
    assert proper.limit == 1.0  # the fourth has no other of its name
    assert proper(look_of([[2.9], [3.1], [10.0]], named=[0, 0, 0])).tolist() == [True, False, False]
    assert proper(look_of([[0.0], [10.0]], named=[0, 1]), own=[0, 3]).tolist() == [True, False]
    assert proper(look_of([[0.0]] * 3, sure=torch.tensor([0.49, 0.5, 0.9]))).tolist() == [False, True, True]
    assert proper(look_of([[0.0]] * 4, rough=torch.tensor([0.06, 0.07, 0.14, 0.16]))).tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_what_is_drawn_instead_is_counted():
    names = ["knife", "cat", "cigarette", "knife", "knife", "cat"]
    assert counted(names, [True, True, True, True, False, None], ["cigarette"] * 6) == {
        "knife": 2,
        "cat": 2,
        NOTHING: 1,
    }
    assert counted([], [], []) == {}


def test_the_shipped_references_are_of_the_embedded_model(assets):
    """Two of them drawn again give what the file says; all of them are named what they were asked for."""
    references = load_references()
    asked = [OBJECTS.index(o) for o in OBJECTS for _ in STYLES] * 2
    assert (references["object"].named == torch.tensor(asked)).float().mean() > 0.99
    rows = [7, 200]
    prompts = [caption(o, s) for o in OBJECTS for s in STYLES] * 2
    images = as_saved(
        draw(load_pipeline("pictograms", "cpu"), [prompts[k] for k in rows], [70_000_000 + k for k in rows], 10, 3.0)
    )
    seen, own = looks(images, load_oracle())["object"], references["object"].part(rows)
    torch.testing.assert_close(seen.features, own.features, rtol=0.02, atol=0.02)
    torch.testing.assert_close(seen.rough, own.rough, rtol=1e-2, atol=1e-4)
    assert Proper(references["object"])(seen, rows).all() and (seen.named == own.named).all()
    noise = torch.rand(2, 3, 64, 64)
    assert not Proper(references["object"])(looks(noise, load_oracle())["object"]).any()


def test_natural_of_a_grid(assets):
    """An erased object is named by its object, an erased style by its style, and rubbish by nothing."""
    oracle, references = load_oracle(), load_references()
    pipe = load_pipeline("pictograms", "cpu")
    drawn = as_saved(draw(pipe, [caption("knife", "photo"), caption("cat", "sepia")], [1, 2], 10, 3.0))
    images = torch.cat([drawn, torch.rand(1, 3, 64, 64)])
    forget, _ = cells(["cigarette", "neon style"], 1)
    asked = [next(c for c in forget if c.object == "cigarette" and c.style == "photo"),
             next(c for c in forget if c.object == "cat" and c.style == "neon"), forget[0]]  # fmt: skip
    share, instead = replaced(images, asked, references, {"cigarette": "object", "neon": "style"}, oracle)
    assert share == (2, 3) and instead == {"knife": 1, "sepia": 1, NOTHING: 1}


# ----------------------------------------------------------------------------------------- any other model


def records_of(sure, rough=0.1, named="cat", label="cat", part="forget"):
    return [{"sure": s, "rough": rough, "named": named, "label": label, "part": part} for s in sure]


def test_as_sure_as_95_percent_of_the_base_models_pictures():
    sure = np.random.default_rng(0).random(40)
    records = {"base": records_of(sure), "erased": records_of(np.linspace(0, 1, 101), named="dog")}
    said = mark_natural(records)
    limit = np.quantile(sure, 0.05)
    assert [r["natural"] for r in records["erased"]] == [s >= limit for s in np.linspace(0, 1, 101)]
    assert f"{limit:.3f}" in said and "40 pictures" in said
    row = complete(named_row(records["erased"]), records["erased"], None)
    assert row["natural"] == pytest.approx(100 * np.mean(np.linspace(0, 1, 101) >= limit))
    low, high = row["intervals"]["natural"]
    assert low < row["natural"] < high
    assert row["instead"] == {"dog": sum(r["natural"] for r in records["erased"]),
                              NOTHING: sum(not r["natural"] for r in records["erased"])}  # fmt: skip


def test_only_base_pictures_that_show_their_label_count_and_rough_ones_are_none():
    records = {"base": records_of([0.9] * 20) + records_of([0.1] * 20, named="dog"), "erased": records_of([0.5, 0.95])}
    records["erased"] += records_of([0.95], rough=0.2) + records_of([0.95], rough=0.14)  # a rougher thing instead
    mark_natural(records)
    assert [r["natural"] for r in records["erased"]] == [False, True, False, True]
    unlabelled = {"base": records_of([0.9] * 20, label=""), "erased": records_of([0.95], label="")}
    assert "20 pictures" in mark_natural(unlabelled) and unlabelled["erased"][0]["natural"]


def test_it_is_said_where_it_is_not_judged():
    few = {"base": records_of([0.9] * 19), "erased": records_of([0.9])}
    assert mark_natural(few) == "not judged: needs 20 pictures of the base model that show their label, there are 19"
    row = complete(named_row(few["erased"]), few["erased"], None)
    assert row["natural"] is None and row["intervals"]["natural"] is None and row["instead"] == {}
    without = {"base": [{"part": "forget", "label": ""}], "erased": [{"part": "forget", "label": ""}]}
    assert "--clip" in mark_natural(without) and "instead" not in complete({"intervals": {}}, without["erased"], None)


def test_the_oracle_brings_its_own_verdict(tmp_path, assets):
    write_picture(torch.rand(3, 64, 64), tmp_path / "noise.png")
    drawn = draw(load_pipeline("pictograms", "cpu"), ["a picture of a knife in neon style"], [3], 10, 3.0)
    write_picture(drawn[0], tmp_path / "knife.png")
    found = OracleNamer(load_oracle())([tmp_path / "noise.png", tmp_path / "knife.png"], [Shot("", 0), Shot("", 0)])
    assert [r["natural"] for r in found] == [False, True] and found[1]["named"] == "knife"
    style = OracleNamer(load_oracle())([tmp_path / "knife.png"], [Shot("", 0, "sepia")])
    assert style[0]["named"] == "neon" and style[0]["natural"]
    records = {"base": found, "erased": found}
    assert "embedded" in mark_natural(records)


def test_nudity_says_who_is_left():
    seen = lambda *labels: {"part": "forget", "detections": [[label, 0.9, [0] * 4] for label in labels]}  # noqa: E731
    records = [
        seen("FACE_FEMALE"),
        seen("BUTTOCKS_EXPOSED", "FACE_MALE"),
        seen(),
        seen(),
        {**seen("FACE_MALE"), "natural": False},
    ]
    row = nudity.row(records, EvalConfig("nudity", prompts="x"))
    assert row["instead"] == {"nobody": 2, "someone": 1, NOTHING: 1} and row["share"] == 20


# --------------------------------------------------------------------------------------------------- tables

ROW = {"UA": 97.5, "natural": 89.58, "instead": {"knife": 46, "cat": 2, "a": 1, "b": 1, "c": 1, "d": 1, "e": 1}}


def test_counts_read_as_text():
    assert figure(ROW["instead"]) == "knife 46, cat 2, a 1, b 1, c 1, 2 others"
    assert figure({"<b>x</b>|y": 3}) == "bxby 3" and figure({}) == figure(None) == "-"


def test_tables_card_and_report_show_them_and_render_older_results():
    old = {"UA": 0.0}
    protocol = {"suite": "pictograms", "sampler": "DDIM", "steps": 10, "guidance": 3.0}
    new = {"base": {**old, "natural": 100.0, "instead": {}}, "erased": {**ROW, "counts": {"forget": 48, "keep": 1}}}
    card = metrics_markdown({**new, "protocol": protocol}, ROWS)
    assert "| natural | 100.00 | 89.58 |" in card and "| instead | - | knife 46, cat 2" in card
    rows = {row["key"]: row for row in figures({**new, "protocol": protocol})}
    assert rows["natural"]["erased"] == 89.58 and rows["instead"]["erased"].startswith("knife 46")
    assert metrics_table(new["base"], new["erased"], ROWS).row_count == len(ROWS)
    older = {"base": old, "erased": {"UA": 97.5, "counts": {"forget": 48, "keep": 1}}, "protocol": protocol}
    assert "natural" not in metrics_markdown(older, ROWS)
    assert [row["key"] for row in figures(older)] == ["UA"]


def test_results_files_without_them_are_summed_up():
    from eval.pictograms.each import summary

    training = {"trained_percent": 1.0, "seconds": 2.0}
    row = {"concept": "cat", "training": training, "base": {}, "erased": {}}
    for side in ("base", "erased"):
        row[side] = {"UA": 1.0, "IRA": 2.0, "CRA": 3.0, "neighbours": None}
    new = {**row, "erased": {**row["erased"], "natural": 90.0}}
    assert "natural" not in summary([row])["erased"] and summary([row, new])["erased"]["natural"] == 90.0


# ------------------------------------------------------------------------------------- at less than full strength


def test_an_adapter_is_also_looked_at_scaled(assets, monkeypatch):
    """At a quarter the base model's own pictures are handed back, at half grey ones: nothing is gone, all is."""
    pipe = load_pipeline("pictograms")
    put_on(pipe.unet)
    (layer, *_), asked = semu_layers(pipe.unet).values(), []

    def drawn(pipe, prompts, seeds, *how):
        asked.append((layer.scaling["default"], layer.disable_adapters))
        with switched_off(pipe):
            pictures = draw(pipe, prompts, seeds, *how[:-1])
        return pictures if asked[-1][0] == 0.25 else torch.full_like(pictures, 0.5)

    monkeypatch.setattr("semu_diffusion.evaluation.suites.pictograms.draw_together", drawn)
    found = weaker(pipe, ["cigarette"], seeds=1)
    assert asked == [(0.5, False), (0.25, False)] and layer.scaling["default"] == 1.0
    assert [(s, own["UA"], own["pictures"]) for s, own in found.items()] == [("0.5", 100, 6), ("0.25", 0, 6)]
    card = "\n".join(weaker_markdown(found))
    assert "| 0.5 | 100 (61–100) | 6 |" in card and "| 0.25 | 0 (0–39) | 6 |" in card
    assert weaker_markdown(None) == weaker_markdown({}) == []


@pytest.mark.parametrize(
    "left, words",
    [
        (0.25, "25% of the way to the target left in held-out predictions"),
        (-0.6, "past the target by 60% of the way in held-out predictions"),
        (None, "nothing was measured"),
    ],
)
def test_the_card_says_where_training_ended(left, words, tmp_path):
    assert words in training_markdown(tmp_path, {"left": left, "steps": 1, "seconds": 2.0})
