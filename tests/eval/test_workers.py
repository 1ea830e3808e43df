"""Jobs in several processes: those that fail, and those whose program is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.processes import as_done

ROOT = Path(__file__).parents[2]


def square_root(x: float) -> float:
    """ValueError for negative ones."""
    if x < 0:
        raise ValueError(f"{x} has no root")
    return x**0.5


@pytest.mark.parametrize("workers", [1, 2])
def test_each_job_is_told_by_its_number(workers):
    assert dict(as_done(square_root, [(4,), (9,), (16,)], workers)) == {0: 2, 1: 3, 2: 4}


def test_one_that_fails_does_not_stop_the_others():
    found = {}
    with pytest.raises(ValueError, match="-1 has no root"):
        for k, root in as_done(square_root, [(-1,), (9,)], 2):
            found[k] = root
    assert found == {1: 3}


def wait(file: str) -> None:
    """Leaves its process number, and takes long."""
    Path(file).write_text(str(os.getpid()))
    time.sleep(600)


def running(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="reads /proc, which this system has none of")
def test_workers_end_with_a_program_that_is_killed(tmp_path):
    files = [tmp_path / "0", tmp_path / "1"]
    jobs = [(str(file),) for file in files]
    code = f"from eval.processes import as_done; import test_workers as own; list(as_done(own.wait, {jobs}, 2))"
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    program = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
    until = time.monotonic() + 60
    while not all(f.is_file() and f.read_text() for f in files) and time.monotonic() < until:
        time.sleep(0.05)
    workers = [int(f.read_text()) for f in files]
    assert all(running(pid) for pid in workers)
    program.send_signal(signal.SIGKILL)
    program.wait()
    while any(running(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(running(pid) for pid in workers)
