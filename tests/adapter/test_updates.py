"""Updates made small: truncated in a metric, rounded, and read again; the truth is dense and float64."""

import copy
import warnings

import pytest
import torch
from adapters import adapted_model
from models import build, predict
from peft import PeftModel

from semu_diffusion.adapter.merging import updates_of
from semu_diffusion.adapter.moments import LeadingMoments, Root
from semu_diffusion.adapter.shrink import distance, shrink, size
from semu_diffusion.adapter.updates import STORED, Update, compress, rounded, widened
from semu_diffusion.adapter.weights import WEIGHTS, load_adapter, save_adapter, semu_layers

EPSILON = {"fp16": 2.0**-11, "bf16": 2.0**-8, "int8": 20**0.5 / 128}  # of a column of at most 20 numbers


def update(m=12, n=20, r=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    U, R, V = (torch.randn(*shape, generator=g) for shape in ((m, r), (r, r), (n, r)))
    return Update(U, R * torch.logspace(0, -2, r), V)


def full(u):
    return u.U.double() @ u.R.double() @ u.V.double().T


def moments(n=20, seed=1):
    x = torch.randn(50, n, generator=torch.Generator().manual_seed(seed)) * torch.logspace(0, -2, n)
    return (x.T @ x / len(x)).contiguous()


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("leading", [False, True])
def test_truncation_in_a_metric_is_the_best_of_its_rank_there(energy, leading):
    """min ||(D - D') C^(1/2)|| by the SVD of D C^(1/2) with the symmetric root of the dense matrix."""
    C = moments()
    if leading:
        values, P = torch.linalg.eigh(C)
        C = LeadingMoments(P[:, -5:], values[-5:], 1e-3, 0.1)
        dense = (C.P * C.values) @ C.P.T + (C.tail + 0.01 * C.size) * torch.eye(20)
    else:
        dense = C + 0.01 * C.diagonal().mean() * torch.eye(20)
    D = update()
    values, Q = torch.linalg.eigh(dense.double())
    root = (Q * values.sqrt()) @ Q.T
    left, S, right = torch.linalg.svd(full(D) @ root, full_matrices=False)
    shares = S.square().cumsum(0) / S.square().sum()
    r = next(k + 1 for k in range(6) if shares[k] >= energy)
    basis, core = compress(*D, energy, Root(C, 0.01))
    assert basis.rank == r and basis.energy == pytest.approx(shares[r - 1].item(), abs=1e-6)
    best = (left[:, :r] * S[:r]) @ right[:r] @ torch.linalg.inv(root)
    found = full(Update(basis.U, core, basis.V))
    torch.testing.assert_close(found @ root, best @ root, rtol=0, atol=1e-5 * S[0].item())
    for side in (basis.U, basis.V):
        torch.testing.assert_close(side.T @ side, torch.eye(r), rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", EPSILON)
@pytest.mark.parametrize("stretch", [1.0, 1e6, 1e-9])
def test_rounding_loses_no_more_than_the_type_whatever_the_columns_norms(precision, stretch):
    """fp16 ends at 65504 and loses digits below 6e-5: neither is met. What is read again is written the same."""
    D = update()
    D = Update(D.U * stretch, D.R, D.V * torch.logspace(-6, 6, 6))
    narrow = rounded(*D, STORED[precision])
    assert narrow.U.dtype == narrow.V.dtype == STORED[precision] and narrow.R.dtype == torch.float32
    change = (full(narrow) - full(D)).norm() / full(D).norm()
    assert 0 < change < 2 * EPSILON[precision]
    wide = widened(*narrow)
    assert torch.equal(full(wide), full(narrow)) and 0.7 < wide.U.norm(dim=0).min() < wide.U.norm(dim=0).max() < 1.5
    again = rounded(*wide, STORED[precision])
    assert all(torch.equal(a, b) for a, b in zip(again, narrow))


def test_the_distance_of_nearly_equal_updates_does_not_cancel():
    D = update()
    near = Update(D.U, D.R + 1e-5 * torch.eye(6), D.V)
    assert distance(D, near) == pytest.approx((full(D) - full(near)).square().sum().item(), rel=1e-6)
    assert distance(D, D) < 1e-24


@pytest.mark.parametrize("precision, bytes_of", [("fp32", 4), ("fp16", 2), ("bf16", 2), ("int8", 1)])
def test_a_file_holds_what_was_measured_and_no_byte_more(precision, bytes_of, tmp_path):
    model = adapted_model("mlp")
    before = updates_of(model)
    small = shrink(model, 0.9, precision)
    after = updates_of(model)
    save_adapter(model, tmp_path, precision=precision)
    loaded = build("mlp")
    config = load_adapter(loaded, tmp_path)
    assert torch.equal(predict(loaded), predict(model)) and config.about["precision"] == precision
    change = sum((full(after[k]) - full(u)).square().sum() for k, u in before.items())
    assert small.error == pytest.approx((change / sum(full(u).square().sum() for u in before.values())).sqrt().item())
    numbers = sum(bytes_of * (u.U.numel() + u.V.numel()) + 4 * u.R.numel() for u in after.values())
    data = (tmp_path / WEIGHTS).read_bytes()
    assert small.bytes == (sum(map(size, before.values())), numbers)
    assert len(data) - 8 - int.from_bytes(data[:8], "little") == numbers
    assert f"{numbers:,} bytes instead of {small.bytes[0]:,}" in small.words()


@pytest.mark.parametrize("low", [False, True])
def test_peft_reads_int8_as_the_numbers_that_it_is(low, tmp_path):
    model = adapted_model("mlp")
    small = shrink(model, 1.0, "int8")
    save_adapter(model, tmp_path, precision="int8")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = PeftModel.from_pretrained(build("mlp"), tmp_path, low_cpu_mem_usage=low)
    assert 0 < small.error < 0.02 and {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.allclose(predict(loaded.get_base_model()), predict(model), atol=1e-6)


def test_all_of_it_in_fp32_is_left_alone():
    model = adapted_model("mlp")
    before = updates_of(model)
    assert shrink(model).error < 1e-12
    assert all(torch.equal(a, b) for k, u in updates_of(model).items() for a, b in zip(u, before[k]))


@pytest.mark.parametrize("narrow, error", [("fp16", 1e-3), ("int8", 0.05)])
def test_training_goes_on_from_a_narrow_file_as_from_fp32(narrow, error, tmp_path):
    """U and V of a file are orthonormal to 4e-4 (fp16), so nothing is turned when they are read: R learns the same."""
    losses, made = {}, adapted_model("mlp")
    for precision in ("fp32", narrow):
        model = copy.deepcopy(made)
        shrink(model, 1 - 1e-9, precision)
        save_adapter(model, tmp_path / precision, precision=precision)
        loaded = build("mlp")
        load_adapter(loaded, tmp_path / precision, trainable=True)
        for layer in semu_layers(loaded).values():
            for Q in (layer.semu_U["default"], layer.semu_V["default"]):
                assert (Q.T @ Q - torch.eye(Q.shape[1])).abs().max() < error
        optimizer = torch.optim.Adam([p for p in loaded.parameters() if p.requires_grad], lr=1e-2)
        x, y = (torch.randn(16, n, generator=torch.Generator().manual_seed(n)) for n in (12, 5))
        losses[precision] = []
        for _ in range(20):
            loss = (loaded(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[precision].append(loss.item())
    assert losses[narrow] == pytest.approx(losses["fp32"], rel=2 * error) and losses[narrow][-1] < losses[narrow][0]


def test_bad_choices():
    for options, message in ({"energy": 0.0}, r"\(0, 1\]"), ({"precision": "fp8"}, "int8, fp32, fp16, bf16"):
        with pytest.raises(ValueError, match=message):
            shrink(adapted_model("mlp"), **options)


def test_values_that_a_type_cannot_hold():
    with pytest.raises(ValueError, match="too large for float16; use --precision fp32"):
        rounded(torch.full((3, 1), float("inf")), torch.eye(1), torch.ones(3, 1), torch.float16)
