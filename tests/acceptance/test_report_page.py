"""The report as a browser shows it: axe-core finds nothing serious, nothing is wider than a phone, all is printed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from milsurv.report.html import write_report
from tests.report.make_run import make_config, make_external, make_follow_up, make_run
from tests.report.test_html import TABLE, made_up_view

pytestmark = pytest.mark.acceptance
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PRINTED = re.compile(r'<pre id="found">(.+?)</pre>', re.DOTALL)
CHECK = """
document.querySelectorAll("details").forEach(folded => folded.open = true);
axe.run().then(found => {
  const wide = [...document.querySelectorAll("main *")].filter(
    one => !one.closest(".wide, pre, svg") && one.getBoundingClientRect().right > window.innerWidth + 1);
  parent.postMessage(JSON.stringify({
    violations: found.violations.map(v => [v.impact, v.id, v.nodes[0].html]),
    passes: found.passes.length,
    width: window.innerWidth,
    wide: wide.map(one => one.outerHTML.slice(0, 200)),
  }), "*");
});
"""
FRAME = """<!DOCTYPE html>
<iframe src="{page}" style="border: 0; width: {width}px; height: 900px"></iframe><pre id="found"></pre>
<script>onmessage = told => document.getElementById("found").textContent = told.data;</script>
"""
"""A window is never as narrow as a phone; a frame is."""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's script, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    npm = shutil.which("npm")
    if CHROMIUM is None or npm is None:
        pytest.skip("needs chromium and npm")
    packed = subprocess.run(
        [npm, "pack", "axe-core"], cwd=folder, capture_output=True, text=True, check=False
    )
    if packed.returncode:
        pytest.skip(f"npm has no axe-core: {packed.stderr[-200:]}")
    [archive] = folder.glob("axe-core-*.tgz")
    with tarfile.open(archive) as files:
        script = files.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


@pytest.fixture(scope="module", params=["optimistic", "both", "no events", "external"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of section, seen with and without numbers."""
    folder = tmp_path_factory.mktemp("run")
    follow_up = make_follow_up(60, 2)
    config = make_config(folder, cohort=TABLE)
    if request.param == "external":
        make_external(folder / "run", config, follow_up)
    elif request.param == "no events":
        make_run(
            folder / "run", config, follow_up.assign(event=0), cases_excluded=["case X: no usable slide"]
        )
    else:
        chosen = {"both": "both", "optimistic": "reported_fold"}[request.param]
        config = make_config(folder, training={"epochs": 12, "selection": chosen}, seeds=(1, 2))
        make_run(folder / "run", config, follow_up)
    return write_report(folder / "run", config, [made_up_view()])


def checked(page: Path, script: str, width: int) -> dict[str, Any]:
    """What axe-core finds on a page in a frame of that width."""
    assert CHROMIUM is not None
    copy = page.with_name(f"checked_{width}.html")
    source = page.read_text(encoding="utf-8")
    copy.write_text(source.replace("</body>", f"<script>{script}</script><script>{CHECK}</script></body>"))
    frame = page.with_name(f"frame_{width}.html")
    frame.write_text(FRAME.format(page=copy.name, width=width))
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1600,1000",
            "--virtual-time-budget=60000",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    told = PRINTED.search(done.stdout)
    assert told is not None, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(told[1]))
    return found


@pytest.mark.parametrize("width", [400, 1400])
def test_axe_finds_nothing_and_nothing_is_cut_off(page: Path, axe: str, width: int) -> None:
    found = checked(page, axe, width)
    assert found["width"] == width
    assert found["passes"] > 20
    assert found["violations"] == []
    assert found["wide"] == []


def test_a_page_with_a_fault_is_found_out(page: Path, axe: str) -> None:
    faulty = page.with_name("faulty.html")
    source = page.read_text(encoding="utf-8")
    faulty.write_text(re.sub(r'(<img [^>]*?) alt="[^"]*"', r"\1", source))
    assert "image-alt" in [rule for _, rule, _ in checked(faulty, axe, 1400)["violations"]]
