"""A person watches a training on the page, and comes from a report to an image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.product.conftest import Outcome
from tests.product.test_labelling import told, watched
from tests.product.test_serve import browser as browser, start, stop, wait_until_ready


@pytest.mark.slow
def test_a_training_is_watched_and_its_report_leads_to_the_images(
    browser: Any, place: Path, tmp_path: Path, pixelwise: Callable[..., Outcome]
) -> None:
    from playwright.sync_api import expect

    run, data = tmp_path / "run", place / "my_folder"
    options = ("--model", "unet", "--encoder", "tiny", "--steps", "2", "--out", run)
    assert pixelwise("train", data, *options).code == 0
    evaluated = pixelwise("evaluate", run, data, "--report", tmp_path / "e.html")
    assert evaluated.code == 0, evaluated.err
    scores = (run / "scores.json").rename(run / "later.json")  # as if it were under way
    report = (run / "report.html").rename(run / "later.html")
    process, url = start(run, "--data", data, "--report", tmp_path / "e.html")
    try:
        wait_until_ready(url)
        page, wrong = watched(browser, url, viewport={"width": 1200, "height": 800})
        page.click("#view-run")
        expect(page.locator("#run-pictures h2")).to_contain_text("Latest predictions")
        assert page.locator("#run-pictures img").count() == len(list((run / "pictures").glob("latest_*.png")))
        expect(page.locator("#reports a")).to_have_count(1)
        page.screenshot(path=str(tmp_path / "watching.png"), full_page=True)
        scores.rename(run / "scores.json")
        report.rename(run / "report.html")
        page.click("#view-run")
        expect(page.locator("#run-pictures h2").first).to_contain_text("Worst predictions")
        expect(page.locator("#reports a")).to_have_count(2)
        for number in range(2):
            page.goto(f"{url}/?view=run")
            page.click(f"#reports a >> nth={number}")
            name = page.locator("td[data-image] a").first.inner_text()
            page.screenshot(path=str(tmp_path / f"report_{number}.png"))
            page.click("td[data-image] a >> nth=0")
            told(page, "egun with")
            expect(page.locator("#walk-told")).to_contain_text(name)
        page.goto(f"{url}/?image=nothing.png")
        told(page, "nothing.png is not among the images")
        assert wrong == []
        page.goto((run / "report.html").as_uri())  # where there is no page, there is no link
        assert page.locator("td[data-image]").count() > 0
        assert page.locator("a").count() == 0
        page.close()
    finally:
        assert stop(process) == 0
