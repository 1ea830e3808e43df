"""A Hub that misbehaves: busy, refusing, silent, or sending damaged weights; and folders made to leak."""

import hashlib
import json
import os
import threading
import time

import pytest
from adapters import put_on_unet
from safetensors.torch import load_file

from semu_diffusion import load_pipeline, save_lora
from semu_diffusion.adapter.weights import CONFIG, WEIGHTS, save_adapter
from semu_diffusion.hub import patience, transfer
from semu_diffusion.hub.transfer import pull, push_to_hub, to_push

REPO = "someone/no-cigarette"


@pytest.fixture
def folder(tiny_model, tmp_path):
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on_unet(pipe)
    about = {"concept": ["cigarette"], "base_model": str(tiny_model), "on_top_of": "/home/me/first"}
    save_adapter(pipe.unet, tmp_path / "adapter", about=about)
    save_lora(pipe, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def waits(monkeypatch):
    """The waits between tries, which take no time."""
    waits = []
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    return waits


@pytest.mark.filterwarnings("ignore:the Hub is busy")
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_hub_is_asked_again(status, hub, folder, waits):
    hub.busy, hub.retry_after = [status, status], "7"
    push_to_hub(folder, REPO)
    assert len(hub.commits) == 1 and hub.busy == []
    assert waits and all(7 <= wait <= 8 for wait in waits)  # some of them are the client's own
    hub.busy, hub.retry_after = [status], None
    assert pull(REPO).is_dir() and hub.busy == []


@pytest.mark.filterwarnings("ignore:the Hub is busy")
@pytest.mark.parametrize(
    ("status", "push", "read"),
    [
        (401, "does not accept this token", "does not accept this token"),
        (403, "no right to write to someone", "no right to read someone"),
        (404, "has no someone", "has no someone"),
        (409, "somebody else changes someone", "somebody else changes someone"),
        (429, "takes no more requests", "takes no more requests"),
        (500, "problem of its own .500.; try again later", "problem of its own .500."),
        (503, "problem of its own .503.; try again later", "problem of its own .503."),
        (418, "refused someone/no-cigarette .418.", "refused someone/no-cigarette .418."),
    ],
)
def test_each_status_says_what_it_means(status, push, read, hub, folder, waits):
    hub.refuse = status
    for task, expected in ((lambda: push_to_hub(folder, REPO), push), (lambda: pull(REPO), read)):
        with pytest.raises(ValueError, match=expected) as caught:
            task()
        assert "\n" not in str(caught.value)
    assert (len(waits) > 0) == (status in patience.PASSING)


@pytest.mark.filterwarnings("ignore:the Hub is busy")
def test_a_wait_that_is_too_long_is_not_waited(hub, folder, waits):
    hub.busy, hub.retry_after = [429] * 9, "3600"
    with pytest.raises(ValueError, match="takes no more requests"):
        push_to_hub(folder, REPO)
    assert waits == []


def test_a_silent_server_is_not_waited_for(hub, folder, monkeypatch):
    import huggingface_hub

    huggingface_hub.close_session()
    monkeypatch.setattr(patience, "SILENCE", 0.5)
    hub.silent = threading.Event()
    started = time.monotonic()
    for task in (lambda: push_to_hub(folder, REPO), lambda: pull(REPO)):
        with pytest.raises(ValueError, match="does not answer .for 0.5 s.; try again later"):
            task()
    hub.silent.set()
    huggingface_hub.close_session()
    assert time.monotonic() - started < 30


def test_damaged_weights_are_noticed_and_had_again(hub, folder):
    push_to_hub(folder, REPO)
    hub.large = True  # the Hub gives the SHA-256 of large files
    hub.damage = [WEIGHTS]
    assert load_file(pull(REPO) / WEIGHTS).keys() == load_file(folder / WEIGHTS).keys()
    assert (pull(REPO) / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes() and hub.damage == []


def test_weights_that_stay_damaged_are_refused_and_not_cached(hub, folder, tmp_path):
    push_to_hub(folder, REPO)
    hub.large, hub.damage = True, [WEIGHTS] * 2
    with pytest.raises(ValueError, match=f"{WEIGHTS} of {REPO} arrives damaged"):
        pull(REPO)
    right = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert not [p for p in (tmp_path / "cache").rglob(right) if p.suffix != ".lock"]
    assert (pull(REPO) / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_a_cached_file_that_rots_is_noticed(hub, folder):
    push_to_hub(folder, REPO)
    hub.large = True
    file = (pull(REPO) / WEIGHTS).resolve()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert (pull(REPO) / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


# ------------------------------------------------------------------------------------------- what is pushed


def test_no_path_of_this_machine_is_pushed(hub, folder, tiny_model):
    (folder / "results.json").write_text(json.dumps({"base_model": str(tiny_model), "options": {"keep": ["/a/b c"]}}))
    (folder / "split.json").write_text('{"about": "the list in /home/me/list.txt"}')
    (folder / "credentials.json").write_text('{"token": "secret"}')
    (folder / "package-lock.json").write_text("{}")
    push_to_hub(folder, REPO)
    sent = hub.repos[REPO]["main"]
    assert "credentials.json" not in sent and "package-lock.json" not in sent and "split.json" in sent
    for name, data in sent.items():
        assert str(tiny_model).encode() not in data and b"/home/me/first" not in data, name
    config = json.loads(sent[CONFIG])
    assert config["base_model_name_or_path"] == config["about"]["base_model"] == tiny_model.name
    assert json.loads(sent["results.json"])["options"] == {"keep": ["b c"]}


def test_an_older_header_with_a_path_is_refused(folder):
    from safetensors import safe_open

    from semu_diffusion.adapter.weights import save_atomic

    with safe_open(folder / WEIGHTS, "pt") as file:
        text = json.loads(file.metadata()["semu_config"])
    text["about"]["base_model"] = "/home/me/model"
    save_atomic(load_file(folder / WEIGHTS), folder / WEIGHTS, {"semu_config": json.dumps(text)})
    with pytest.raises(ValueError, match="names a folder of this machine; write it again with `semu export"):
        to_push(folder)


@pytest.mark.parametrize(
    "name", ["before_after.png", "results.json", "extra.safetensors", "text_encoder", "base", "README.md"]
)
def test_links_are_not_followed(name, folder, tmp_path, hub):
    private = tmp_path / "private"
    private.mkdir()
    for file in (CONFIG, WEIGHTS):
        (private / file).write_bytes((folder / file).read_bytes())
    (private / "secret").write_text("secret")
    target = private if name in ("text_encoder", "base") else private / "secret"
    (folder / name).unlink(missing_ok=True)
    os.symlink(target, folder / name)
    with pytest.raises(ValueError, match="is a link; put the file itself there"):
        push_to_hub(folder, REPO)
    assert hub.commits == [] and hub.repos == {}


@pytest.mark.parametrize("existed", [True, False])
def test_a_failed_push_leaves_no_empty_repository(existed, hub, folder, monkeypatch):
    if existed:
        push_to_hub(folder, REPO)
    before = dict(hub.repos)
    hub.break_commit = True
    with pytest.raises(ValueError, match="cannot reach the Hub") as caught:
        push_to_hub(folder, REPO)
    assert hub.repos.keys() == before.keys() and "is left" not in str(caught.value)
    monkeypatch.setattr(transfer, "deleted", lambda *_: False)
    with pytest.raises(ValueError, match="cannot reach the Hub") as caught:
        push_to_hub(folder, REPO)
    assert ("the empty repository someone/no-cigarette is left" in str(caught.value)) != existed
