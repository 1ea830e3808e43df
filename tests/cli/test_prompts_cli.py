"""`semu prompts`: what an erasure would train on, and what is refused before anything is loaded."""

import json

import pytest


def test_prompts_shows_every_pair_and_what_is_kept(tiny_model, semu):
    status, out, err = semu("prompts", "--model", str(tiny_model), "--concept", "cats", "--anchor", "tree")
    assert status == 0, err
    assert "a picture of a cat in neon style → a picture of a tree in neon style" in out.splitlines()
    assert "kept, strength 0.25:" in out and "erasing the object cat: " in err
    kept = out.split("kept, strength")[1]
    assert "dog" in kept and "cat" not in kept.replace("cats", "cat").splitlines()


def test_prompts_as_json_is_what_erasing_takes(tiny_model, tmp_path, semu):
    words = ["--model", str(tiny_model), "--concept", "cat", "--synonym", "kitten", "--seed", "3"]
    status, out, err = semu("prompts", *words, "--json")
    assert status == 0, err
    shown = json.loads(out)
    assert {"a picture of a cat", "a picture of a kitten"} <= {pair["prompt"] for pair in shown["pairs"]}
    assert shown["kinds"] == {"cat": "object"} and shown["anchors"]["cat"] == shown["anchors"]["cat"][:1] != [""]
    little = [
        "--latents",
        "4",
        "--keep-latents",
        "4",
        "--steps",
        "1",
        "--sampler-steps",
        "10",
        "--geometry",
        "euclidean",
    ]
    status, out, err = semu("erase", *words, *little, "--output", str(tmp_path / "out"), "--no-evaluate", "--json")
    assert status == 0, err
    assert json.loads(out)["training"]["anchors"] == shown["anchors"]


@pytest.mark.parametrize(
    "words, wrong",
    [
        (("--concept", "of"), "names nothing to forget"),
        (("--concept", "cat", "--anchor", "Cats"), "are the same"),
        (("--concept", "cat", "--keep", "a black cat"), "names the concept"),
        (("--concept", "cat", "--kind", "animal"), "kind must be one of"),
        (("--concept", "missing.CSV"), "no such file"),
        (("--concept", "prompts.xlsx"), "looks like a file"),
        (("--concept", "cat", "--synonym", "dogs"), "another word that the model draws"),
    ],
)
@pytest.mark.parametrize("command", ["prompts", "erase"])
def test_refused_in_one_line(command, words, wrong, tiny_model, tmp_path, semu):
    out = ("--output", str(tmp_path / "out")) if command == "erase" else ()
    status, _, err = semu(command, "--model", str(tiny_model), *words, *out)
    assert status == 2 and wrong in err.splitlines()[-1] and "Traceback" not in err
    assert not (tmp_path / "out").exists()
