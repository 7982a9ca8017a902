from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from milsurv.config.run import RunConfig
from milsurv.evaluation.evaluate import evaluate
from milsurv.evaluation.strata import TrainingFollowUp
from milsurv.evaluation.times import evaluation_times
from milsurv.explain.importance import Importance
from milsurv.explain.view import MissingView, Patches, SlideView
from milsurv.report.gallery import FIGURES, draw
from milsurv.report.html import write_report
from milsurv.report.results import RunResults
from milsurv.storage.atomic import json_text
from milsurv.storage.checksums import write_checked
from tests.report.make_run import (
    make_config,
    make_external,
    make_follow_up,
    make_run,
    make_slide_table,
)
from tests.report.page import Page

MALICE = "<script>alert(1)</script>"
TABLE = {"table": "follow_up.csv", "slides": "slides"}


def made_up_view(caption: str = "highest risk in fold 0: case A", attention: bool = True) -> SlideView:
    """A slide of 2 × 1 mm with three 20x patches and one 5x patch."""
    values = {20: np.array([0.3, 0.6, 2.1]), 5: np.array([1.0])}
    return SlideView(
        slide_id="A-1",
        caption=caption,
        thumbnail=np.full((100, 200, 3), 200, np.uint8),
        downsample=20.0,
        mpp=0.5,
        patches={
            20: Patches(np.array([[0, 0], [512, 0], [512, 512]]), 512.0),
            5: Patches(np.array([[0, 0]]), 2048.0),
        },
        outlines=[np.array([[0, 0], [2000, 0], [2000, 1500]])],
        importance=Importance("attention", values if attention else {}),
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return make_config(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def synthetic(config: RunConfig) -> Path:
    """The folder of a synthetic run, with its report."""
    folder = config.workspace / "synthetic"
    make_run(folder, config, make_follow_up(60, 3))
    write_report(
        folder, config, [made_up_view(f"{risk} risk in fold 0: case A") for risk in ("highest", "lowest")]
    )
    return folder


@pytest.fixture(scope="module")
def page(synthetic: Path) -> Page:
    return Page(synthetic / "report.html")


@pytest.fixture(scope="module")
def metrics(synthetic: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((synthetic / "metrics.json").read_text())
    return metrics


def report_of(
    folder: Path, follow_up: pd.DataFrame, views: list[SlideView | MissingView] | None = None, **run: Any
) -> Page:
    """The page of a run made in ``folder``; ``run`` has ``config``, ``slides``, and keys of ``cohort.json``."""
    config = run.pop("config", None) or make_config(folder)
    make_run(folder / "run", config, follow_up, **run)
    return Page(write_report(folder / "run", config, views or []))


def test_the_page_stands_alone(page: Page) -> None:
    addresses = [
        attributes[name]
        for _, attributes in page.elements
        for name in ("src", "href", "xlink:href", "srcset", "action", "data")
        if name in attributes
    ]
    assert addresses
    assert [a for a in addresses if not a.startswith(("data:image/", "#"))] == []
    assert page.all("script") == []
    assert page.all("link") == []
    assert "@import" not in page.source
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"}


def test_ids_are_unique_and_every_reference_leads_somewhere(page: Page) -> None:
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    named = [
        a[key] for _, a in page.elements for key in ("href", "xlink:href", "aria-labelledby") if key in a
    ]
    targets = {name.removeprefix("#") for name in named} | set(re.findall(r"url\(#([^)]+)\)", page.source))
    assert targets
    assert targets <= set(ids)


def test_a_screen_reader_finds_its_way(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert page.titles == ["made-up: survival report"]
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))
    assert all(image["alt"] for image in page.all("img"))
    figures = [svg for svg in page.all("svg") if svg["role"] == "img" and svg["aria-label"]]
    assert len(figures) == len(page.all("svg")) == 5 + 3


def test_the_page_says_what_made_the_features(page: Page) -> None:
    assert "backbone efficientnet_lite0, computed in bfloat16, stored as float16" in page.text


def test_the_first_sentence_is_the_result(page: Page, metrics: dict[str, Any]) -> None:
    pooled = metrics["pooled"][0]
    c_index = pooled["metrics"]["harrell_c_index"]
    low, high = c_index["interval"]
    sentence = (
        f"Harrell's C {c_index['value']:.2f} ({low:.2f}–{high:.2f}), 60 cases, {pooled['events']} events, honest "
        "selection. 3 folds, 1 seed, epoch selected on inner validation cases; 95 % interval in parentheses."
    )
    after_title = page.text.split("made-up: survival report ")[1]
    assert after_title.startswith(sentence)


def test_a_synthetic_cohort_says_so_beside_its_bound(page: Page, metrics: dict[str, Any]) -> None:
    banner = page.text[: page.text.index("Excluded cases")]
    bound = metrics["true_risk"]["harrell_c_index"]["pooled"]["value"]
    assert "Synthetic cohort." in banner
    assert f"ranking by it gives Harrell's C {bound:.3f} (" in banner


def test_a_real_cohort_has_no_word_of_synthesis(tmp_path: Path) -> None:
    config = make_config(tmp_path, cohort=TABLE)
    page = report_of(tmp_path, make_follow_up(30, 2), config=config, time_unit="days", endpoint="PFI")
    assert "ynthetic" not in page.text
    assert "true risk" not in page.text
    assert "median survival in days" in page.text
    assert "endpoint PFI, time in days" in page.text


def test_every_metric_stands_on_the_page(page: Page, metrics: dict[str, Any]) -> None:
    cells = Counter(text for text, _ in page.table_cells)
    for account in (*metrics["pooled"], *metrics["folds"]):
        for name, metric in account["metrics"].items():
            if metric["value"] is not None:
                low, high = metric["interval"]
                dash = " to " if low < 0 else "–"
                assert cells[f"{metric['value']:.3f}{low:.3f}{dash}{high:.3f}"] >= 1, name
    for summary in metrics["summary"].values():
        if summary["note"] is None:
            assert cells[f"{summary['mean']:.3f} ± {summary['standard_deviation']:.3f}"] >= 1
    for t in metrics["times"]:
        assert f"Area under the ROC curve at {t:g} months" in page.text


def test_what_was_run_stands_on_the_page(page: Page, synthetic: Path) -> None:
    assert " ".join((synthetic / "config.yaml").read_text().split()) in page.text
    for fact in (
        "version 0.1.0 on Python 3.11.9",
        "openslide-bin4.0.0.6",
        "aggregatorcrossfusionmilsurv0.1.0",
    ):
        assert fact in page.text
    assert "learning rate 0.0001" in page.text


def test_what_cannot_be_computed_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    follow_up = make_follow_up(40, 4)
    follow_up.loc[follow_up["fold"] == 2, "event"] = 0
    page = report_of(tmp_path, follow_up)
    empty = [(text, attributes) for text, attributes in page.table_cells if text.startswith("–")]
    assert len(empty) >= 10
    assert all(attributes["title"] for _, attributes in empty)
    assert "no events" in [attributes["title"] for _, attributes in empty]
    notes = [note["id"] for note in page.all("li") if "id" in note]
    linked = [link["href"].removeprefix("#") for link in page.all("a") if "-note-" in link["href"]]
    assert linked
    assert set(linked) <= set(notes)
    assert "without 1 of 4 folds: 1 × no events" in page.text
    assert "nan" not in page.text.lower().split()


def test_a_cohort_without_events_still_has_a_report(tmp_path: Path) -> None:
    page = report_of(tmp_path, make_follow_up(20, 2).assign(event=0))
    assert "Harrell's C could not be computed (no events), 20 cases, 0 events" in page.text
    assert "Harrell's C of the true risk cannot be computed: no events." in page.text
    assert "No log-rank test: no events" in page.source
    assert "log-rank p = –" not in page.text


def test_an_optimistic_run_says_so_everywhere(tmp_path: Path) -> None:
    config = make_config(tmp_path, training={"epochs": 12, "selection": "reported_fold"})
    page = report_of(tmp_path, make_follow_up(60, 3), config=config)
    assert "optimistic selection. 3 folds, 1 seed, optimistic: epoch selected on the test cases" in page.text
    captions = re.findall(r"<caption[^>]*>(.*?)</caption>", page.source)
    numbers = [caption for caption in captions if "interval" in caption or "epoch" in caption]
    assert len(numbers) == 5
    assert all(caption.endswith("(optimistic)") for caption in numbers)
    figures = re.findall(r"<svg.*?</svg>", page.source, re.DOTALL)
    assert len(figures) == 5 + 3
    for name in FIGURES:
        assert "optimistic" in (tmp_path / "run" / "figures" / f"{name}.svg").read_text()
    assert all('aria-label="Optimistic. ' in figure for figure in figures)
    assert "Expect worse results on new cases" in page.text


def test_both_choices_stand_side_by_side(tmp_path: Path) -> None:
    config = make_config(tmp_path, training={"epochs": 12, "selection": "both"}, seeds=[1, 2])
    page = report_of(tmp_path, make_follow_up(60, 3), config=config)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    table = page.source.split('id="selection-caption"')[1].split("</table>")[0]
    assert [*re.findall(r'<th scope="col">(.*?)</th>', table)][1:] == [
        "Honest, seed 1",
        "Optimistic, seed 1",
        "Honest, seed 2",
        "Optimistic, seed 2",
    ]
    row = table.split("Harrell")[1].split("</tr>")[0]
    told = [float(value) for value in re.findall(r"<td[^>]*>([\d.]+)", row)]
    of = [account["pooled"][seed] for seed in (0, 1) for account in (metrics, metrics["optimistic"])]
    assert told == pytest.approx([one["metrics"]["harrell_c_index"]["value"] for one in of], abs=5e-4)
    assert "With the epochs selected on the test cases: Harrell's C" in page.text.split("Excluded cases")[0]
    assert "(optimistic)" not in page.source.split('id="pooled-caption"')[1].split("</caption>")[0]
    assert "test cases solid in orange" in page.text
    assert "the ring the epoch selected on the test cases" in page.text


def test_several_seeds_have_an_ensemble(tmp_path: Path) -> None:
    page = report_of(tmp_path, make_follow_up(60, 3), config=make_config(tmp_path, seeds=[1, 2]))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    value = metrics["ensemble"]["metrics"]["harrell_c_index"]["value"]
    table = page.source.split('id="pooled-caption"')[1].split("</table>")[0]
    assert '<th scope="col">Ensemble of the seeds</th>' in table
    assert f"{value:.3f}" in table.split("Harrell")[1].split("</tr>")[0]


def test_several_seeds_are_averaged_and_all_told(tmp_path: Path) -> None:
    config = make_config(tmp_path, seeds=(1, 2, 3))
    page = report_of(tmp_path, make_follow_up(40, 2), config=config)
    pooled = json.loads((tmp_path / "run" / "metrics.json").read_text())["pooled"]
    values = [seed["metrics"]["harrell_c_index"]["value"] for seed in pooled]
    each = ", ".join(f"{value:.2f}" for value in values)
    assert f"Harrell's C {np.mean(values):.2f}, mean of 3 seeds ({each}; seed 1 " in page.text
    assert "2 folds, 3 seeds" in page.text
    assert "By fold, seed 3" in page.text


def test_no_bootstrap_no_interval(tmp_path: Path) -> None:
    page = report_of(
        tmp_path, make_follow_up(30, 2), config=make_config(tmp_path, evaluation={"bootstraps": 0})
    )
    assert "(no interval: evaluation.bootstraps is 0), 30 cases" in page.text


def test_without_validation_cases_the_last_epoch_is_said_to_be_kept(tmp_path: Path) -> None:
    config = make_config(tmp_path, training={"epochs": 12, "selection": "last_epoch"})
    page = report_of(tmp_path, make_follow_up(30, 2), config=config)
    assert "last epoch. 2 folds, 1 seed, last epoch;" in page.text
    assert "it was not selected on any cases" in page.text
    assert "validation cases solid" not in page.text
    assert "nan" not in page.text.lower().split()


def test_what_was_left_out_is_listed_and_escaped(tmp_path: Path) -> None:
    follow_up = make_follow_up(30, 2)
    left_out = pd.DataFrame(
        {"slide_id": [MALICE], "case_id": ["B & C"], "status": "excluded", "reason": [f"no tissue: {MALICE}"]}
    )
    slides = pd.concat([make_slide_table(follow_up), left_out])
    views: list[SlideView | MissingView] = [
        made_up_view(caption=MALICE),
        MissingView(MALICE, "lowest risk", "cannot be opened: <b>"),
    ]
    lines = {name: [f"{name} {MALICE}"] for name in ("cases_excluded", "dropped", "missing", "warnings")}
    page = report_of(tmp_path, follow_up, views, slides=slides, slides_excluded=1, time_unit=MALICE, **lines)
    assert page.all("script") == []
    assert page.all("b") == []
    assert page.text.count(f"no tissue: {MALICE}") == 1
    for expected in (*(line for [line] in lines.values()), "B & C", "30 used, 1 excluded"):
        assert expected in page.text
    assert f"Slide {MALICE} (lowest risk) cannot be shown: cannot be opened: <b>" in page.text
    assert "1 slide was excluded" in page.text


def test_many_lines_are_counted_by_reason_and_folded(tmp_path: Path) -> None:
    follow_up = make_follow_up(30, 2)
    rows = [f"row {n} (case T{n}): excluded, OS.time is '#N/A'" for n in range(2000)]
    cases = [f"case T{n}: no usable slide" for n in range(2000)]
    left_out = pd.DataFrame(
        [(f"T{n}", f"T{n}", "excluded", "no file for this slide") for n in range(2000)],
        columns=["slide_id", "case_id", "status", "reason"],
    )
    slides = pd.concat([make_slide_table(follow_up), left_out])
    page = report_of(
        tmp_path, follow_up, slides=slides, slides_excluded=2000, dropped=rows, cases_excluded=cases
    )
    html = unescape((tmp_path / "run" / "report.html").read_text())
    folded = re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    for counted, line in (
        ("2,000 × OS.time is '#N/A', such as row 0 (case T0)", rows[1999]),
        ("2,000 × no usable slide, such as case T0", cases[1999]),
        ("2,000 × no file for this slide, such as slide T0", "no file for this slide"),
    ):
        assert counted in folded
        assert line in page.text
        assert line not in folded.replace(counted, "")
    assert len(folded) < len(html) / 2


def test_a_slide_is_shown_with_its_attention_and_scale(page: Page) -> None:
    assert "Slide A-1: highest risk in fold 0: case A" in [heading for _, heading in page.headings]
    images = [image for image in page.all("img") if image["src"].startswith("data:image/jpeg;base64,")]
    assert len(images) == 2 * 3
    assert (
        "Attention at 20x of slide A-1. 3 patches, 0.300 to 2.100 times the uniform weight"
        in images[1]["alt"]
    )
    assert images[0]["alt"] == (
        "Tissue and patches of slide A-1. Tissue outlined in black. Patches: 3 at 20x, 1 at 5x; the 20x patches are "
        "drawn in blue."
    )
    assert "Nearly uniform, so the map is not informative: 1 patch, 1.000 to 1.000 times" in images[2]["alt"]
    assert "the maximum is 0.38 mm from the left and 0.38 mm from the top" in images[1]["alt"]
    scales = [span["style"] for span in page.all("span") if span.get("class") == "scale"]
    assert scales == ["width:25.00%"] * 6
    assert "0.5 mm" in page.text


def test_an_aggregator_without_attention_is_said_to_have_none(tmp_path: Path) -> None:
    page = report_of(tmp_path, make_follow_up(30, 2), [made_up_view(attention=False)])
    assert "The aggregator has no attention." in page.text
    assert len(page.all("img")) == 1


def test_written_twice_it_is_the_same(synthetic: Path, config: RunConfig) -> None:
    written = [synthetic / "report.html", *sorted((synthetic / "figures").iterdir())]
    before = [path.read_bytes() for path in written]
    write_report(
        synthetic, config, [made_up_view(f"{risk} risk in fold 0: case A") for risk in ("highest", "lowest")]
    )
    assert [path.read_bytes() for path in written] == before


def test_figures_stand_as_files_too(synthetic: Path) -> None:
    figures = sorted((synthetic / "figures").iterdir())
    assert [path.name for path in figures] == sorted(f"{name}.svg" for name in FIGURES)
    for path in figures:
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "<dc:date>" not in path.read_text()


def test_calibration_and_comparison_of_the_groups_stand_in_tables(
    page: Page, metrics: dict[str, Any]
) -> None:
    (pooled,) = metrics["pooled"]
    text = " ".join(page.text.split())
    within = pooled["high_against_low"]["hazard_ratio"]
    assert "Hazard ratio within folds" in text
    assert f"{within['value']:.2f}" in text
    assert "D-calibration" in text
    for at in pooled["calibration"]["at"]:
        assert f"Calibration slope at {at['time']:g} months" in text
        assert (at["slope"]["value"] is None) or f"{at['slope']['value']:.3f}" in text
    for name in ("Integrated area under the ROC curve", "Integrated index of prediction accuracy"):
        assert f"{name} (higher is better" in text


def test_the_page_goes_from_the_result_to_the_configuration(page: Page) -> None:
    sections = [heading for level, heading in page.headings if level == 2]
    assert sections == [
        "Cohort",
        "Results",
        "Figures",
        "Methods",
        "Limitations",
        "Configuration and versions",
    ]
    targets = {attributes["href"] for attributes in page.all("a")}
    assert {"#main", "#cohort", "#results", "#figures", "#methods", "#limits"} <= targets
    drawn = [heading for level, heading in page.headings if level == 3]
    assert drawn[: len(FIGURES)] == [kind.title for kind in FIGURES.values()]


def test_key_numbers_are_open_and_long_tables_folded(page: Page) -> None:
    results = page.source.split('id="results"')[1].split("</section>")[0]
    before, *folded = re.split(r"<details>", results)
    assert 'id="key-numbers-caption"' in before
    assert 'id="risk-groups-caption"' in before
    summaries = [re.findall(r"<summary>(.*?)</summary>", part)[0] for part in folded]
    assert summaries == ["All metrics", "Each fold", "Calibration"]
    assert 'id="folds-seed-1-caption"' in folded[1]


def test_methods_and_works_stand_on_the_page(page: Page) -> None:
    methods = page.text.split("Generated from the settings")[1]
    assert "60 synthetic cases with 60 whole-slide images" in methods
    assert "Soraki R, Wang H" in methods
    assert "arXiv:2503.02064" in methods


def test_an_external_validation_tells_of_no_training(tmp_path: Path) -> None:
    config = make_config(tmp_path, cohort=TABLE, seeds=(0,))
    make_external(tmp_path / "run", config, make_follow_up(60, 1))
    page = Page(write_report(tmp_path / "run", config, [made_up_view("highest risk: case A")]))
    assert ", external validation. External validation of a trained model" in page.text
    before, after = page.text.split("Complete configuration")[0].split("References")
    told = before + after.split("Limitations", 1)[1]
    for absent in ("selection", "fold", "Training", "epoch", "Seed"):
        assert absent not in told, absent
    drawn = [heading for level, heading in page.headings if level == 3]
    assert drawn[:6] == [*(FIGURES[name].title for name in FIGURES if name != "training"), "Slides"]
    assert "It was applied without changes" in page.text


def test_a_folder_of_an_external_validation_without_slides_or_features_has_no_slide_section(
    tmp_path: Path,
) -> None:
    config = make_config(tmp_path, cohort=TABLE)
    make_external(tmp_path / "run", config, make_follow_up(30, 1))
    page = Page(write_report(tmp_path / "run", config, []))
    assert "Slides" not in [heading for _, heading in page.headings]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"event": 0}, "Performance over time cannot be drawn"),
        ({"risk": 0.5, "standardized_risk": 0.0, "high_risk": 0}, "Distribution of risk"),
        ({"risk": np.nan, "standardized_risk": np.nan}, "Harrell's C could not be computed"),
    ],
)
def test_predictions_without_anything_to_tell_still_have_a_page(
    change: dict[str, float], said: str, tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    predictions = make_run(tmp_path / "run", config, make_follow_up(24, 2)).assign(**change)
    write_checked(tmp_path / "run" / "predictions.csv", predictions.to_csv(index=False))
    training = {fold: TrainingFollowUp(np.array([5.0, 40.0]), np.array([1, 0])) for fold in (0, 1)}
    times = evaluation_times(predictions["time"], predictions["event"], config.evaluation)
    metrics = evaluate(predictions, training, times, config.evaluation)
    path = tmp_path / "run" / "metrics.json"
    write_checked(path, json_text({**json.loads(path.read_text()), **metrics}))
    page = Page(write_report(tmp_path / "run", config, []))
    assert said in page.text + " ".join(svg["aria-label"] for svg in page.all("svg")) + drawn_text(tmp_path)
    assert "nan" not in page.text.lower().split()


def drawn_text(folder: Path) -> str:
    """What figures say where they cannot be drawn."""
    results = RunResults.read(folder / "run")
    return " ".join(
        " ".join(text.get_text().split()) for name in FIGURES for text in draw(name, results).texts
    )


def test_versions_of_earlier_starts_are_told(tmp_path: Path) -> None:
    config, folder = make_config(tmp_path), tmp_path / "run"
    make_run(folder, config, make_follow_up(40, 2))
    environment = json.loads((folder / "environment.json").read_text())
    old = {**environment, "milsurv": "0.0.9", "packages": {**environment["packages"], "torch": "2.3.1"}}
    same_milsurv = {**environment, "platform": "another machine"}
    write_checked(folder / "environment.json", json.dumps({**environment, "earlier": [old, same_milsurv]}))
    plugins = json.loads((folder / "plugins.json").read_text())
    write_checked(folder / "plugins.json", json.dumps([{**row, "earlier": ["0.0.8"]} for row in plugins]))
    page = write_report(folder, config, []).read_text()
    for said in (
        "version 0.1.0 on Python 3.11.9 (earlier version 0.0.9 on Python 3.11.9)",
        "Linux (earlier another machine)",
        "milsurv 0.1.0 (earlier 0.0.9), Python 3.11.9 and PyTorch 2.4.0 (earlier 2.3.1)",
        "(earlier 0.0.8)",
    ):
        assert said in page
