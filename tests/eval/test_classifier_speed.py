"""The program that measures how fast classifiers are trained: what it writes, and the table of it."""

import pytest
import torch

from eval.classification import speed
from eval.records import read_json


@pytest.fixture
def one_thread_again():
    yield
    torch.set_num_threads(1)


def test_what_is_measured_and_shown(tmp_path, one_thread_again):
    words = "--width 2 --width 4 --threads 2 --batch-size 4 --rounds 1 --seconds 0.01 --output"
    speed.main([*words.split(), str(tmp_path / "speed.json")])
    found = read_json(tmp_path / "speed.json")
    assert [(row["arch"], row["width"]) for row in found["rows"]] == [
        (arch, width) for arch in ("resnet18", "vgg16") for width in (2, 4)
    ]
    for row in found["rows"]:
        assert set(row["rates"]) == set(speed.WAYS)
        assert all(set(own) == {"1", "2"} and min(own.values()) > 0 for own in row["rates"].values())
    assert found["rows"][0]["weights"] < found["rows"][1]["weights"]
    assert found["versions"]["torch"] == torch.__version__ and "cores" in found["machine"]


@pytest.mark.parametrize("name", speed.WAYS)
def test_each_way_trains_as_it_says(name):
    net, outputs = speed.Trained("resnet18", 2, 4, **speed.WAYS[name]), []
    net.model.conv1.register_forward_hook(lambda module, args, out: outputs.append(out))
    before = net.model.conv1.weight.detach().clone()
    net.step()
    assert (outputs[0].dtype == torch.bfloat16) == ("bf16" in name)
    assert outputs[0].is_contiguous(memory_format=torch.channels_last) == ("channels last" in name)
    assert not torch.equal(net.model.conv1.weight, before)


def test_the_table_has_rates_and_hours():
    rates = {name: {"1": 100.0 * k, "2": 150.0 * k} for k, name in enumerate(speed.WAYS, 1)}
    found = {"threads": [1, 2], "command": "c", "machine": {"cores": 2, "processor": "p"}, "versions": {"torch": "2"}}
    found["rows"] = [{"arch": "vgg16", "width": 16, "weights": 923_130, "rates": rates}]
    row = speed.speed_table(found).splitlines()[2]
    hours = 30 * 45_000 / 400 / 3600
    assert row == f"| VGG-16, 16 | 0.9 | 100 | 200 | 300 | 400 | 600 | {hours:.1f} |"
