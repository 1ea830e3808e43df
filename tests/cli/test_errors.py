"""One way out: whatever is raised below `main` ends in one line that says what to do."""

import errno
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import SafetensorError
from shell import FORK, MAIN, call_semu

from semu_diffusion.cli import entry
from semu_diffusion.messages import SYSTEM, message_of

ERRORS = {
    "ours": (ValueError("the reason"), "the reason"),
    "nan": (FloatingPointError("the loss is nan"), "the loss is nan"),
    "empty": (ValueError(), "unexpected ValueError"),
    "bug": (KeyError("x"), "unexpected KeyError.*--debug.*semu doctor"),
    "assertion": (AssertionError(), "unexpected AssertionError.*semu doctor"),
    "recursion": (RecursionError("too deep"), "unexpected RecursionError"),
    "torch": (RuntimeError("shape\nmismatch"), "unexpected RuntimeError.*shape mismatch"),
    "disk full": (OSError(errno.ENOSPC, "No space left", "a.json"), "disk is full; free some space.*a.json"),
    "quota": (OSError(errno.EDQUOT, "Quota"), "quota is used up"),
    "file size": (OSError(errno.EFBIG, "File too large"), "ulimit -f"),
    "read-only": (OSError(errno.EROFS, "Read-only"), "read-only; write somewhere else"),
    "no right": (PermissionError(errno.EACCES, "denied", "a"), "no right.*a"),
    "files": (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    "gone": (FileNotFoundError(errno.ENOENT, "No such file", "out/.work/x"), "removed while.*out/.work/x"),
    "other os": (OSError("something else"), "something else"),
    "safetensors full": (
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        "disk is full",
    ),
    "safetensors size": (SafetensorError("I/O error: File too large (os error 27)"), "ulimit -f"),
    "safetensors": (SafetensorError("Error while deserializing header"), "damaged, download or write it again"),
    "memory": (MemoryError(), "out of memory; use less"),
    "gpu memory": (torch.OutOfMemoryError("CUDA out of memory"), "out of memory; use less"),
    "cpu memory": (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
    "package": (ImportError("no module named lpips"), "lpips; install what is missing"),
    "steering": (ValueError("bad layer \x1b[2J\x07name"), "bad layer  ?.2J name"),
    "unicode": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "utf-8"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_any_error_is_one_line(case, monkeypatch, semu):
    error, expected = ERRORS[case]

    def fails():
        raise error

    monkeypatch.setattr("semu_diffusion.cli.options.quieten", fails)
    status, out, err = semu("generate", "--prompt", "a", "--output", "nowhere", "--model", "nowhere")
    assert status == 2 and out == "" and len(err.splitlines()) == 1 and err.isprintable() is False
    assert err.startswith("semu: ") and "\x1b" not in err
    import re

    assert re.search(expected, err), err


def test_every_error_of_the_system_has_advice():
    assert all(message_of(OSError(number, "x", "f"))[0] == f"{advice} (f)" for number, advice in SYSTEM.items())


@pytest.mark.parametrize("place", [0, -1])
def test_debug_shows_where(place, semu):
    arguments = ["inspect", "nowhere"]
    arguments.insert(place if place == 0 else len(arguments), "--debug")
    status, out, err = semu(*arguments)
    assert status == 2 and "Traceback" in err and err.splitlines()[-1].startswith("semu: no adapter at nowhere")
    assert "Traceback" not in semu("inspect", "nowhere")[2] and "--debug" in semu("--help")[1]


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (["erase", "--concept", "cat", "--output", "OUT"], "interrupted; nothing was done yet; run it again"),
        (["attack", "ADAPTER", "--output", "OUT"], "interrupted; nothing was done yet; run it again"),
        (["eval", "ADAPTER", "--output", "OUT"], "interrupted; nothing was drawn yet; run it again"),
        (["generate", "--prompt", "a", "--output", "OUT"], "interrupted"),
        (["export", "ADAPTER", "--output", "OUT"], "interrupted"),
        (["merge", "ADAPTER", "ADAPTER", "--output", "OUT"], "interrupted"),
        (["classify", "--output", "OUT"], "interrupted; nothing was written; run it again"),
        (["prompts", "--concept", "cat"], "interrupted"),
    ],
)
def test_ctrl_c_before_anything_leaves_nothing(command, hint, monkeypatch, tmp_path, semu):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("semu_diffusion.diffusion.load_pipeline", stop)
    monkeypatch.setattr("semu_diffusion.diffusion.loading.load_pipeline", stop)
    monkeypatch.setattr("semu_diffusion.classification.data.load_data", stop)
    words = [str(tmp_path / "out") if word == "OUT" else word for word in command]
    status, out, err = semu(*words)
    assert (status, out, err) == (130, "", f"semu: {hint}\n") and not (tmp_path / "out").exists()


def run(*arguments, options=(), **environment):
    command = [sys.executable, *options, "-c", MAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_python_without_docstrings_is_refused():
    done = run("models", options=["-OO"])
    assert done.returncode == 2 and done.stderr.startswith("semu: python -OO takes away docstrings")
    assert run("app", "--help", options=["-O"]).returncode == 0


def test_an_stdout_of_ascii(tmp_path):
    from adapters import adapted_model

    from semu_diffusion.adapter.weights import save_adapter

    save_adapter(adapted_model("mlp"), tmp_path, about={"concept": ["Äpfel"], "base_model": "a/b"})
    done = run("inspect", tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0 and "?pfel" in done.stdout and done.stderr == ""


def speak(out: int, errors, arguments) -> None:
    """The entry point with stdout on a file descriptor of its own."""
    sys.stdout, sys.stderr = os.fdopen(out, "w"), errors.open("w", buffering=1)
    os._exit(call_semu(*arguments))


def said_to(out: int, errors, *arguments) -> tuple[int, str]:
    """Exit status and stderr of the entry point in a copy of this process, which then alone has that stdout."""
    process = FORK.Process(target=speak, args=(out, errors, arguments))
    process.start()
    os.close(out)
    process.join(60)
    return process.exitcode, errors.read_text()


def test_a_reader_that_has_gone_gets_all_pictures(tiny_model, tmp_path):
    words = ["generate", "--model", tiny_model, "--prompt", "a", "--count", "3", "--steps", "1", "--quiet"]
    reader, out = os.pipe()
    os.close(reader)
    status, said = said_to(out, tmp_path / "err", *words, "--output", tmp_path / "out")
    assert len([*(tmp_path / "out").iterdir()]) == 3 and "Traceback" not in said and "BrokenPipe" not in said
    assert status == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_an_stdout_that_is_full(tmp_path):
    status, said = said_to(os.open("/dev/full", os.O_WRONLY), tmp_path / "err", "models")
    assert status == 2 and said.startswith("semu: the disk is full") and said.count("\n") == 1


def works(pipe):
    """A process that torchrun has started; while it lives, it holds one end of the pipe."""
    entry.prepare_process()
    os.write(pipe, b"%8d" % os.getpid())
    time.sleep(60)


def launches(pipe):
    multiprocessing.get_context("fork").Process(target=works, args=(pipe,)).start()
    os.close(pipe)
    time.sleep(60)


@pytest.mark.parametrize("launched", [True, False])
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_torchrun_leaves_no_process_behind(launched, kill, monkeypatch):
    """And a program that was not started by torchrun outlives what started it, as with nohup."""
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    read, write = os.pipe()
    launcher = multiprocessing.get_context("fork").Process(target=launches, args=(write,))
    launcher.start()
    os.close(write)
    worker = int(os.read(read, 8))
    os.kill(launcher.pid, kill)
    launcher.join()
    gone = bool(select.select([read], [], [], 10 if launched else 0.5)[0]) and os.read(read, 1) == b""
    if not gone:
        os.kill(worker, signal.SIGKILL)
    os.close(read)
    assert gone == launched


def test_the_environment_is_not_torchruns():
    assert "TORCHELASTIC_RUN_ID" not in os.environ and entry.prepare_process() is None
