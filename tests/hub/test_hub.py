"""Push and pull with the real huggingface_hub client against a local server."""

import json

import pytest
import torch
from adapters import outputs, predict_noise, put_on, put_on_unet, same
from peft import PeftModel
from safetensors.torch import load_file

from semu_diffusion import load_adapter, load_adapters, load_pipeline, save_lora, set_weights
from semu_diffusion.adapter.weights import WEIGHTS, save_adapter
from semu_diffusion.diffusion.export import export
from semu_diffusion.diffusion.pipeline import save_adapters
from semu_diffusion.hub.card import HERE
from semu_diffusion.hub.transfer import is_repo, pull, push_to_hub, to_push

REPO = "someone/no-cigarette"


@pytest.fixture
def folder(tiny_model, tmp_path):
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on_unet(pipe)
    save_adapter(pipe.unet, tmp_path / "adapter", about={"concept": ["cigarette"]})
    save_lora(pipe, tmp_path / "adapter", precision="fp32")
    (tmp_path / "adapter" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# card\n")
    (tmp_path / "adapter" / "secret.pt").write_bytes(b"never sent")
    return tmp_path / "adapter"


def output_with(load, tiny_model):
    pipe = load_pipeline(str(tiny_model), "cpu")
    load(pipe)
    return predict_noise(pipe)


def test_push_is_one_commit_of_the_adapters_files(hub, folder):
    address = push_to_hub(folder, REPO, private=True)
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"]
    assert hub.commits == [(REPO, names)]
    assert hub.private[REPO] and address.startswith(hub.url)
    assert hub.repos[REPO]["main"]["adapter_config.json"] == (folder / "adapter_config.json").read_bytes()


def test_everybody_loads_what_was_pushed(hub, folder, tiny_model):
    push_to_hub(folder, REPO)
    expected = output_with(lambda pipe: load_adapter(pipe, folder), tiny_model)
    ours = output_with(lambda pipe: load_adapter(pipe, REPO), tiny_model)
    lora = output_with(lambda pipe: pipe.load_lora_weights(REPO), tiny_model)
    pipe = load_pipeline(str(tiny_model), "cpu")
    pipe.unet = PeftModel.from_pretrained(pipe.unet, REPO)
    assert torch.equal(ours, expected)
    torch.testing.assert_close(lora, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(predict_noise(pipe), expected, rtol=0, atol=1e-6)


def test_a_revision_is_pinned(hub, folder):
    first = push_to_hub(folder, REPO).rsplit("/", 1)[1]
    (folder / "adapter_config.json").write_text(
        (folder / "adapter_config.json").read_text().replace("cigarette", "knife")
    )
    push_to_hub(folder, REPO)
    assert "cigarette" in (pull(REPO, revision=first) / "adapter_config.json").read_text()
    assert "knife" in (pull(REPO) / "adapter_config.json").read_text()


def test_an_interrupted_upload_leaves_nothing_and_can_be_repeated(hub, folder):
    hub.break_commit = True
    with pytest.raises(ValueError, match="cannot reach the Hub|the Hub refused"):
        push_to_hub(folder, REPO)
    assert hub.commits == [] and hub.repos == {}  # no empty repository stays
    with pytest.raises(ValueError, match="no repository someone/no-cigarette"):
        pull(REPO)
    hub.break_commit = False
    push_to_hub(folder, REPO)
    assert len(hub.commits) == 1


def test_a_branch_and_a_pull_request(hub, folder):
    with pytest.raises(ValueError, match="no repository someone/no-cigarette"):
        push_to_hub(folder, REPO, create_pr=True)
    push_to_hub(folder, REPO)
    (folder / "results.json").write_text("{}")
    push_to_hub(folder, REPO, revision="strong")
    assert "results.json" in hub.repos[REPO]["strong"] and "results.json" not in hub.repos[REPO]["main"]
    hub.requests.clear()
    address = push_to_hub(folder, REPO, create_pr=True)
    assert address.endswith("/discussions/1") and "/api/repos/create" not in hub.requests
    assert "results.json" in hub.repos[REPO]["refs/pr/1"] and "results.json" not in hub.repos[REPO]["main"]
    assert pull(REPO, revision="refs/pr/1").is_dir()


def test_a_name_that_is_taken(hub, folder):
    hub.repos[REPO] = {"main": {"model_index.json": b"{}"}, "0" * 40: {}}
    with pytest.raises(ValueError, match="exists and holds something else .such as model_index.json.; choose another"):
        push_to_hub(folder, REPO)
    assert hub.commits == []


def test_without_a_token_nothing_is_sent(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ValueError, match="no token: run `hf auth login`"):
        push_to_hub(folder, REPO)
    assert hub.requests == []


def test_no_network(hub, folder):
    push_to_hub(folder, REPO)
    pull(REPO)
    hub.close()
    assert pull(REPO).is_dir()  # from the cache
    with pytest.raises(ValueError, match="cannot reach the Hub") as caught:
        push_to_hub(folder, REPO)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot reach the Hub, and someone/other is neither in the local cache nor"):
        pull("someone/other")


def test_text_encoders_travel_and_come_back(hub, tiny_model, tmp_path):
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on(pipe.unet)
    put_on(pipe.text_encoder, 1)
    folder = save_adapters(pipe, tmp_path / "both", {"concept": ["cigarette"]})
    for form in ("diffusers", "kohya"):
        export(pipe, folder, form, precision="fp32", everything=True)
    push_to_hub(folder, REPO)
    assert "text_encoder/adapter_model.safetensors" in hub.commits[0][1]
    again = load_pipeline(str(tiny_model), "cpu")
    load_adapter(again, REPO)
    expected, found = outputs(pipe), outputs(again)
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    plain = load_pipeline(str(tiny_model), "cpu")
    plain.load_lora_weights(REPO)  # picks the LoRA among the four files
    same(outputs(plain), expected)
    (tmp_path / "both" / "text_encoder" / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="text_encoder has no adapter_config.json"):
        to_push(folder)


def test_several_adapters_by_name(hub, folder, tiny_model):
    push_to_hub(folder, REPO)
    pipe = load_pipeline(str(tiny_model), "cpu")
    load_adapters(pipe, [REPO, folder], [0.5, 0.5])
    expected = output_with(lambda pipe: load_adapter(pipe, folder), tiny_model)
    torch.testing.assert_close(predict_noise(pipe), expected, rtol=0, atol=1e-5)
    set_weights(pipe, {})
    assert torch.equal(predict_noise(pipe), predict_noise(load_pipeline(str(tiny_model), "cpu")))


def test_four_adapters_of_the_hub_are_fused_by_one_command(hub, tiny_model, tmp_path, semu, monkeypatch):
    monkeypatch.setattr("semu_diffusion.diffusion.scene.LATENTS", 2)
    names, repos, here = ("cigarette", "knife", "dog", "wine"), [], []
    for k, name in enumerate(names):
        pipe = load_pipeline(str(tiny_model), "cpu")
        put_on(pipe.unet, k)
        save_adapters(
            pipe,
            tmp_path / f"no-{name}",
            {"concept": [name], "base_model": str(tiny_model), "anchors": {name: ["cat"]}},
        )
        push_to_hub(tmp_path / f"no-{name}", f"someone/no-{name}")
        repos.append(f"someone/no-{name}")
        here.append(tmp_path / f"no-{name}")
    status, out, err = semu("merge", *repos, "--output", tmp_path / "pulled", "--model", tiny_model)
    assert status == 0, err
    assert semu("merge", *here, "--output", tmp_path / "local", "--model", tiny_model)[0] == 0
    pulled, local = (load_file(tmp_path / folder / WEIGHTS) for folder in ("pulled", "local"))
    assert pulled.keys() == local.keys() and all(torch.equal(pulled[key], local[key]) for key in pulled)
    assert json.loads((tmp_path / "pulled" / "results.json").read_text())["concept"] == [*names]
    assert (tmp_path / "pulled" / "fusion.png").is_file() and "no-wine" in out


def test_the_card_names_the_repository(hub, folder):
    (folder / "README.md").write_text(f'load_adapter(pipe, "{HERE}")')
    push_to_hub(folder, REPO)
    assert hub.repos[REPO]["main"]["README.md"].decode() == f'load_adapter(pipe, "{REPO}")'


@pytest.mark.parametrize("status, message", [(401, "does not accept this token"), (403, "no right to write")])
def test_refusals_are_one_line(hub, folder, status, message):
    hub.refuse = status
    with pytest.raises(ValueError, match=message) as caught:
        push_to_hub(folder, REPO)
    assert "\n" not in str(caught.value)


def test_missing_things_are_one_line(hub, folder, tmp_path):
    with pytest.raises(ValueError, match="no repository someone/else"):
        pull("someone/else")
    push_to_hub(folder, REPO)
    with pytest.raises(ValueError, match="no such revision"):
        pull(REPO, revision="v9")
    hub.repos[REPO]["main"].pop("adapter_config.json")
    with pytest.raises(ValueError, match="holds no SEMU adapter"):
        pull(REPO)
    with pytest.raises(ValueError, match="expected user/name"):
        push_to_hub(folder, "no-owner")
    with pytest.raises(ValueError, match="no adapter at"):
        to_push(tmp_path / "nothing")


def test_command_line(hub, folder, semu):
    status, out, _ = semu("push", folder, REPO, "--dry-run")
    assert status == 0 and hub.requests == [] and "adapter_model.safetensors" in out and "secret" not in out
    assert semu("push", folder, REPO)[0] == 0 and len(hub.commits) == 1
    status, out, _ = semu("pull", REPO)
    assert status == 0 and out.strip().startswith(str(folder.parent / "cache"))
    status, _, err = semu("pull", "someone/else")
    assert status == 2 and err.strip() == "semu: no repository someone/else that this token may see"


def test_what_is_a_repository_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_repo("user/name") and not is_repo("./user") and not is_repo("a/b/c") and not is_repo("name")
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "name").mkdir()
    assert not is_repo("user/name")
