"""What several processes share out: two forked ones over gloo against one."""

import sys

import pytest
import torch
from shell import FORK
from torch import distributed, nn

from semu_diffusion.adapter import SemuConfig
from semu_diffusion.adapter.gradients import LossScale, NotFinite
from semu_diffusion.adapter.moments import second_moments
from semu_diffusion.adapter.ranks import ALONE, Ranks
from semu_diffusion.adapter.subspace import find_bases


def in_three(folder, work):
    """What `work(ranks)` returns in one process that is alone, and in each of two that work together.

    All are forked before this one does anything in threads: a fork inherits the locks of MKL as they are.
    """

    def run(index):
        ranks = Ranks(index, 2) if index < 2 else ALONE
        if ranks.count > 1:
            distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=index, world_size=2)
        torch.save(work(ranks), folder / f"{index}.pt")
        if ranks.count > 1:
            distributed.barrier()
        sys.exit(0)

    processes = [FORK.Process(target=run, args=(index,)) for index in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    first, second, one = [torch.load(folder / f"{index}.pt", weights_only=False) for index in range(3)]
    return one, [first, second]


def test_rows_are_shared_out_and_come_back_in_their_order(tmp_path):
    tables = [torch.randn(n, 2, 3).to(dtype) for n, dtype in ((1, torch.float32), (4, torch.bfloat16), (5, torch.half))]
    tables += [torch.arange(7), torch.rand(3) < 0.5]

    def work(ranks):
        rows = [ranks.rows(table[ranks.places(len(table))], len(table)) for table in tables]
        total = ranks.add(torch.tensor([1.0, ranks.index]))
        parts = [torch.tensor([float(ranks.index)]), torch.full((2, 2), 2.0 * ranks.index)]
        ranks.average(parts)
        sent = ranks.sent(torch.full((2,), ranks.index + 3, dtype=torch.bfloat16))
        said = ranks.each(ranks.index), ranks.first(f"from {ranks.index}"), ranks.named([str(ranks.index)])
        return rows, total, parts, sent, said

    for rows, total, parts, sent, said in in_three(tmp_path, work)[1]:
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(rows, tables, strict=True))
        assert total.tolist() == [2, 1] and sent.tolist() == [3, 3]
        assert parts[0].tolist() == [0.5] and parts[1].tolist() == [[1, 1], [1, 1]]
        assert said == ([0, 1], "from 0", {"0", "1"})
    rows = torch.arange(5)
    assert torch.equal(ALONE.rows(rows[ALONE.places(5)], 5), rows) and ALONE.each(3) == [3]


@pytest.mark.parametrize("n, count", [(1, 4), (5, 2), (48, 7), (64, 64)])
def test_every_process_has_as_many_places_and_no_row_is_missed(n, count):
    places = [Ranks(index, count).places(n).tolist() for index in range(count)]
    assert {len(own) for own in places} == {-(-n // count)} and all(len(set(own)) == len(own) for own in places)
    assert {k for own in places for k in own} == set(range(n))
    shares = [Ranks(index, count).own(list(range(n))) for index in range(count)]
    assert sorted(sum(shares, [])) == list(range(n))
    even = [
        len(ranks.own(ranks.whole(list(range(n))))) for ranks in (Ranks(k, count, sharded=True) for k in range(count))
    ]
    assert set(even) == {n // count}


def test_work_is_shared_out_evenly():
    assert Ranks(0, 2).shared_out([5, 1, 3, 3]) == [0, 0, 1, 1] and ALONE.shared_out([1, 2]) == [0, 0]


@pytest.mark.parametrize("options", [{}, {"sketch": 8}, {"on_host": True}, {"geometry": "euclidean"}], ids=str)
def test_bases_of_two_processes_are_those_of_one(tmp_path, options):
    """Five batches, so that one has more than the other; the first layer is wide enough to be sketched."""
    options = dict(options)
    config = SemuConfig(gamma=0.9, max_rank=3, geometry=options.pop("geometry", "remain"))
    model = nn.Sequential(nn.Linear(200, 300), nn.Tanh(), nn.Linear(300, 8))
    batches = torch.randn(5, 3, 200)

    def work(ranks):
        own = batches[ranks.index :: ranks.count]
        backward = lambda: [model(x).square().mean().backward() for x in own]  # noqa: E731
        return find_bases(model, config, backward, lambda: [model(x + 1) for x in own], ranks=ranks, **options)

    one, both = in_three(tmp_path, work)
    assert all(list(found) == list(one) == ["0", "2"] for found in both)
    for name, basis in one.items():
        for found in both:
            same = found[name]
            assert torch.equal(same.U, both[0][name].U) and torch.equal(same.V, both[0][name].V)  # to the bit
            assert same.rank == basis.rank and same.energy == pytest.approx(basis.energy, rel=1e-4)
            for ours, theirs in ((same.U, basis.U), (same.V, basis.V)):  # one space, whatever the signs
                Q, P = (torch.linalg.qr(X).Q for X in (ours, theirs))
                torch.testing.assert_close(torch.linalg.svdvals(Q.T @ P), torch.ones(basis.rank), rtol=0, atol=1e-3)


def test_a_process_without_records_of_a_layer_adds_nothing(tmp_path):
    """The first layer is reached only by what the second process has; and the moments of both are the mean of all."""
    model = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)])
    x = torch.randn(2, 5, 3)

    def work(ranks):
        own = range(2) if ranks.count == 1 else [1 - ranks.index]
        backward = lambda: [model[k](x[k]).square().sum().backward() for k in own]  # noqa: E731
        moments = second_moments(model, SemuConfig(), lambda: [model[k](x[k]) for k in own], ranks=ranks)
        return moments, find_bases(model, SemuConfig(max_rank=2), backward, ranks=ranks)

    (moments, one), both = in_three(tmp_path, work)
    for found, bases in both:
        assert all(torch.allclose(found[name], moments[name]) for name in ("0", "1"))
        assert list(bases) == ["0", "1"] and all(torch.allclose(bases[k].S, one[k].S, atol=1e-5) for k in one)


def test_where_one_gradient_overflows_all_begin_again(tmp_path):
    model, x = nn.Linear(3, 4), torch.randn(5, 3)

    def work(ranks, smallest=1.0):
        scale, seen = LossScale(256.0), []

        def backward():
            seen.append(scale.value)
            broken = ranks.index == 1 and scale.value > smallest
            (scale.value * model(x).square().sum() * (torch.inf if broken else 1)).backward()

        try:
            find_bases(model, SemuConfig(max_rank=2), backward, scale=scale, ranks=ranks)
        except NotFinite as error:
            return seen, str(error)
        return seen, None

    assert in_three(tmp_path, work) == (([256.0], None), [([256.0, 16.0, 1.0], None)] * 2)
    (tmp_path / "again").mkdir()
    for seen, error in in_three(tmp_path / "again", lambda ranks: work(ranks, 0.0))[1]:
        assert seen == [256.0, 16.0, 1.0] and "not finite" in error


def test_sketch_zero_is_for_one_process():
    with pytest.raises(ValueError, match="several processes"):
        find_bases(nn.Linear(2, 2), SemuConfig(), lambda: None, sketch=0, ranks=Ranks(0, 2))
