"""The reader of tables and texts: encodings, endings, headers, and errors with their lines."""

import json

import pytest

from semu_diffusion.diffusion.concepts import kind_of, read_rows, vocabulary_of
from semu_diffusion.diffusion.config import EraseConfig
from semu_diffusion.evaluation.prompts import read_prompts
from semu_diffusion.inputs.tables import column, is_table, read_table, read_text, text_of


def concept_prompts(file):
    """What `--concept` reads of a file."""
    return [row.prompt for row in read_rows(file)]


def write(folder, name, data):
    file = folder / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return file


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", "prompt,seed\na cat,4\n"),
        ("a.CSV", "\ufeff Prompt ,SEED\r\na cat,4\r\n"),
        ("a.csv", "Prompt;Seed\na cat;4\n"),
        ("a.tsv", "prompt\tseed\na cat\t4"),
        ("a.TSV", "\ufeffprompt\tseed\ra cat\t4\r"),
        ("a.jsonl", '{"prompt": "a cat", "seed": 4}\n\n'),
        ("a.JSONL", '\ufeff{" Prompt": "a cat", "Seed": "4"}\r\n'),
        ("a.ndjson", '{"caption": "a cat", "sd_seed": 4.0}'),
        ("a.csv", '"prompt","seed"\n"a cat",4\n,\n'),
    ],
)
def test_one_table_in_every_spelling(tmp_path, name, data):
    (shot,) = read_prompts(write(tmp_path, name, data))
    assert (shot.prompt, shot.seed) == ("a cat", 4)


@pytest.mark.parametrize(
    "data",
    ["a cat\n\na dog", "\ufeffa cat\r\na dog\r\n", "  a cat  \ra dog\r", "\ufeffa cat\na dog\n\n"],
)
@pytest.mark.parametrize("name", ["p.txt", "P.TXT", "prompts"])
def test_texts(tmp_path, name, data):
    file = write(tmp_path, name, data)
    assert [shot.prompt for shot in read_prompts(file)] == ["a cat", "a dog"]
    assert concept_prompts(file) == ["a cat", "a dog"]


def test_only_line_ends_end_a_line(tmp_path):
    """Python's `splitlines` would also break at these, which stand in prompts that were copied from pages."""
    odd = "a cat\u2028on a mat\x0bat\x85night"
    assert concept_prompts(write(tmp_path, "p.txt", odd + "\na dog")) == [odd, "a dog"]
    assert read_table(write(tmp_path, "p.jsonl", json.dumps(odd, ensure_ascii=False)))[0].values == {"prompt": odd}


def test_quotes_and_lines(tmp_path):
    rows = read_table(write(tmp_path, "a.csv", 'prompt,seed\n"a cat, asleep\nat night",1\n\n5" nails,2\n'))
    assert [(row.line, row.values["prompt"]) for row in rows] == [(2, "a cat, asleep\nat night"), (5, '5" nails')]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", "prompt,seed\na cat, asleep,4\n", "a.csv, line 2: 3 fields under 2 names"),
        ("a.csv", "prompt\na cat, asleep\n", "a.csv, line 2: 2 fields under 1 names"),
        ("a.csv", 'prompt,seed\na,1\n"a cat,4\nb,2\n', "a.csv, line 3: .*quote left open"),
        ("a.csv", "prompt, Prompt\na,b\n", "a.csv has two columns named prompt"),
        (
            "a.csv",
            "words,seed\na,1\n",
            "a.csv has no column adv_prompt or prompt or caption or text; its columns: words, seed",
        ),
        ("a.csv", "prompt,seed\na,1\nb,x\n", "a.csv, line 3: the seed 'x' is no whole number"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": \n', "a.jsonl, line 2: no JSON"),
        ("a.jsonl", '{"prompt": "a"}\n\n[1]\n', "a.jsonl, line 3: expected an object or a text"),
        ("a.jsonl", '{"prompt": ["a", "b"]}', "a.jsonl, line 1: the prompt is no text"),
        ("a.jsonl", '{"prompt": "a", "PROMPT": "b"}', "line 1 has two columns named prompt"),
        ("a.txt", b"a cat\na caf\xe9\n", "a.txt, line 2: not UTF-8 .byte 0xe9"),
        ("a.csv", "prompt\na cat\n".encode("utf-16"), "a.csv is UTF-16 text; save it as UTF-8"),
        ("a.txt", b"a\nb\0c\n", "a.txt, line 2: not text but binary"),
        ("a.xlsx", b"PK\x03\x04", "expected a file that ends in .csv, .tsv"),
        ("a.txt", "\n \n", "holds no prompts"),
        ("a.csv", "prompt,seed\n", "holds no prompts"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, name, data, said):
    with pytest.raises(ValueError, match=said) as caught:
        read_prompts(write(tmp_path, name, data))
    assert "\n" not in str(caught.value)


def test_concepts_from_tables(tmp_path):
    words = vocabulary_of(tmp_path)
    for name, data in (("prompts.csv", "Prompt,x\na cat,1\n"), ("PROMPTS.TXT", "a cat\n"), ("p.JSONL", '"a cat"\n')):
        file = str(write(tmp_path, name, data))
        assert kind_of(file, words) == "prompts" and concept_prompts(file) == ["a cat"]
    assert is_table("x.Tsv") and not is_table("a dog") and not is_table("st. bernard")
    with pytest.raises(ValueError, match="no prompts in"):
        concept_prompts(tmp_path / "absent.csv")


def test_missing_fields_are_empty(tmp_path):
    rows = read_table(write(tmp_path, "a.csv", "prompt,seed,label\na cat\n"))
    assert text_of(rows[0], "label", "a.csv") == "" and column(rows, ("label", "prompt"), "a.csv") == "prompt"
    assert read_text(write(tmp_path, "b.txt", "\ufeffx\r\ny")) == "x\ny"


@pytest.mark.parametrize("written", ["no", "No", "off", "'no'", "false", "NO"])
def test_a_recipe_may_say_no(tmp_path, written):
    """YAML reads these, but for the quoted one, as false."""
    recipe = write(tmp_path, "r.yaml", f"concept: cat\nmixed_precision: {written}\n")
    assert EraseConfig.from_yaml(recipe).mixed_precision == "no"


@pytest.mark.parametrize("written", ["yes", "true", "fp8", "1"])
def test_a_recipe_may_not_say_yes(tmp_path, written):
    with pytest.raises(ValueError, match="mixed-precision must be "):
        EraseConfig.from_yaml(write(tmp_path, "r.yaml", f"concept: cat\nmixed_precision: {written}\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("concept: 2024-01-02", "concept must be a text or a list of texts, got datetime.date"),
        ("concept: {a: 1}", "concept must be a text or a list of texts, got {'a': 1}"),
        ("concept: [[1]]", "concept must be a text or a list of texts"),
        ("concept: true", "concept must be a text or a list of texts, got True"),
        ("concept: null", "concept must name what to forget"),
        ("5: 6\nconcept: cat", "unknown option '5'"),
        ("2024-01-02: x", "unknown option '2024_01_02'"),
        ("? [1, 2]\n: x", "is not YAML"),
        ("&a [*a]", "must hold a mapping"),
        ("!!python/object:os.system x", "is not YAML"),
        ("concept: cat\nsteps: 2024-01-01", "steps must be a whole number"),
        ("concept: cat\nsteps: .inf", "steps must be a whole number"),
        ("concept: cat\nseed: 1e400", "seed must be a whole number"),
        ("concept: cat\nlr: [1]", "lr must be a number"),
        ("concept: cat\nkeep: {a: b}", "keep must be a text or a list of texts"),
        ("concept: cat\nanchor: [dog]", "anchor must be a text"),
        ("concept: cat\ngradient_checkpointing: 3", "gradient-checkpointing must be true or false"),
    ],
)
def test_a_recipe_of_other_types(tmp_path, text, said):
    with pytest.raises(ValueError, match=said) as caught:
        EraseConfig.from_yaml(write(tmp_path, "r.yaml", text))
    assert "\n" not in str(caught.value)


def test_numbers_in_a_recipe_are_words_where_words_are_asked_for(tmp_path):
    config = EraseConfig.from_yaml(write(tmp_path, "r.yaml", "concept: 5\nanchor: 7\nkeep: [3, 1.75]\nsteps: 4.0\n"))
    assert (config.concept, config.anchor, config.keep, config.steps) == (["5"], "7", ["3", "1.75"], 4)


def test_a_recipe_with_a_byte_order_mark(tmp_path):
    assert EraseConfig.from_yaml(write(tmp_path, "r.yaml", "\ufeffconcept: café\n")).concept == ["café"]
    with pytest.raises(ValueError, match="r.yaml, line 1: not UTF-8"):
        EraseConfig.from_yaml(write(tmp_path, "r.yaml", "concept: café\n".encode("latin-1")))
