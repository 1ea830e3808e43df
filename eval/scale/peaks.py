"""What the stages of an erasure take of memory, and how long they are: the functions of `STAGES`, watched in a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

from torch.profiler import ProfilerActivity, profile, record_function

from semu_diffusion.adapter import subspace
from semu_diffusion.diffusion import erasure
from semu_diffusion.diffusion.trainer import Trainer

STAGES = {
    "drawing": (erasure, "make_states"), "moments": (subspace, "second_moments"), "gradient": (subspace, "gradients"),
    "bases": (subspace, "all_bases"), "training": (Trainer, "step"), "checks": (Trainer, "share_left"),
}  # fmt: skip
MARK = "stage: "


@contextlib.contextmanager
def watched(around: Callable[[str, Callable], Callable]) -> Iterator[None]:
    """Every stage's function replaced by `around(stage, function)` for the time of the block."""
    with contextlib.ExitStack() as stack:
        for stage, (place, name) in STAGES.items():
            stack.enter_context(mock.patch.object(place, name, around(stage, getattr(place, name))))
        yield


def marked(stage: str, function: Callable) -> Callable:
    """The function under a mark that the profiler records."""

    def run(*args, **more):
        with record_function(MARK + stage):
            return function(*args, **more)

    return run


def peaks(run: Callable[[], object]) -> dict[str, int]:
    """The most bytes that each stage has taken beyond what was there before the run, as torch's CPU allocator tells it
    to the profiler: buffers inside of kernels too, which the planner's own count of tensors does not see.

    The allocator tells of one thread; bases, which have threads of their own, are worked out in this one.
    """
    inline = lambda work, items, device: [work(item) for item in items]  # noqa: E731
    with watched(marked), mock.patch.object(subspace, "side_by_side", inline):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            run()
    events = seen.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    spans = [(e.name().removeprefix(MARK), e.start_ns(), e.start_ns() + e.duration_ns())
             for e in events if e.name().startswith(MARK)]  # fmt: skip
    return highest(changes, spans)


def highest(changes: list[tuple[int, int]], spans: list[tuple[str, int, int]]) -> dict[str, int]:
    """The highest running sum of changes (time, bytes) within spans (name, begin, end), by name."""
    found: dict[str, int] = {}
    begins = sorted(spans, key=lambda span: span[1])
    now, open_, k = 0, [], 0
    for at, size in changes:
        now += size
        while k < len(begins) and begins[k][1] <= at:
            open_.append(begins[k])
            k += 1
        open_ = [span for span in open_ if span[2] >= at]
        for name, *_ in open_:
            found[name] = max(found.get(name, 0), now)
    return found
