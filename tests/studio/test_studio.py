"""The studio page, used as people use it: by mouse, by keyboard, on a phone, in two tabs.

Every test ends with two checks: the page wrote no error to the console, and asked no other host.
"""

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, Route, expect

pytestmark = pytest.mark.slow
READY_MS = 180_000
"""A video of the built-in model takes a second, and many more on a machine that is busy."""
PAGE_MS = 30_000
"""The page itself answers within milliseconds, there as well later."""
LONG = "a video with a prompt that goes on and on " + "and on " * 20

Open = Callable[..., Page]


@pytest.fixture
def tab(chromium: Browser, studio: str) -> Iterator[Open]:
    """Return a function that opens the studio in a new tab of one fresh browser profile."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PAGE_MS)
    expect.set_options(timeout=PAGE_MS)
    wrong: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            wrong.append(message.text)

    def watch(request: Request) -> None:
        if not request.url.startswith((f"{studio}/", "data:", "blob:")):
            wrong.append(request.url)

    def open_tab(
        address: str = "/",
        width: int | None = None,
        script: str = "",
        moves: bool = False,
        replies: Mapping[str, Any] | None = None,
        refused: bool = False,
    ) -> Page:
        page = context.new_page()
        for path, reply in (replies or {}).items():
            page.route(path, reply if callable(reply) else answering(reply))
        # To draw what moves, a browser without a GPU takes as long as the model.
        page.emulate_media(reduced_motion="no-preference" if moves else "reduce")
        page.add_init_script(script)  # the page's policy forbids to add it later
        if not refused:  # Chromium writes every refusal to the console
            page.on("console", hear)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", watch)
        if width is not None:
            page.set_viewport_size({"width": width, "height": 780})
        page.goto(studio + address)
        expect(page.locator("#model option")).not_to_have_count(0)
        return page

    yield open_tab
    context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def made(studio: str) -> str:
    """Have a video made without the page; return its prompt."""
    body = json.dumps({"prompt": LONG.strip(), "seed": 1}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{studio}/v1/videos/sync", body, headers)
    with urllib.request.urlopen(request, timeout=READY_MS / 1000) as answer:
        assert answer.read(12)[4:8] == b"ftyp"
    return LONG.strip()


def make_by_api(studio: str, prompt: str) -> str:
    """Have a small video made without the page; return its id."""
    body = {"prompt": prompt, "seed": 1, "num_frames": 4, "num_inference_steps": 1}
    video: dict[str, Any] = call(studio, "POST", "/v1/videos", body)
    deadline = time.monotonic() + READY_MS / 1000
    while video["status"] != "completed":
        assert time.monotonic() < deadline, video
        time.sleep(0.1)
        video = call(studio, "GET", f"/v1/videos/{video['id']}")
    return str(video["id"])


def call(studio: str, method: str, path: str, body: Any = None) -> Any:
    """Ask the server without the page."""
    headers = {"Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(studio + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=PAGE_MS / 1000) as answer:
        return json.load(answer)


def answering(reply: Any) -> Callable[[Route], None]:
    """Return a handler that answers in the server's place."""

    def handle(route: Route) -> None:
        route.fulfill(json=reply)

    return handle


def make(page: Page, prompt: str, **settings: int) -> None:
    """Ask for a video by mouse."""
    for label, value in settings.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(str(value))
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Make video").click()


def make_slowly(page: Page, prompt: str) -> None:
    """Ask for a video that takes some seconds."""
    make(page, prompt, Width=128, Height=128, Frames=16, Steps=50)


def ready(page: Page, prompt: str) -> Locator:
    """Wait until a video is on the stage; return it."""
    video = page.locator("#stage video")
    expect(video).to_have_attribute("aria-label", prompt, timeout=READY_MS)
    page.wait_for_function("() => document.querySelector('#stage video').readyState >= 2")
    return video


def card(page: Page, prompt: str) -> Locator:
    """Return a video's place in the gallery."""
    return page.locator(".card").filter(has=page.get_by_role("button", name=f"Show: {prompt}"))


def assert_fits(page: Page) -> None:
    """Nothing is wider than the window."""
    wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window


def test_beginnings_are_those_of_the_picked_model(tab: Open, studio: str) -> None:
    """The first of the tests: nothing is made yet."""
    with urllib.request.urlopen(f"{studio}/v1/models") as answer:
        known = json.load(answer)
    (own,) = known["data"]
    others = [
        {**own, "id": name, "default": False, "prompts": prompts}
        for name, prompts in (("owls", ["a purple owl"]), ("silent", []))
    ]
    page = tab(replies={"**/v1/models": {**known, "data": [own, *others]}})
    beginnings = page.locator(".welcome li")
    expect(beginnings).to_have_text(own["prompts"][:4])
    page.get_by_label("Model", exact=True).select_option("owls")
    expect(beginnings).to_have_text(["a purple owl"])
    beginnings.get_by_role("button").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a purple owl")
    page.get_by_label("Model", exact=True).select_option("silent")
    expect(beginnings.first).to_have_text("a cat DJ at a party")


def test_a_prompt_becomes_a_video_that_plays(tab: Open) -> None:
    """From the button to moving pixels, with what it took and the command beside it."""
    page = tab(moves=True)
    make(page, "a red circle moving right", Seed=11)
    video = ready(page, "a red circle moving right")
    assert video.evaluate("(v) => [v.videoWidth, v.videoHeight, v.loop]") == [64, 64, True]
    before = video.evaluate("(v) => v.currentTime")
    page.wait_for_function(f"() => document.querySelector('#stage video').currentTime != {before}")
    expect(page.locator("#command")).to_contain_text("--seed 11")
    expect(page.locator("#stage .facts")).to_contain_text("64×64")


def test_the_estimate_follows_the_settings(tab: Open) -> None:
    """Time, memory and devices stand there before the button is pressed."""
    page = tab()
    time = page.locator(".figures dd").first
    expect(time).to_have_text(re.compile(r"≈ [\d.]+ (s|min)"))
    few = time.inner_text()
    page.get_by_label("Steps", exact=True).fill("50")
    expect(time).not_to_have_text(few)
    expect(page.locator(".estimate .legend")).to_contain_text(re.compile("U-Net.*(fp|int|bf)"))


def test_the_only_device_is_shown(tab: Open) -> None:
    """With one worker there is nothing to choose."""
    device = tab().get_by_label("Device", exact=True)
    expect(device).to_be_disabled()
    expect(device.locator("option:checked")).to_have_text("cpu")


def test_a_device_is_chosen(tab: Open, studio: str) -> None:
    """Of several workers one can be named, and the estimate is asked for it."""
    with urllib.request.urlopen(f"{studio}/v1/models") as answer:
        models = json.load(answer)
    models["data"][0]["devices"] = ["cpu", "dml"]
    page = tab(replies={"**/v1/models": models})
    device = page.get_by_label("Device", exact=True)
    expect(device.locator("option")).to_have_text(["First free", "cpu", "dml"])

    def is_for_it(request: Request) -> bool:
        # The first estimate may be on its way yet.
        is_promise = request.url.endswith("/v1/promise")
        return is_promise and json.loads(request.post_data or "{}")["device"] == "cpu"

    with page.expect_request(is_for_it):
        device.select_option("cpu")


def test_limits_are_the_models_own(tab: Open) -> None:
    """A number beyond them is refused by the form, before anything is sent."""
    page = tab()
    steps = page.get_by_label("Steps", exact=True)
    most = int(steps.get_attribute("max") or 0)
    assert most >= 4
    make(page, "a refused video", Steps=most + 1)
    assert steps.evaluate("(input) => input.validity.rangeOverflow")
    expect(page.locator("#queue")).to_be_hidden()


def test_every_step_is_previewed(tab: Open) -> None:
    """The stage shows steps as they are taken."""
    page = tab()
    make(page, "a blue star moving left", Steps=8)
    expect(page.locator("#stage .screen canvas")).to_be_visible(timeout=READY_MS)
    expect(page.locator(".steps li").first).to_be_visible()
    ready(page, "a blue star moving left")
    assert page.locator(".steps li").count() >= 2
    pixels = "(c) => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    assert page.locator(".steps canvas").first.evaluate(pixels) > 4


def test_cancel_keeps_the_entry(tab: Open) -> None:
    """A video that is being made is stopped within a step, and says so."""
    page = tab()
    make_slowly(page, "a cancelled circle")
    expect(page.locator("#queue")).to_contain_text("U-Net", timeout=READY_MS)
    page.get_by_role("button", name="Cancel: a cancelled circle").click()
    expect(page.locator("#queue")).to_be_hidden()
    expect(card(page, "a cancelled circle")).to_contain_text("cancelled")


def test_a_cancelled_video_is_resumed(tab: Open) -> None:
    """What was cancelled after a step is listed, and goes on to its end."""
    page = tab()
    make(page, "a resumed triangle", Steps=50)
    expect(page.locator(".steps li").first).to_be_visible(timeout=READY_MS)
    page.get_by_role("button", name="Cancel: a resumed triangle").click()
    page.get_by_role("button", name="Resume: a resumed triangle").click()
    ready(page, "a resumed triangle")
    expect(page.get_by_role("button", name="Resume: a resumed triangle")).to_have_count(0)


def test_the_queue_is_reordered(tab: Open) -> None:
    """The last in line becomes the next by its button, and cancelling empties the line."""
    page = tab()
    for name in ("first", "second", "third"):
        make_slowly(page, f"the {name} in line")
        expect(page.get_by_role("button", name=f"Cancel: the {name} in line")).to_be_visible()
    jobs = page.locator("#queue .link")
    expect(jobs).to_have_text([f"the {name} in line" for name in ("first", "second", "third")])
    page.get_by_role("button", name="Move up: the third in line").click()
    expect(jobs).to_have_text([f"the {name} in line" for name in ("first", "third", "second")])
    for name in ("second", "third", "first"):
        page.get_by_role("button", name=f"Cancel: the {name} in line").click()
    expect(page.locator("#queue")).to_be_hidden()


def test_a_click_outlasts_an_event(tab: Open) -> None:
    """A button that was pressed before the queue changed is still the one that is let go."""
    page = tab()
    names = ["made meanwhile", "cancelled slowly", "waiting below"]
    for name in names:
        make_slowly(page, name)
        expect(page.get_by_role("button", name=f"Cancel: {name}")).to_be_visible()
    state = page.locator("#queue .job").first.locator("small")
    expect(state).to_contain_text("U-Net", timeout=READY_MS)
    page.get_by_role("button", name="Cancel: cancelled slowly").hover()
    before = state.inner_text()
    page.mouse.down()
    expect(state).not_to_have_text(before)
    page.mouse.up()
    expect(page.get_by_role("button", name="Cancel: cancelled slowly")).to_have_count(0)
    for name in ("waiting below", "made meanwhile"):
        page.get_by_role("button", name=f"Cancel: {name}").click()
    expect(page.locator("#queue")).to_be_hidden()


def test_the_queue_keeps_the_focus(tab: Open) -> None:
    """A job that is moved by keys can be moved on, and cancelling goes on to the next."""
    page = tab()
    for name in ("focused first", "focused second", "focused third"):
        make_slowly(page, name)
        expect(page.get_by_role("button", name=f"Cancel: {name}")).to_be_visible()
    up = page.get_by_role("button", name="Move up: focused third")
    up.focus()
    page.keyboard.press("Enter")
    jobs = page.locator("#queue .link")
    expect(jobs).to_have_text(["focused first", "focused third", "focused second"])
    expect(up).to_be_focused()
    page.get_by_role("button", name="Cancel: focused third").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Cancel: focused second")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Cancel: focused first")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#queue")).to_be_hidden()


def test_the_stage_keeps_the_focus(tab: Open) -> None:
    """Buttons under the video are drawn anew as it is made and pinned; the focus stays."""
    page = tab()
    make(page, "a focused star", Steps=50)
    remix = page.locator("#stage").get_by_role("button", name="Remix")
    expect(page.locator("#stage-title")).to_have_text("a focused star")
    remix.focus()
    ready(page, "a focused star")
    expect(remix).to_be_focused()
    pin = page.locator("#stage").get_by_role("button", name="Pin")
    pin.focus()
    page.keyboard.press("Enter")
    expect(pin).to_have_text("Pinned")
    expect(pin).to_be_focused()


HELD = """
const [ask, sent] = [window.fetch, []];
window.fetch = async (path, ...settings) => {
  if (path === "/v1/videos") await new Promise((release) => sent.push(release));
  return ask(path, ...settings);
};
window.sent = sent;
"""


@pytest.mark.parametrize("place", ["Prompt", "Steps"])
@pytest.mark.parametrize("chord", ["Enter", "Control+Enter"])
def test_a_held_key_makes_one_video(tab: Open, chord: str, place: str) -> None:
    """Repeats of a held Enter are no requests, nor is what is pressed while one is sent."""
    page = tab(script=HELD)
    prompt = f"held {chord} in {place}"
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label(place, exact=True).focus()
    *held, key = chord.split("+")
    for each in (*held, key, key, key):  # the second and third are repeats
        page.keyboard.down(each)
    for each in (*held, key):
        page.keyboard.up(each)
    page.keyboard.press("Enter")
    assert page.evaluate("sent.length") == 1
    page.evaluate("sent[0]()")
    ready(page, prompt)


def test_remix_keeps_settings_and_seed(tab: Open) -> None:
    """Another prompt with the same noise; the settings cannot be changed meanwhile."""
    page = tab()
    make(page, "a green square moving up", Seed=23)
    ready(page, "a green square moving up")
    page.locator("#stage").get_by_role("button", name="Remix").click()
    expect(page.get_by_label("Steps", exact=True)).to_be_disabled()
    page.get_by_label("Prompt", exact=True).fill("a green star moving up")
    page.get_by_role("button", name="Make video").click()
    ready(page, "a green star moving up")
    expect(page.locator("#command")).to_contain_text("--seed 23")
    expect(page.get_by_label("Steps", exact=True)).to_be_enabled()


def test_delete_asks_first(tab: Open) -> None:
    """Keep keeps; Delete removes the card."""
    page = tab()
    make(page, "a video to delete")
    ready(page, "a video to delete")
    delete = page.locator("#stage").get_by_role("button", name="Delete")
    delete.click()
    page.get_by_role("button", name="Keep").click()
    expect(card(page, "a video to delete")).to_have_count(1)
    delete.click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(card(page, "a video to delete")).to_have_count(0)


def test_reload_in_the_middle_of_a_job(tab: Open) -> None:
    """The page comes back to the job where it is, and still ends with its video."""
    page = tab()
    make(page, "an orange cross, reloaded", Steps=50)
    expect(page.locator("#queue")).to_contain_text("U-Net", timeout=READY_MS)
    page.reload()
    expect(page.locator("#queue")).to_contain_text("an orange cross, reloaded")
    expect(page.locator("#stage-title")).to_have_text("an orange cross, reloaded")
    ready(page, "an orange cross, reloaded")


def test_two_tabs_show_the_same(tab: Open) -> None:
    """What one tab makes, pins and deletes, the other shows without being touched."""
    one, other = tab(), tab()
    make(one, "a video in two tabs")
    ready(one, "a video in two tabs")
    expect(card(other, "a video in two tabs")).to_have_count(1)
    one.locator("#stage").get_by_role("button", name="Pin").click()
    pin = other.get_by_role("button", name="Pin: a video in two tabs")
    expect(pin).to_have_attribute("aria-pressed", "true")
    one.locator("#stage").get_by_role("button", name="Delete").click()
    one.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(card(other, "a video in two tabs")).to_have_count(0)


def test_gallery_plays_on_hover_and_compares(tab: Open) -> None:
    """A card moves while it is pointed at; two are shown side by side with what differs."""
    page = tab()
    for seed in (1, 2):
        make(page, f"a compared triangle {seed}", Seed=seed)
        ready(page, f"a compared triangle {seed}")
    first = card(page, "a compared triangle 1")
    first.hover()
    expect(first.locator("video")).to_have_count(1)
    page.mouse.move(0, 0)
    expect(first.locator("video")).to_have_count(0)
    for seed in (1, 2):
        each = card(page, f"a compared triangle {seed}")
        each.hover()
        each.get_by_role("button", name=f"Compare: a compared triangle {seed}").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("video")).to_have_count(2)
    expect(dialog.locator("tr.differs").filter(has_text="Seed")).to_contain_text("2")


def test_downloads_are_what_they_say(tab: Open, made: str) -> None:
    """mp4, gif and webp arrive as files of that format."""
    page = tab()
    card(page, made).click()
    ready(page, made)
    marks = {"mp4": b"ftyp", "gif": b"GIF8", "webp": b"WEBP"}
    for format_, mark in marks.items():
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Download as {format_}").click()
        assert download.value.suggested_filename.endswith(f".{format_}")
        assert mark in download.value.path().read_bytes()[:16]


def test_without_a_mouse(tab: Open) -> None:
    """Make, walk the gallery, read the shortcuts and delete, by keys alone."""
    page = tab()
    press = page.keyboard.press
    press("n")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.type("a keyboard video")
    press("Enter")
    ready(page, "a keyboard video")
    press("Escape")
    press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Write a prompt")
    press("Escape")
    expect(page.locator("dialog")).to_have_count(0)  # it holds the focus until it is removed
    press("Space")
    assert not page.locator("#stage video").evaluate("(video) => video.paused")
    press("Delete")
    press("Tab")  # from Keep to Delete
    press("Enter")
    expect(card(page, "a keyboard video")).to_have_count(0)


def test_keys_act_on_the_card_that_has_the_focus(tab: Open, studio: str) -> None:
    """Pin, compare, remix and delete mean the focused card, not the video on the stage."""
    for name in ("the oldest square", "an older square", "a newer square"):
        make_by_api(studio, name)
    page = tab()
    press = page.keyboard.press
    ready(page, "a newer square")
    older = page.get_by_role("button", name="Show: an older square")
    older.focus()
    press("p")
    pin = page.get_by_role("button", name="Pin: an older square")
    expect(pin).to_have_attribute("aria-pressed", "true")
    press("c")
    compare = page.get_by_role("button", name="Compare: an older square")
    expect(compare).to_have_attribute("aria-pressed", "true")
    press("r")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("an older square")
    older.focus()
    press("Delete")
    expect(page.get_by_role("dialog")).to_contain_text("an older square")
    press("Tab")  # from Keep to Delete
    press("Enter")
    expect(card(page, "an older square")).to_have_count(0)
    expect(card(page, "a newer square")).to_have_count(1)
    expect(page.locator("#gallery :focus")).to_have_count(1)  # on what took its place
    page.get_by_role("button", name="Show: a newer square").click()
    press("j")
    expect(page.get_by_role("button", name="Show: the oldest square")).to_be_focused()
    expect(page.locator("#stage-title")).to_have_text("the oldest square")


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "before its event"])
def test_more_is_shown_after_the_last_was_deleted(tab: Open, studio: str, is_told: bool) -> None:
    """The list goes on where it ended, whether the page knows of the deletion yet or not."""
    names = [f"listed {place} {is_told}" for place in ("third", "second", "first")]
    keys = [make_by_api(studio, name) for name in names]

    def two(route: Route) -> None:
        route.continue_(url=route.request.url.replace("limit=60", "limit=2"))

    def silence(route: Route) -> None:
        body = "retry: 86400000\n\n"  # it asks once
        route.fulfill(content_type="text/event-stream", body=body)

    replies: dict[str, Any] = {"**/v1/videos?*": two}
    if not is_told:
        replies["**/v1/events"] = silence
    page = tab(replies=replies, refused=not is_told)
    expect(page.locator(".card")).to_have_count(2)
    expect(card(page, names[1])).to_have_count(1)
    call(studio, "DELETE", f"/v1/videos/{keys[1]}")
    if is_told:
        expect(card(page, names[1])).to_have_count(0)
    page.get_by_role("button", name="Show more").click()
    expect(card(page, names[0])).to_have_count(1)
    expect(card(page, names[1])).to_have_count(0)


def test_every_control_is_reached_by_tab(tab: Open, made: str) -> None:
    """Tab comes by all controls that can be seen, and each shows its focus."""
    page = tab()
    card(page, made).click()
    page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
    controls = "a[href], summary, [tabindex='0'], :is(button, input, select, textarea):enabled"
    seen = "checkVisibility({opacityProperty: false})"
    all_controls = f'[...document.querySelectorAll("{controls}")].filter((e) => e.{seen})'
    count = page.evaluate(f"{all_controls}.length")
    for _ in range(count + 3):
        page.keyboard.press("Tab")
        page.evaluate(
            "() => { const e = document.activeElement;"
            "if (getComputedStyle(e).outlineStyle !== 'none') e.dataset.reached = '1'; }"
        )
    missed = page.evaluate(
        f"{all_controls}.filter((e) => !e.dataset.reached).map((e) => e.outerHTML.slice(0, 90))"
    )
    assert missed == []


@pytest.mark.parametrize("width", [360, 1440, 3840])
def test_fits_every_width(tab: Open, made: str, width: int) -> None:
    """No view scrolls sideways, from a phone to 4K."""
    page = tab(width=width)
    card(page, made).click()
    ready(page, made)
    assert_fits(page)
    for view in ("Models", "Devices"):
        page.get_by_role("link", name=view, exact=True).click()
        expect(page.get_by_role("heading", level=1, name=view)).to_be_focused()
        assert_fits(page)


def test_a_phone_wastes_no_row(tab: Open, made: str) -> None:
    """The theme's button stands beside the name, the gallery's search beside its heading."""
    page = tab(width=360)
    expect(card(page, made)).to_be_visible()
    for one, other in ((".brand", "#tools"), ("#gallery-title", "#gallery header .plain")):
        bottom = page.locator(one).evaluate("(e) => e.getBoundingClientRect().bottom")
        assert page.locator(other).evaluate("(e) => e.getBoundingClientRect().top") < bottom
    assert_fits(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", ["studio", "models", "devices"])
def test_axe_finds_no_violation(tab: Open, made: str, view: str, theme: Any) -> None:
    """Roles, names, contrast, headings: what axe-core can tell."""
    axe = files(pytest.importorskip("axe_playwright_python")).joinpath("axe.min.js")
    page = tab(f"/#{view}", script=axe.read_text(encoding="utf-8"))
    page.emulate_media(color_scheme=theme)
    if view == "devices":
        expect(page.locator(".device").first).to_be_visible(timeout=READY_MS)
    if view == "studio":
        expect(card(page, made)).to_be_visible()
    found = page.evaluate(
        "async () => (await axe.run()).violations.map((v) => [v.id, v.nodes.map((n) => n.html)])"
    )
    assert found == []


def test_the_theme_is_remembered(tab: Open) -> None:
    """The toggle wins over the system, also after a reload."""
    page = tab()
    ground = "() => getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark


def test_a_prompt_is_never_markup(tab: Open) -> None:
    """A prompt with tags is shown as it was written."""
    page = tab()
    prompt = "<img src=x onerror=alert(1)> <b>bold</b>"
    make(page, prompt)
    ready(page, prompt)
    expect(page.locator("#stage-title")).to_have_text(prompt)
    assert page.locator("#stage-title *").count() == 0
