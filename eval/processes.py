"""Jobs of a benchmark in several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone, however that was stopped."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def as_done(work: Callable, jobs: Sequence[tuple], workers: int) -> Iterator[tuple[int, object]]:
    """The number of each job with what `work(*job)` returns, as they are done; of one worker here, in their order.

    Of several workers one that fails does not stop the others.

    Raises:
        Exception: what the first one that failed raised, when all are done.
    """
    if workers == 1:
        yield from ((k, work(*job)) for k, job in enumerate(jobs))
        return
    failed = []
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        futures = {pool.submit(work, *job): k for k, job in enumerate(jobs)}
        for future in as_completed(futures):
            if error := future.exception():
                print(f"{jobs[futures[future]]}: {error!r}", flush=True)
                failed.append(error)
            else:
                yield futures[future], future.result()
    if failed:
        raise failed[0]
