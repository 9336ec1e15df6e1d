"""How fast the page of ``pyrovae explore`` answers, in headless Chromium.

    python tests/benchmarks/bench_explorer.py RUN --out explorer.json

"first picture" is from the start of the navigation until the decoded picture is drawn, "slider"
from the input event of a slider until the picture that it asks for is drawn, both by the browser's
own clock; medians of rounds, with the fastest and the slowest. ``--shots FOLDER`` takes the
README's screenshots instead.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from selenium import webdriver

import pyrovae as pv
from pyrovae import explorer
from pyrovae.runs import environment

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync"
)
READY = "return document.body.dataset.ready && !Number(document.body.dataset.asking)"
SLIDER = """
const [value, done] = arguments, picture = document.getElementById("decoded");
const slider = document.querySelector("#sliders input"), start = performance.now();
new MutationObserver((_, seen) => { seen.disconnect(); done(performance.now() - start); })
  .observe(picture, { attributeFilter: ["data-version"] });
slider.value = value; slider.dispatchEvent(new Event("input"));
"""
FIRST = """
Object.defineProperty(window, "first", { value: null, writable: true });
document.addEventListener("DOMContentLoaded", () => new MutationObserver((_, seen) => {
  seen.disconnect(); window.first = performance.now();
}).observe(document.getElementById("decoded"), { attributeFilter: ["data-version"] }));
"""


def browser(profile: str, width: int = 1400, height: int = 1150) -> Any:
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}", f"--window-size={width},{height}"]:
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


def settled(driver: Any) -> None:
    for _ in range(2):
        while not driver.execute_script(READY):
            time.sleep(0.05)
        time.sleep(0.2)


def summary(times: list[float]) -> dict[str, float]:
    found = {"median": statistics.median(times), "fastest": min(times), "slowest": max(times)}
    return {name: round(value, 1) for name, value in found.items()}


def measure(driver: Any, url: str, loads: int, moves: int) -> dict[str, Any]:
    """Milliseconds."""
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": FIRST})
    first, slider = [], []
    for _ in range(loads):
        driver.get("about:blank")
        driver.get(url)
        settled(driver)
        first.append(driver.execute_script("return window.first"))
    for k in range(moves):
        slider.append(driver.execute_async_script(SLIDER, -3 + 6 * k / moves))
    return {"first_picture_ms": summary(first), "slider_ms": summary(slider)}


def shots(driver: Any, url: str, folder: Path) -> None:
    driver.get(f"{url}#datum=3&a=3&b=14&seed=1")
    settled(driver)
    own = "own = [...found.x[0]]; for (let k = 448; k < 784; k++) own[k] = null; drawOwn()"
    driver.execute_script(own)
    driver.save_screenshot(str(folder / "explore.png"))
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    phone = {"width": 390, "height": 1150, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    driver.get("about:blank")
    driver.get(f"{url}#datum=14")
    settled(driver)
    driver.save_screenshot(str(folder / "explore-phone.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="run folder of `pyrovae fit`")
    parser.add_argument("--loads", type=int, default=9)
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shots", type=Path)
    options = parser.parse_args()
    test = pv.data.load("mnist5k").test.binarised("static")
    view = explorer.View(pv.load(options.run), test, points=1000)
    with explorer.serve(view) as server, tempfile.TemporaryDirectory() as profile:
        driver = browser(profile)
        try:
            if options.shots:
                shots(driver, server.url, options.shots)
                return
            found = measure(driver, server.url, options.loads, options.moves)
        finally:
            driver.quit()
    found |= {"threads": torch.get_num_threads(), "environment": environment()}
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
