"""KID, CLIP score and LPIPS: against other libraries, over processes, and what they refuse."""

import copy
import pickle

import numpy as np
import pytest
import scipy.linalg
import torch
from tiny_clip import build_clip
from torch import nn
from torchmetrics.image.kid import poly_mmd

from semu_diffusion.metrics import (
    ClipEncoder,
    ClipScore,
    InceptionDistance,
    KernelDistance,
    PerceptualDistance,
    feature_fid,
)
from semu_diffusion.metrics.clip import zero_shot
from semu_diffusion.metrics.fid import _fid_compute
from semu_diffusion.metrics.kid import _kid_compute


class Corner(nn.Module):
    """Four linear features of the corner's pixels."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 4)

    def forward(self, images):
        return self.linear(images[:, :, :2, :2].flatten(1))


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory):
    """The folder of a tiny CLIP model with random weights."""
    return build_clip(tmp_path_factory.mktemp("clip"))


def difference(a, b):
    """A distance of batches in [-1, 1]: the mean absolute one, as LPIPS shapes it."""
    assert a.min() >= -1 and a.max() <= 1
    return (a - b).abs().mean((1, 2, 3), keepdim=True)


def merged(*metrics):
    """What a sum or concatenation over processes gives."""
    total = copy.deepcopy(metrics[0])
    for name in total._reductions:
        states = [getattr(m, name) for m in metrics]
        setattr(total, name, sum(states[1:], states[0]) if isinstance(states[0], list) else sum(states))
    total._update_count = sum(m._update_count for m in metrics)
    return total


def test_kid_against_torchmetrics():
    real, fake = torch.rand(20, 6), torch.rand(20, 6) ** 2
    theirs = poly_mmd(real.double(), fake.double(), degree=3, gamma=None, coef=1.0)
    torch.testing.assert_close(_kid_compute(real, fake), theirs, rtol=1e-9, atol=1e-12)
    assert _kid_compute(real, fake) > 0.01


def test_fid_of_features_equals_scipys_and_the_metrics():
    real, fake = torch.rand(30, 4), torch.rand(20, 4) ** 2
    c1, c2 = (np.cov(x.double().numpy(), rowvar=False) for x in (real, fake))
    closed = ((real.double().mean(0) - fake.double().mean(0)) ** 2).sum().item()
    closed += np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2)).real
    assert _fid_compute(real, fake).item() == pytest.approx(closed, rel=1e-9)
    assert abs(_fid_compute(real, real.flip(0))) < 1e-9
    network, images = Corner(), torch.rand(12, 3, 8, 8)
    metric = feature_fid(network)
    metric.update(images, real=True)
    metric.update(images**2, real=False)
    features = [network(x).detach() for x in (images, images**2)]
    torch.testing.assert_close(_fid_compute(*features), metric.compute(), rtol=1e-5, atol=1e-8)
    with pytest.raises(ValueError, match="two or more"):
        _fid_compute(real, fake[:1])


@pytest.mark.parametrize(("n", "m", "d"), [(12, 9, 40), (30, 9, 20), (60, 50, 20), (5, 7, 1)])
def test_fid_of_fewer_pictures_than_features_is_exact_too(n, m, d):
    """Against eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2); in any order of the pictures, to the last digits."""
    g = torch.Generator().manual_seed(0)
    real = torch.randn(n, d, generator=g, dtype=torch.float64)
    fake = real[torch.arange(m) % n] + 1e-3 * torch.randn(m, d, generator=g, dtype=torch.float64)
    c1, c2 = (np.cov(x.numpy(), rowvar=False).reshape(d, d) for x in (real, fake))
    values, vectors = np.linalg.eigh(c1)
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    root = np.sqrt(np.linalg.eigvalsh(half @ c2 @ half).clip(0)).sum()
    closed = ((real.mean(0) - fake.mean(0)) ** 2).sum().item() + np.trace(c1) + np.trace(c2) - 2 * root
    assert _fid_compute(real, fake).item() == pytest.approx(closed, rel=1e-4, abs=1e-5)
    shuffled = [x[torch.randperm(len(x), generator=g)] for x in (real, fake)]
    assert _fid_compute(*shuffled).item() == pytest.approx(_fid_compute(real, fake).item(), rel=1e-9, abs=1e-12)


def test_kid_by_hand():
    """d = 1, degree 1: the kernel is x y + 1, and the distance (m1 - m2)^2 = 9 less var / n = 1 of each side."""
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]])
    assert _kid_compute(x, y, degree=1).item() == pytest.approx(7)


def test_kid_is_the_same_in_any_order_batch_and_process():
    network, real, fake = Corner(), torch.rand(12, 3, 8, 8), torch.rand(10, 3, 8, 8) ** 2
    one, parts = KernelDistance(network), [KernelDistance(network) for _ in range(2)]
    one.update(real, real=True)
    one.update(fake, real=False)
    for k, part in enumerate(parts):
        for image in real.flip(0)[k::2].split(4):
            part.update(image, real=True)
        part.update(fake[k::2], real=False)
    torch.testing.assert_close(merged(*parts).compute(), one.compute(), rtol=1e-6, atol=1e-9)
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one)), one.clone()):
        torch.testing.assert_close(other.compute(), one.compute())
    with pytest.raises(ValueError, match="no pictures"):
        KernelDistance(network).compute()


def test_clip_score_equals_the_models_own(clip_model):
    encoder, images, texts = ClipEncoder.load(str(clip_model)), torch.rand(4, 3, 24, 20), ["cat", "a dog", "tree", "a"]
    pixels = [(255 * image).round().byte().permute(1, 2, 0).numpy() for image in images]
    inputs = encoder.processor(text=texts, images=pixels, return_tensors="pt", padding=True)
    own = encoder.model(**inputs)
    cosines = 100 * (own.image_embeds * own.text_embeds).sum(1)
    metric = ClipScore(encoder)
    metric.update(images[:3], texts[:3])
    metric.update(images[3:], texts[3:])
    torch.testing.assert_close(metric.compute(), cosines.clamp_min(0).double().mean(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pickle.loads(pickle.dumps(metric)).compute(), metric.compute())
    logits = zero_shot(images, ["cat", "dog", "apple"], encoder, "{}")
    assert logits.shape == (4, 3) and (logits.abs() <= 100.001).all()
    torch.testing.assert_close(logits[0, 0].double(), cosines[0].double(), rtol=1e-4, atol=1e-4)


def test_lpips_by_hand():
    metric, base = PerceptualDistance(difference), torch.zeros(2, 3, 4, 4)
    metric.update(base, base + 0.25)
    metric.update(base, base)
    assert metric.compute() == 0.25  # half of the pairs are 0.5 apart in [-1, 1]
    parts = [PerceptualDistance(difference) for _ in range(2)]
    parts[0].update(base, base + 0.25)
    parts[1].update(base, base)
    assert merged(*parts).compute() == metric.compute() == metric.clone().compute()


WRONG = {
    "uint8": (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got torch.uint8"),
    "[-1, 1]": (torch.full((1, 3, 8, 8), -1.0), r"in \[0, 1\], got -1..-1"),
    "0..255": (torch.full((1, 3, 8, 8), 255.0), "got 255..255"),
    "nan": (torch.full((1, 3, 8, 8), float("nan")), "got nan"),
    "shape": (torch.zeros(1, 8, 8, 3), r"got torch.float32 \(1, 8, 8, 3\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_ranges_are_refused(case, clip_model):
    images, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        KernelDistance(Corner()).update(images, real=True)
    with pytest.raises(ValueError, match=message):
        ClipScore(str(clip_model)).update(images, ["cat"])
    with pytest.raises(ValueError, match=message):
        PerceptualDistance(difference).update(images, torch.zeros(1, 3, 8, 8))


def test_what_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="cannot load the CLIP model"):
        ClipScore(str(tmp_path))
    with pytest.raises(TypeError, match="integer `num_features`, got Linear"):
        KernelDistance(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="1 images and 2 texts"):
        ClipScore(nn.Identity()).update(torch.zeros(1, 3, 8, 8), ["a", "b"])
    for missing, make in (("torch_fidelity", InceptionDistance), ("lpips", PerceptualDistance)):
        try:
            __import__(missing)
        except ImportError:
            with pytest.raises(ValueError, match=r"pip install 'semu-diffusion\["):
                make()
