"""How fast the page of ``pyrovae explore`` answers, in headless Chromium.

    python tests/benchmarks/bench_explorer.py RUN --out explorer.json

"first picture" is from the start of the navigation until the decoded picture is drawn, "slider"
from the input event of a slider until the picture that it asks for is drawn, both by the browser's
own clock; medians of rounds, with the fastest and the slowest. ``--shots FOLDER`` takes the
README's screenshots instead.

    python tests/benchmarks/bench_explorer.py --exported --out explorer_exported.json

The same of exported pages, which run the networks themselves: the default of each kind of body, an
epoch old, with the size of the page in bytes. No run is needed.

    python tests/benchmarks/bench_explorer.py --requests 2000 --out explorer_requests.json

What so many requests leave behind in the process that answers them: memory, threads, descriptors,
before them (after a tenth as many, which warm it up) and after. No run and no browser are needed.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import re
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import torch
from selenium import webdriver

import pyrovae as pv
from pyrovae import explorer, guides, likelihoods, networks
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


def exported(loads: int, moves: int) -> dict[str, Any]:
    """Pages without a server, by their networks."""
    splits, found = pv.data.load("mnist5k"), {}
    bodies = {"MLP": networks.MLP, "GatedMLP": networks.GatedMLP, "ConvNet": networks.ConvNet}
    for name, body in bodies.items():
        torch.manual_seed(0)
        encoder, decoder = guides.MeanField(body()), likelihoods.Bernoulli(body())
        pair = pv.VAE((1, 28, 28), 20, likelihood=decoder, guide=encoder)
        pv.fit(pair, splits.train.binarised("static"), epochs=1, progress=False)
        view = explorer.View(pair, splits.test.binarised("static"), points=1000)
        with tempfile.TemporaryDirectory() as folder:
            path = explorer.export(view, Path(folder) / "page.html")
            driver = browser(folder + "/profile")
            try:
                times = measure(driver, path.as_uri(), loads, moves)
            finally:
                driver.quit()
            found[name] = {"bytes": path.stat().st_size, **times}
    return found


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


def held() -> dict[str, float]:
    """What this process, which asks and answers, holds."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return {
        "resident_mib": round(int(re.findall(r"VmRSS:\s*(\d+) kB", status)[0]) / 1024, 1),
        "threads": threading.active_count(),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }


def soak(count: int) -> dict[str, Any]:
    """Questions of each kind in turn, right and wrong, with the key and without."""
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    torch.manual_seed(0)
    with explorer.serve(explorer.View(pv.VAE((1, 8, 8), 3), x)) as server:
        stranger = httpx.Client(base_url=server.address, timeout=60)
        friend = httpx.Client(base_url=server.address, timeout=60)
        friend.get(server.url)
        asks = (
            lambda k: friend.get("/"),
            lambda k: friend.get("/api/about"),
            lambda k: friend.post("/api/decode", json={"z": [k % 9 / 3, 0.0, -1.0]}),
            lambda k: friend.get(f"/api/datum/{k % 200}"),
            lambda k: friend.post("/api/samples", json={"n": 24, "seed": k}),
            lambda k: friend.post("/api/path", json={"start": k % 200, "end": 3}),
            lambda k: friend.post(
                "/api/impute", json={"x": [None] * (k % 64) + [1] * (64 - k % 64)}
            ),
            lambda k: friend.post("/api/decode", json={"z": [0.0]}),
            lambda k: stranger.get("/api/about"),
            lambda k: httpx.get(server.url),
        )
        seen: dict[str, int] = {}
        states = []
        for part in (count // 10, count):
            for k, ask in zip(range(part), itertools.cycle(asks)):
                status = str(ask(k).status_code)
                seen[status] = seen.get(status, 0) + (part == count)
            states.append(held())
    return {"requests": count, "answers": seen, "before": states[0], "after": states[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", help="run folder of `pyrovae fit`")
    parser.add_argument("--exported", action="store_true", help="measure exported pages instead")
    parser.add_argument("--requests", type=int, help="ask so often instead")
    parser.add_argument("--loads", type=int, default=9)
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shots", type=Path)
    options = parser.parse_args()
    if options.exported:
        report(exported(options.loads, options.moves), options.out)
        return
    if options.requests:
        report(soak(options.requests), options.out)
        return
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
    report(found, options.out)


def report(found: dict[str, Any], out: Path | None) -> None:
    found |= {"threads": torch.get_num_threads(), "environment": environment()}
    print(json.dumps(found, indent=2))
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
