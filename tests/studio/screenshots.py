"""Take the pictures of docs/pictures, with the tests' own server and browser.

pytest tests/studio/screenshots.py
"""

from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
PROMPTS = (
    "a large elephant walking in the desert at sunset",
    "a small bus driving, moving left on a city street",
    "a snowman swaying in the snow",
    "a penguin waddling, coming closer on plain pink",
    "a big cow walking in a meadow",
    "a rocket rising under a starry night sky",
    "an owl on a purple background",
)
MAX_BYTES = 150_000
READY_MS = 180_000


def test_pictures(chromium: Browser, studio: str) -> None:
    """Make some videos, then take the studio in light, in dark, at work and on a phone."""
    context = chromium.new_context(viewport={"width": 1440, "height": 1240}, color_scheme="dark")
    context.set_default_timeout(READY_MS)
    expect.set_options(timeout=READY_MS)
    page = context.new_page()
    page.goto(studio)
    for seed, prompt in enumerate(PROMPTS):
        make(page, prompt, 7 + seed)
        expect(page.locator("#stage video")).to_have_attribute(
            "aria-label", prompt, timeout=READY_MS
        )
    page.reload()
    take(page, "studio-dark")
    page.emulate_media(color_scheme="light")
    take(page, "studio-light")
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#stage").evaluate("(stage) => stage.scrollIntoView()")
    take(page, "studio-phone")
    page.evaluate("() => window.scrollTo(0, 0)")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 1440, "height": 1240})
    for prompt in ("a fish swimming under water", "a bee in the woods", "a train in the mountains"):
        page.get_by_label("Frames", exact=True).fill("16")
        page.get_by_label("Steps", exact=True).fill("12")
        make(page, prompt, 3)
        expect(page.get_by_label("Prompt", exact=True)).to_have_value(prompt)
    page.locator("#queue .link").first.click()
    expect(page.locator(".steps li")).not_to_have_count(0, timeout=READY_MS)
    page.wait_for_function("() => document.querySelectorAll('.steps li').length >= 4")
    take(page, "studio-making", settle_ms=0)
    cancels = page.locator("#queue").get_by_role("button", name="Cancel: ")
    while cancels.count():
        cancels.last.click()
        page.wait_for_timeout(200)
    context.close()


def make(page: Page, prompt: str, seed: int) -> None:
    """Ask for a video."""
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_label("Prompt", exact=True).fill(prompt)
    with page.expect_response("**/v1/videos"):
        page.get_by_role("button", name="Make video").click()


def take(page: Page, name: str, settle_ms: int = 5000) -> None:
    """Write what the window shows, in 255 colours: a picture that loads fast."""
    page.wait_for_timeout(settle_ms)  # until notices are gone
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.png"
    picture.quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MAX_BYTES
