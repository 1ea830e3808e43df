"""The page in a browser and behind it: the four tabs, several visitors, what they may not do."""

import functools
import json
import sys
import threading

import pytest
from tiny import quick

from semu_diffusion.app import jobs, page
from semu_diffusion.app.desk import DESK, Model
from semu_diffusion.app.sessions import Known, Visits
from semu_diffusion.diffusion import EraseConfig

pytest.importorskip("gradio", reason="no Gradio: pip install 'semu-diffusion[app]'")
LITTLE = {"steps": 4, "latents": 2, "keep_latents": 2, "sampler_steps": 2, "gradient_records": 4, "max_rank": 4,
          "geometry": "euclidean", "batch_size": 2}  # fmt: skip


@pytest.fixture(scope="module")
def little():
    """The embedded model with as little work as there can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("semu_diffusion.diffusion.config.EraseConfig", functools.partial(EraseConfig, **LITTLE))
        patch.setattr("semu_diffusion.evaluation.suites.pictograms.SAMPLER_STEPS", 1)
        patch.setattr("semu_diffusion.evaluation.grid.OBJECTS", ("cigarette", "dog"))
        patch.setattr("semu_diffusion.evaluation.grid.STYLES", ("photo", "neon"))
        patch.setattr(jobs, "BEAT", 0.05)
        yield


@pytest.fixture(scope="module")
def own(little, assets, tmp_path_factory):
    """The page of this machine's user: its address, and where adapters are kept."""
    keep = tmp_path_factory.mktemp("app") / "adapters"
    blocks, address = page.launch(Model(), keep=keep, block=False)
    yield address, keep
    blocks.close()
    DESK.clear()


@pytest.fixture(scope="module")
def served(tiny_model, tmp_path_factory):
    """A page that serves others, with a tiny model: a function that makes visitors, and the visits."""
    from visitor import Visitor

    folder = tmp_path_factory.mktemp("served")
    quick(tiny_model, output=folder / "no-cigarette")
    visits = Visits(True, folder / "keep", {"no-cigarette": Known(folder / "no-cigarette")})
    blocks = page.build_page(page.Setting(Model(str(tiny_model), "cpu"), visits))
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, **page.looks())
    yield lambda: Visitor(blocks, address), visits
    blocks.close()
    DESK.clear()


def drawing(model, names=(), weight=1.0, steps="1"):
    """The inputs of the button Draw."""
    return (model, "a picture of a cigarette", list(names), 0, 1, steps, "", weight, 1, 1, 1)


def test_in_chromium(own, browser, tmp_path):
    address, keep = own
    tab = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    tab.set_default_timeout(60_000)
    errors, requests = [], []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(address)
    text = lambda place: tab.locator(place).inner_text()  # noqa: E731

    tab.get_by_role("tab", name="Erase").click()  # the plan, then the run with its pictures
    tab.get_by_label("What to forget").fill("cigarette")
    tab.keyboard.press("Enter")
    tab.locator("#planned table").wait_for()
    assert "a picture of a cigarette" in text("#planned") and not keep.exists()
    tab.get_by_role("button", name="Erase", exact=True).click()
    tab.locator("#erase-pictures .before").first.wait_for()
    tab.locator("#erased .hint").wait_for()
    assert "no-cigarette: " in text("#erased") and "4 steps" in text("#erased")
    assert (keep / "no-cigarette" / "adapter_model.safetensors").is_file()

    tab.get_by_role("button", name="Look at it").click()  # before and after, slider, dial
    tab.locator("#dial-0").wait_for()
    tab.get_by_role("button", name="Sampler").click()
    tab.get_by_label("Steps").fill("2")
    tab.get_by_role("button", name="Draw").click()
    stack = tab.locator("#look-pictures .stack").first
    stack.locator(".before").wait_for()
    clip = lambda: stack.locator(".before").evaluate("e => getComputedStyle(e).clipPath")  # noqa: E731
    at_first = clip()
    stack.locator("input").focus()
    tab.keyboard.press("ArrowRight")
    assert clip() != at_first
    after = stack.locator(".after").get_attribute("src")
    tab.locator("#dial-0 input[type=range]").focus()
    tab.keyboard.press("Home")
    same = "([a, b]) => document.querySelector(a).src === document.querySelector(b).src"
    images = [f"#look-pictures .stack .{side}" for side in ("before", "after")]
    tab.wait_for_function(same, arg=images)  # at strength 0 the base model draws
    assert stack.locator(".after").get_attribute("src") != after

    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"no such thing")
    tab.get_by_role("button", name="Add an adapter").click()
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Upload .safetensors").click()
    chooser.value.set_files(wrong)
    tab.locator("#look-status .problem").wait_for()
    assert "wrong.safetensors" in text("#look-status")

    tab.get_by_role("tab", name="Share").click()  # the card, and a download
    tab.locator("#share-adapter input").click()
    tab.get_by_role("option", name="no-cigarette").click()
    tab.locator("#card h1").wait_for()
    assert "pictograms without cigarette" in text("#card") and "adapter_model.safetensors" in text("#card-head")
    tab.get_by_role("button", name="Make the files").click()
    with tab.expect_download() as download:
        tab.locator("#files a").filter(has_text="MB").or_(tab.locator("#files a[download*='lora']")).first.click()
    assert download.value.suggested_filename.endswith(".safetensors")

    assert tab.evaluate("document.documentElement.scrollWidth") <= 390  # nothing sticks out on a phone
    assert tab.evaluate("document.querySelector('.dark') !== null")
    assert errors == [] and all(url.startswith((address, "data:", "blob:")) for url in requests)
    tab.close()


def test_a_suite_in_chromium(own, browser):
    address, keep = own
    if not (keep / "no-cigarette" / "adapter_config.json").is_file():
        pytest.skip("the test above erases what is measured here")
    tab = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
    tab.set_default_timeout(60_000)
    tab.goto(address)
    tab.get_by_role("tab", name="Measure").click()
    tab.locator("#measure-adapters input").click()
    tab.get_by_role("option", name="no-cigarette").click()
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name="Measure", exact=True).click()
    tab.locator("#figures table").wait_for()
    assert "UA" in tab.locator("#figures").inner_text()
    assert tab.locator("#charts img").count() == 1 and tab.locator("#charts iframe").count() == 1
    tab.close()


def test_eight_visitors_queue_and_one_that_leaves_frees_the_device(served, tiny_model):
    visitor, visits = served
    model, ends = str(tiny_model), []

    def draw():
        said = visitor().call("drawn", *drawing(model, ["no-cigarette"]))
        ends.append("stack" in json.dumps(said["output"]))

    leaving = visitor().messages("drawn", *drawing(model, steps="150"))
    while next(leaving)["msg"] != "process_generating":
        pass
    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    leaving.close()  # mid-run; the connection is cut
    for thread in threads:
        thread.join()
    assert ends == [True] * 8


def test_a_visitor_reaches_only_what_is_theirs(served, tiny_model, tmp_path):
    visitor, visits = served
    one, two = visitor(), visitor()
    visits.of(one.session).adapters["secret"] = visits.first["no-cigarette"]
    said = lambda who, *call: json.dumps(who.call(*call)["output"])  # noqa: E731
    one.call("refresh")
    assert "adapter_model.safetensors" in said(one, "carded", "secret", "")
    for call in (("drawn", *drawing(str(tiny_model), ["secret"])), ("carded", "secret", "")):
        assert two.call(*call)["success"] is False
    assert "is no id on the Hub" in said(two, "drawn", *drawing("/etc"))
    assert "is no id on the Hub" in said(two, "added", str(tiny_model), "/etc/passwd", [])
    assert "prompts are not read here" in said(two, "show_plan", str(tiny_model), "/etc/a.txt", "", "", *[""] * 4, 0, 0)
    theirs = {"path": str(visits.first["no-cigarette"].place / "adapter_model.safetensors"),
              "meta": {"_type": "gradio.FileData"}}  # fmt: skip
    assert two.call("uploaded", str(tiny_model), theirs, [])["success"] is False


def test_a_push_from_a_served_page_needs_the_visitors_own_token(served, hub, monkeypatch):
    visitor, visits = served
    monkeypatch.setenv("HF_TOKEN", "hf_host")
    who = visitor()
    push = lambda token: json.dumps(  # noqa: E731
        who.call("pushed", "no-cigarette", "someone/no-cigarette", token, False, False)["output"]
    )
    assert "give a token of yours" in push("") and hub.commits == []
    said = push("hf_theirs")
    assert f"{hub.url}/someone/no-cigarette/commit/" in said and "hf_theirs" not in said
    ((repo, files),) = hub.commits
    assert repo == "someone/no-cigarette" and {"README.md", "adapter_model.safetensors"} <= {*files}


def test_no_event_is_in_an_api(served):
    visitor, _ = served
    assert visitor().page.get_api_info()["named_endpoints"] == {}


def test_without_gradio_it_says_what_to_install(monkeypatch, semu, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    status, _, err = semu("app")
    assert status == 2 and "pip install 'semu-diffusion[app]'" in err


def test_an_adapter_to_begin_with_that_is_not_there(semu, tmp_path):
    status, _, err = semu("app", tmp_path / "nothing")
    assert status == 2 and "nothing" in err


def test_kinds_are_those_of_concepts():
    from semu_diffusion.app.erase import KINDS
    from semu_diffusion.diffusion import concepts

    assert set(KINDS) == set(concepts.KINDS) - {"prompts"}
