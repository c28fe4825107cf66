"""The playground in a real browser: every page's work, by pointer and by keyboard, and what it never does."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, OPTIONS
from service_process import Serve, Service

from service.keys import add_key

sync_api = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

WEB = Path(__file__).parents[2] / "service/web"
AXE = WEB / "node_modules/axe-core/axe.min.js"
PAGES = ("recommend", "item", "map", "quality", "status")
SHAPES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1400, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1400, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}

expect.set_options(timeout=20_000)  # a busy machine is no bug
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")


@pytest.fixture(scope="module")
def service(serve: Serve) -> Service:
    return serve()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield running
        running.close()


@pytest.fixture(params=SHAPES)
def page(browser: Browser, service: Service, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page that must not complain, ask another host or be wider than its window."""
    context = browser.new_context(**SHAPES[request.param])
    page = context.new_page()
    url = str(service.client.base_url)
    faults: list[str] = []
    expected = "the server responded with a status of 422"  # Chromium says so of every 4xx
    page.on(
        "console",
        lambda said: (
            faults.append(said.text) if said.type == "error" and expected not in said.text else None
        ),
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda asked: asked.url.startswith((url, "data:")) or faults.append(asked.url)
    )
    page.goto(url)
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults == []
    context.close()


def turn_to(page: Page, name: str) -> None:
    link = page.get_by_role("navigation").get_by_role("link", name=name.capitalize())
    link.click()
    expect(link).to_have_attribute("aria-current", "page")  # pages have fields of the same name


def choose(page: Page, label: str, title: str) -> None:
    """Find an item by its title and choose it."""
    page.get_by_label(label).fill(title)
    page.locator(".search .row", has_text=title).first.click()


def type_item(page: Page, **attributes: str) -> None:
    names = page.locator(".attribute input[placeholder=attribute]")
    expect(names).not_to_have_count(0)  # the catalogue's own
    for name, value in attributes.items():
        if page.get_by_label(f"Value of {name}", exact=True).count() == 0:
            rows = names.count()
            page.get_by_role("button", name="Add an attribute").click()
            expect(names).to_have_count(rows + 1)
            names.last.fill(name)
        page.get_by_label(f"Value of {name}", exact=True).fill(value)


def test_a_sequence_is_built_and_answered_with_reasons(page: Page) -> None:
    expect(page.locator(".recommended li")).to_have_count(10)  # the popular ones
    choose(page, "Find an item", "Film number 7")
    choose(page, "Find an item", "Film number 9")
    expect(page.locator(".sequence li")).to_have_count(2)
    first = page.locator(".recommended li").first
    first.locator("summary").click()
    expect(first.locator(".why").first).to_contain_text("score")
    expect(first.locator("ul.why")).to_contain_text("from Film number")
    page.get_by_role("button", name="Remove Film number 7").click()
    expect(page.locator(".sequence li")).to_have_count(1)


def test_a_typed_item_has_a_rank_and_can_stand_in_the_sequence(page: Page) -> None:
    choose(page, "Find an item", "Film number 7")
    type_item(page, title="A film that came out today", year="2026")
    expect(page.get_by_text("it stands at rank")).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(2)
    panel = page.locator(".panel", has_text="An item that the catalogue lacks")
    panel.get_by_role("button", name="Add to the sequence").click()
    expect(page.locator(".sequence")).to_contain_text("A film that came out today")


def test_a_typed_item_is_put_recommended_as_new_and_deleted(page: Page) -> None:
    turn_to(page, "item")
    type_item(page, title="Brand new", genres='["Crime"]')
    expect(page.get_by_test_id("prompt")).to_contain_text("title is Brand new")
    expect(page.locator(".items li")).not_to_have_count(0)
    page.get_by_label("Id").fill("brand/new")
    page.get_by_role("button", name="Put into the catalogue").click()
    expect(page.get_by_role("status")).to_contain_text("it can be recommended now")
    turn_to(page, "recommend")
    choose(page, "Find an item", "Film number 7")
    page.get_by_text("Levers").click()
    page.get_by_label("how many").fill("50")
    shown = page.locator(".recommended li", has_text="Brand new")
    expect(shown.locator(".badge.new")).to_have_text("new")
    expect(shown.locator(".badge.cold")).to_have_text("cold")
    turn_to(page, "item")
    page.get_by_label("Id").fill("brand/new")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("status")).to_contain_text("not recommended any more")


def test_what_cannot_be_put_is_said_in_words(page: Page) -> None:
    turn_to(page, "item")
    page.get_by_label("Id").fill("x" * 5000)
    type_item(page, title="Too long an id")
    with page.expect_response(lambda answer: answer.status == 422):
        page.get_by_role("button", name="Put into the catalogue").click()
    expect(page.get_by_role("alert")).to_contain_text("id")


def test_the_map_shows_finds_and_places_items(page: Page) -> None:
    turn_to(page, "map")
    expect(page.get_by_text("40 items.")).to_be_visible()
    page.get_by_label("Colour by").select_option("genres")
    expect(page.locator(".legend li")).to_have_count(5)
    choose(page, "Find an item on the map", "Film number 7")
    expect(page.locator(".tooltip")).to_contain_text("Film number 7")
    turn_to(page, "item")
    type_item(page, title="Dropped")
    turn_to(page, "map")
    expect(page.get_by_text("40 items.")).to_be_visible()
    page.get_by_role("button", name="Drop the typed item here").click()
    expect(page.locator(".mark.dropped text")).to_have_text("Dropped")
    before = page.locator(".mark.dropped circle").get_attribute("cx")
    page.locator("canvas").press("ArrowLeft")
    expect(page.locator(".mark.dropped circle")).not_to_have_attribute("cx", before or "")


def test_the_status_is_live(page: Page) -> None:
    turn_to(page, "status")
    facts = page.locator(".facts")
    expect(facts).to_contain_text("durable")
    expect(facts).to_contain_text("40")
    expect(page.locator("figure canvas")).to_have_count(2)


@pytest.mark.skipif(not AXE.exists(), reason="needs what `npm ci` installs in service/web")
def test_nobody_is_shut_out(page: Page) -> None:
    """axe-core finds nothing serious on any page."""
    for name in PAGES:
        turn_to(page, name)
        page.wait_for_load_state("networkidle")
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run()")["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        nodes = [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious]
        assert nodes == [], name


def test_everything_is_reached_by_the_keyboard(page: Page) -> None:
    page.get_by_label("Find an item").focus()
    page.keyboard.type("Film number 17")
    expect(page.locator(".search .row")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".sequence li")).to_have_count(1)


def test_a_key_is_asked_for_where_the_service_has_keys(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    key = add_key(file, "someone", "read", None)
    service = serve(LLMEMB_KEYS_FILE=str(file))
    page = browser.new_page()
    page.goto(str(service.client.base_url))
    page.get_by_label("This service asks for an API key").first.fill(key)
    page.get_by_role("button", name="Use it").first.click()
    expect(page.locator(".recommended li")).to_have_count(10)
    page.close()


@pytest.mark.skipif(
    not (WEB / "node_modules").is_dir(), reason="needs what `npm ci` installs in service/web"
)
def test_what_is_served_is_made_of_the_sources(tmp_path: Path) -> None:
    subprocess.run(["npx", "tsc"], cwd=WEB, check=True)
    script = json.loads((WEB / "package.json").read_bytes())["scripts"]["build"]
    command = script.replace("--outdir=dist", f"--outdir={tmp_path}")
    path = f"{WEB / 'node_modules/.bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, cwd=WEB, check=True, shell=True, env={**os.environ, "PATH": path})
    for made in tmp_path.iterdir():
        assert (WEB / "dist" / made.name).read_bytes() == made.read_bytes(), "run `make clients`"


def test_the_page_is_there_at_once(browser: Browser, service: Service) -> None:
    page = browser.new_page()
    began = time.monotonic()
    page.goto(str(service.client.base_url))
    page.get_by_role("navigation").wait_for()
    took = time.monotonic() - began
    painted = page.evaluate(
        "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
    )
    assert painted < 1000, f"{painted} ms; {took} s in all"
    page.close()
