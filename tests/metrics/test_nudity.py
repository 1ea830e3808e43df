"""NudeNet as a metric: equal to its own API called by hand, counted by hand, on harmless real photographs."""

import copy
import pickle

import numpy as np
import pytest
import torch

from semu_diffusion.metrics import NudeNetDetections
from semu_diffusion.metrics.nudity import EXPOSED, LABELS, Detection, NudeNet, _nudity_update, bgr, read

FEET, FACE = Detection("FEET_EXPOSED", 0.7, [1, 2, 3, 4]), Detection("FACE_MALE", 0.9, [0, 0, 5, 5])


class Fake:
    """A detector that sees what a picture's first red pixel, in tenths, says."""

    def __call__(self, pictures):
        seen = {0: [], 1: [FEET], 2: [FEET, FEET, FACE], 3: [FACE], 4: [FEET._replace(score=0.5)]}
        return [seen[round(int(picture[0, 0, 2]) / 25.5)] for picture in pictures]


def show(*codes: int) -> torch.Tensor:
    images = torch.zeros(len(codes), 3, 8, 8)
    images[:, 0, 0, 0] = torch.tensor(codes) / 10
    return images


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    """Photographs that scikit-image ships, (H, W, 3), red first: a woman's face, a man, a cat, a cup, odd sizes."""
    pytest.importorskip("nudenet", reason="NudeNet is not installed: pip install 'semu-diffusion[nudenet]'")
    data = pytest.importorskip("skimage.data", reason="the photographs come with scikit-image")
    astronaut, camera = data.astronaut(), np.stack([data.camera()] * 3, 2)
    crops = {"tall": astronaut[:, 120:320], "wide": astronaut[:230], "small": astronaut[60:188:2, 150:300:2]}
    return {"astronaut": astronaut, "camera": camera, "chelsea": data.chelsea(), "coffee": data.coffee(), **crops}


def tensor(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255


# ------------------------------------------------------------------------------------------- the real model


def test_detections_equal_those_of_nudenet_called_by_hand(photos, tmp_path):
    from nudenet import NudeDetector
    from PIL import Image

    detector, arrays, files = NudeDetector(), [], []
    for name, photo in photos.items():
        arrays += bgr(tensor(photo))
        assert (arrays[-1] == photo[..., ::-1]).all()
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
        files.append(tmp_path / f"{name}.png")
    by_hand = [[(d["class"], d["score"], d["box"]) for d in detector.detect(str(file))] for file in files]
    for pictures, threads in ((files, 2), (arrays, 1)):
        found = [[tuple(d) for d in picture] for picture in NudeNet(threads)(pictures)]
        assert found == by_hand
    faces = {name: [label for label, *_ in found] for name, found in zip(photos, by_hand)}
    assert faces["astronaut"] == ["FACE_FEMALE"] and "FACE_MALE" in faces["camera"] and not faces["coffee"]


def test_red_and_blue_are_told_apart(photos):
    """The same photograph with its colours swapped scores otherwise, so a wrong order would have shown above."""
    right, wrong = (NudeNet(1)(bgr(tensor(x)))[0] for x in (photos["astronaut"], photos["astronaut"][..., ::-1]))
    assert right != wrong


def test_the_metric_on_photographs(photos):
    metric = NudeNetDetections(classes=[*EXPOSED, "FACE_FEMALE"])
    for name in ("astronaut", "coffee"):
        metric.update(tensor(photos[name]))
    result = metric.compute()
    assert (result["detections"], result["FACE_FEMALE"], result["FEET_EXPOSED"]) == (1, 1, 0)
    assert result["share"] == result["people"] == 0.5
    assert pickle.loads(pickle.dumps(metric)).compute() == result
    about = metric.detector.describe()
    assert about["version"].startswith("3.4") and len(about["model"]) == 64


def test_files_that_are_no_pictures(photos, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="text.png is not a picture"):
        NudeNet(1)([tmp_path / "text.png"])
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\), blue first, got float64 \(4, 4, 3\)"):
        NudeNet(1)([np.zeros((4, 4, 3))])
    with pytest.raises(ValueError, match="nowhere.png"):
        read(tmp_path / "nowhere.png")


def test_labels_are_nudenets(photos):
    from nudenet import nudenet

    assert tuple(vars(nudenet)["__labels"]) == LABELS and len(EXPOSED) == 9


# ------------------------------------------------------------------------------------------------ by hand


def test_counts_by_hand():
    metric = NudeNetDetections(detector=Fake())
    metric.update(show(0, 1, 2))
    metric.update(show(3, 4))
    result = metric.compute()
    assert (result["detections"], result["FEET_EXPOSED"], result["BELLY_EXPOSED"]) == (3, 3, 0)
    assert result["share"] == 2 / 5 and result["people"] == 3 / 5  # a face alone is a person, not exposed
    assert set(result) == {"detections", "share", "people", *EXPOSED}
    loose = NudeNetDetections(["FACE_MALE", "FEET_EXPOSED"], 0.5, Fake())
    loose.update(show(0, 1, 2, 3, 4))
    assert loose.compute()["detections"] == 6 and loose.compute()["share"] == 4 / 5


def test_processes_copies_and_reset():
    one, first, second = (NudeNetDetections(detector=Fake()) for _ in range(3))
    one.update(show(0, 1, 2, 3, 4))
    first.update(show(0, 2, 4))
    second.update(show(1, 3))
    for name, reduction in first._reductions.items():
        setattr(first, name, reduction(torch.stack([getattr(first, name), getattr(second, name)])))
    result = one.compute()
    assert first.compute() == result
    for other in (copy.deepcopy(one), one.clone(), pickle.loads(pickle.dumps(one))):
        assert other.compute() == result
        other.reset()
        other.update(show(1))
        assert other.compute()["share"] == 1
    empty = _nudity_update([])
    assert empty[0].sum() == 0 and empty[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got torch.uint8"),
        (torch.full((1, 3, 8, 8), -1.0), r"in \[0, 1\], got -1..-1"),
        (torch.full((1, 3, 8, 8), 255.0), "got 255..255"),
        (torch.zeros(8, 8, 3), r"got torch.float32 \(8, 8, 3\)"),
    ],
)
def test_wrong_ranges_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        NudeNetDetections(detector=Fake()).update(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["KNEES"]}, "unknown NudeNet class KNEES; known: FEMALE"),
        ({"classes": []}, "none given"),
        ({"threshold": 0.2}, "expected 0.25..1"),
        ({"threshold": float("nan")}, "got nan"),
        ({"threshold": 1.1}, "got 1.1"),
    ],
)
def test_wrong_protocols_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NudeNetDetections(**options)
