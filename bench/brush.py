"""Frame times of the brush on the page of `pixelwise serve`, at 4000 x 3000 pixels, in Chromium.

    python bench/brush.py

A stroke of 300 moves is drawn with brushes of 10, 100 and 400 pixels, fitted to the screen and at 100 %. Two
times are taken: between two calls of the page's frame callback, and what the page computes in one. A browser
without a screen makes 60 frames a second: 16.7 ms between two frames is the best there is.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 3000, 4000
MOVES = 300
# Counts frames, and how long the functions that are called in one run together.
COUNT = """() => {
  const ask = window.requestAnimationFrame.bind(window);
  window.frames_ = { between: [], own: [], last: 0 };
  let frame = 0, own = 0;
  window.requestAnimationFrame = (action) => ask((time) => {
    if (time !== frame) { if (frame) window.frames_.own.push(own); frame = time; own = 0; }
    const began = performance.now();
    action(time);
    own += performance.now() - began;
  });
  const tick = (time) => {
    if (window.frames_.last) window.frames_.between.push(time - window.frames_.last);
    window.frames_.last = time;
    ask(tick);
  };
  ask(tick);
}"""
CLEAR = "() => { window.frames_.between = []; window.frames_.own = []; window.frames_.last = 0; }"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser"))
    chromium = parser.parse_args().chromium
    if chromium is None:
        sys.exit("no browser: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "images").mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT // 20, WIDTH // 20, 3), np.uint8)
        photo = Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        photo.save(place / "images" / "photo.jpg")
        (place / "classes.csv").write_text("name\nbackground\nroad\ncar\n")
        words = ["serve", "--images", place / "images", "--classes", place / "classes.csv", "--port", "0"]
        server = subprocess.Popen(
            [sys.executable, "-m", "pixelwise", *map(str, words)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found is not None
            measure(chromium, found[0])
        finally:
            server.terminate()
            server.wait()


def measure(chromium: str, url: str) -> None:
    """Draw strokes in a browser and print what the frames took."""
    from playwright.sync_api import expect, sync_playwright

    while httpx.get(f"{url}/v1/health/ready").status_code != 200:
        time.sleep(0.2)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(url)
        page.click(".sample >> nth=0")
        expect(page.locator("#status")).to_contain_text("Nothing is labelled yet")
        page.evaluate(COUNT)
        print(f"Chromium {browser.version}, {WIDTH} x {HEIGHT} pixels, {MOVES} moves a stroke")
        print(
            "| view | brush | frames | ms between frames, median | p95 | longest | own ms a frame, median "
            "| p95 |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for view in ("fitted", "100 %"):
            page.keyboard.press("0")
            if view == "100 %":
                for _ in range(5):
                    page.keyboard.press("+")
            for brush in (10, 100, 400):
                told(page, view, brush)
        expect(page.locator("#changed")).to_have_text("Not saved yet.")
        browser.close()


def told(page: Any, view: str, brush: int) -> None:
    """One line of the table."""
    page.evaluate("size => { document.getElementById('brush-size').value = size; }", brush)
    page.keyboard.press("2" if brush == 100 else "3")
    area = page.locator("#stage").bounding_box()
    turns = np.linspace(0, 6 * np.pi, MOVES)
    x = area["x"] + area["width"] * (0.5 + 0.4 * np.cos(turns * 0.7))
    y = area["y"] + area["height"] * (0.5 + 0.4 * np.sin(turns))
    page.mouse.move(x[0], y[0])
    page.mouse.down()
    page.evaluate(CLEAR)
    for to_x, to_y in zip(x.tolist(), y.tolist(), strict=True):
        page.mouse.move(to_x, to_y)
    frames = page.evaluate("() => window.frames_")
    page.mouse.up()
    between, own = np.array(frames["between"]), np.array(frames["own"])
    numbers = [
        np.median(between),
        np.quantile(between, 0.95),
        between.max(),
        np.median(own),
        np.quantile(own, 0.95),
    ]
    print(f"| {view} | {brush} | {len(between)} | " + " | ".join(f"{x:.1f}" for x in numbers) + " |")


if __name__ == "__main__":
    main()
