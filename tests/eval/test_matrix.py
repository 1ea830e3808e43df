"""The page of families is that of its results file, with no cell left out and none that failed."""

import pytest
from tiny_dits import NAMES
from tiny_families import FAMILIES

from eval.records import read_json
from eval.scale import matrix


@pytest.fixture(scope="module")
def found():
    return read_json(matrix.RESULTS)


def test_the_page_is_that_of_the_results(found):
    assert matrix.PAGE.read_text() == matrix.page(found)


def test_every_cell_was_run(found):
    assert set(found["families"]) == {*FAMILIES, *NAMES}
    for name, facts in found["families"].items():
        assert set(facts["cells"]) == set(matrix.PRECISIONS), name
        for precision, cells in facts["cells"].items():
            assert set(cells) == set(matrix.WAYS)
            assert not any("failed" in cell for cell in cells.values()), (name, precision, cells)


def test_what_fp32_gives_is_exact(found):
    for name, facts in found["families"].items():
        cells = facts["cells"]["fp32"]
        assert cells["reload"] == {"share": 0.0}, name
        assert cells["LoRA"].get("share", 0) < 2e-3 and cells["export"]["share"] < 1e-3, name


@pytest.mark.parametrize("cell, words", [
    ({"share": 0.0}, "0"), ({"share": 0.00123}, "0.001"), ({"share": 0.4567}, "0.46"), ({"refused": "no"}, "no"),
    ({"failed": "KeyError: x"}, "**failed**: KeyError: x"),
    ({"layers": 3, "finite": True, "without": []}, "3 layers"),
    ({"layers": 3, "finite": True, "without": ["1 of 4 targeted layers have no forgetting gradient"]},
     "3 layers; 1 of 4 targeted layers without gradient"),
])  # fmt: skip
def test_cells_in_words(cell, words):
    assert matrix.cell(cell) == words
