"""`semu` as the tests run it: in this process, in copies of it, or as a program of its own.

A copy (fork) has imported everything already, which takes a new program five seconds and more.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
import time
from unittest import mock

import pytest

from semu_diffusion.cli.entry import main

MAIN = "from semu_diffusion.cli import main; main()"


def call_semu(*arguments) -> int:
    """Runs the entry point with arguments and returns its exit status."""
    with mock.patch.object(sys, "argv", ["semu", *map(str, arguments)]), pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


FORK = multiprocessing.get_context("fork")


def hold(folder, held) -> None:
    """Claims a folder, says so, and stays."""
    from semu_diffusion.adapter.claims import claimed

    with claimed(folder):
        held.set()
        time.sleep(60)


@contextlib.contextmanager
def held_by_another(folder):
    """While another process writes into a folder; it is killed at the end."""
    held = FORK.Event()
    other = FORK.Process(target=hold, args=(folder, held))
    other.start()
    assert held.wait(60)
    try:
        yield
    finally:
        other.kill()
        other.join()


def as_rank(environment: dict[str, str], arguments) -> None:
    """The entry point as one process of several."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ.update(environment)
    sys.exit(call_semu(*arguments))


def call_semu_together(count: int, *arguments) -> list[int]:
    """Runs the entry point in so many processes that work together, and returns their exit statuses."""
    return call_each([arguments] * count)


def call_each(arguments: list) -> list[int]:
    """The same with arguments of its own for each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(len(arguments)))
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{**shared, "RANK": str(k), "LOCAL_RANK": str(k)} for k in range(len(arguments))]
    processes = [FORK.Process(target=as_rank, args=pair) for pair in zip(ranks, arguments)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    return [process.exitcode for process in processes]
