"""Jobs: one at a time, told as they go, stopped where they are asked to."""

import threading
import time
import warnings
from dataclasses import dataclass

import pytest

from semu_diffusion.app import jobs
from semu_diffusion.app.jobs import End, Job, Stage, Told, follow

AT_WORK = []


@dataclass
class Count(Job):
    """So many parts, each of some seconds."""

    parts: int = 3
    seconds: float = 0.0
    error: str = ""

    def run(self, desk, callback):
        AT_WORK.append(self)
        assert len(AT_WORK) == 1
        try:
            callback.stage("counting", self.parts)
            for _ in range(self.parts):
                time.sleep(self.seconds)
                callback.advance()
            if self.error:
                raise ValueError(self.error)
            warnings.warn_explicit("a picture is dark", UserWarning, jobs.__file__, 1)
            return self.parts
        finally:
            AT_WORK.remove(self)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(jobs, "BEAT", 0.02)


def test_a_job_tells_where_it_is_and_how_it_ended(tmp_path):
    *before, end = follow(Count(tmp_path / "stop", seconds=0.05))
    assert all(isinstance(told, Told) for told in before) and any(told.stages for told in before)
    assert (end.how, end.value, end.told.notes) == ("done", 3, ["a picture is dark"])
    (stage,) = end.told.stages
    assert (stage.name, stage.done, stage.total) == ("counting", 3, 3) and stage.left == 0 and stage.seconds >= 0.15


def test_the_time_left_is_by_the_speed_so_far():
    assert Stage("a", 10, 4, seconds=2.0).left == 3.0
    assert Stage("a", 10, 8, first=6, seconds=2.0).left == 2.0  # resumed
    assert Stage("a", 10).left is None and Stage("a", done=3, seconds=1.0).left is None


def test_an_error_is_the_line_of_the_shell(tmp_path):
    *_, end = follow(Count(tmp_path / "stop", error="a strength\nmust not be negative"))
    assert (end.how, end.value) == ("failed", "a strength must not be negative") and not end.done


def test_a_job_stops_where_it_is_asked_to(tmp_path):
    job = Count(tmp_path / "stop", parts=1000, seconds=0.01)
    for told in follow(job):
        if isinstance(told, Told) and told.stages and told.stages[-1].done > 2:
            job.stop.touch()
    assert isinstance(told, End) and told.how == "stopped" and told.told.stages[-1].done < 100


def test_who_leaves_frees_the_device(tmp_path):
    told = follow(Count(tmp_path / "stop", parts=1000, seconds=0.01))
    assert isinstance(next(told), Told) and jobs.TURN.locked()
    told.close()  # as Gradio does where a page is closed
    assert not jobs.TURN.locked() and not AT_WORK and (tmp_path / "stop").exists()
    *_, end = follow(Count(tmp_path / "another"))
    assert end.done


def test_eight_wait_for_each_other(tmp_path):
    ends = []

    def visit(k):
        *_, end = follow(Count(tmp_path / f"stop{k}", seconds=0.01))
        ends.append(end.how)

    threads = [threading.Thread(target=visit, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == ["done"] * 8  # each asserts that it is alone


def test_who_waits_and_leaves_is_not_begun(tmp_path):
    with jobs.TURN:
        told = follow(Count(tmp_path / "stop"))
        assert next(told).stages[0].name == "waiting for the device"
        (tmp_path / "stop").touch()
        assert [t.how for t in told if isinstance(t, End)] == ["stopped"]
