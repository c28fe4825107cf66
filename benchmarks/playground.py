"""The playground, measured in a browser: how soon it is there, and how smooth its map is.

    python benchmarks/playground.py                         # a minute; needs Debian's package chromium

A tiny bundle whose map is answered with as many points as asked for. Chromium draws by SwiftShader, on
the CPU: a machine with a GPU is faster. Writes ``results/playground.json``.
"""

import argparse
import base64
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, sync_playwright
from report import must_show, write_report
from serve import llmemb

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from chromium import CHROMIUM, OPTIONS
from tiny_bundle import make_tiny_bundle

POINTS, CATEGORIES, VISITS = 100_000, 12, 5
PAINT_MS, FRAMES_PER_SECOND = 1000, 30
PAINTED = """() => new Promise((resolve) => new PerformanceObserver((seen) => {
  const paint = seen.getEntriesByName('first-contentful-paint')[0];
  if (paint) resolve(paint.startTime);
}).observe({type: 'paint', buffered: true}))"""

# Zooms in and out, a step a frame, and counts the frames of three seconds.
ZOOM = """async () => {
  const canvas = document.querySelector('canvas'), began = performance.now();
  let frames = 0;
  while (performance.now() - began < 3000) {
    const deltaY = 60 * Math.sin(frames / 15);
    canvas.dispatchEvent(new WheelEvent('wheel', {deltaY, clientX: 500, clientY: 400, cancelable: true}));
    await new Promise(requestAnimationFrame);
    frames += 1;
  }
  return 1000 * frames / (performance.now() - began);
}"""


def main() -> None:
    """Measure and write ``results/playground.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=POINTS)
    arguments = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("error: there is no chromium; install Debian's package of that name")
    with tempfile.TemporaryDirectory(prefix="llmemb-playground-") as name:
        bundle = make_tiny_bundle(Path(name) / "tiny")
        with llmemb(bundle, Path(name)) as running, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
            paints = [first_paint(browser, running.url) for _ in range(VISITS)]
            frames = [frames_per_second(browser, running.url, arguments.points) for _ in range(3)]
            version = browser.version
            browser.close()
    paint, rate = statistics.median(paints), statistics.median(frames)
    lines = [
        must_show("first paint, ms", round(paint), f"< {PAINT_MS}", paint < PAINT_MS),
        must_show(
            f"map of {arguments.points:,} points: frames a second while it is zoomed",
            round(rate, 1),
            f"> {FRAMES_PER_SECOND}",
            rate > FRAMES_PER_SECOND,
        ),
    ]
    what = f"the playground in Chromium {version}, without a GPU"
    found = {"first_paint_ms": paints, "frames_per_second": frames}
    print(write_report("playground", what, VISITS, lines, **found))


def first_paint(browser: Browser, url: str) -> float:
    """Return when the first content was painted, in milliseconds after it was asked for, nothing cached."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        page.locator(".recommended li").first.wait_for()
        return float(page.evaluate(PAINTED))


def frames_per_second(browser: Browser, url: str, points: int) -> float:
    """Return how many frames are drawn in a second while so many points are zoomed."""
    with browser.new_context(viewport={"width": 1400, "height": 900}) as context:
        page = context.new_page()
        body = json.dumps(clusters(points))
        page.route("**/bundle/map*", lambda route: route.fulfill(body=body))
        page.goto(f"{url}/#map")
        page.get_by_text(f"{points:,} items").wait_for()
        return float(page.evaluate(ZOOM))


def clusters(points: int) -> dict[str, Any]:
    """Return a map's answer: so many points in clusters."""
    rng = np.random.default_rng(0)
    of = rng.integers(CATEGORIES, size=points)
    middles = rng.uniform(-0.8, 0.8, (CATEGORIES, 2))
    places = np.clip(middles[of] + 0.1 * rng.standard_normal((points, 2)), -1, 1).astype("<f4")
    return {
        "bundle": "synthetic",
        "ids": [f"item-{i}" for i in range(points)],
        "places": base64.b64encode(places.tobytes()).decode(),
        "popularity": rng.zipf(1.7, points).clip(max=100_000).tolist(),
        "categories": {"values": [f"category {i}" for i in range(CATEGORIES)], "of": of.tolist()},
    }


if __name__ == "__main__":
    main()
