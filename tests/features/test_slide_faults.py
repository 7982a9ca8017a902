"""What one slide's reader, tissue or patches raise costs that slide, and nothing else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from milsurv.cohort.cases import SlideRef
from milsurv.config.loading import load_config
from milsurv.errors import CohortError
from milsurv.features.preview import inspect_slide
from milsurv.features.source import FeatureSource, SlideOutcome
from milsurv.progress import RunProgress
from milsurv.runs.checks import check_run
from tests.conftest import COLOUR_BACKBONE, DATA, WriteConfig
from tests.sessions import make_features, run
from tests.slides.make_slides import with_tissue, write_slide

FAILING = {
    "plugins": [str(COLOUR_BACKBONE), str(DATA / "plugins" / "failing.py")],
    "reader": {"name": "failing"},
    "tissue": {"name": "failing"},
}
EXPECTED = {
    "mask cv2": "cv2.error: OpenCV",
    "mask memory": "out of memory",
    "open struct": "struct.error: unpack requires",
    "open silent": "KeyError: no message",
    "read jpeg": "ValueError: ",
    "read disk": "OSError: [Errno 5] Input/output error",
    "close silent": "KeyError: no message",
    "huge": "invalid size: 500,000 × 500,000 mm at 0.5 µm/px",
    "mpp": "invalid resolution: 0.001 µm/px; allowed: 0.05 to 20",
}


def _extract(
    config: Path, slides: list[Path], log: Path | None = None
) -> tuple[dict[str, SlideOutcome], FeatureSource]:
    refs = [SlideRef(path.stem, path) for path in slides]
    progress = RunProgress(quiet=True)
    if log is not None:
        progress.log_to(log)
    return make_features(*load_config(str(config)), refs, progress)


def test_whatever_one_slide_raises_costs_that_slide(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    slides = [tmp_path / f"{name}.svs" for name in (*EXPECTED, "good")]
    for slide in slides:
        shutil.copy(small_cohort / "slides" / "P00-1.svs", slide)
    config = write_config(**FAILING)
    outcomes, settings = _extract(config, slides, tmp_path / "run.log")
    reasons = {name: outcome.reason or "" for name, outcome in outcomes.items()}
    assert not reasons.pop("good")
    assert settings.path("good").is_file()
    for name, said in EXPECTED.items():
        assert said in reasons[name], name
        assert len(reasons[name].splitlines()) == 1
    events = [json.loads(line) for line in (settings.folder / "events.jsonl").read_text().splitlines()]
    traced = {
        event["slide"]
        for event in events
        if "Traceback (most recent call last)" in event.get("traceback", "")
    }
    assert traced == {*EXPECTED} - {"mpp", "huge"}
    assert (tmp_path / "run.log").read_text().count("Traceback (most recent call last)") == len(traced)

    loaded, registry = load_config(str(config))
    for slide in slides:
        found = inspect_slide(slide, None, loaded, registry)
        assert EXPECTED.get(slide.stem, "") in (found.reason or ""), slide


def test_a_full_disk_ends_the_run(write_config: WriteConfig, small_cohort: Path, tmp_path: Path) -> None:
    shutil.copy(small_cohort / "slides" / "P00-1.svs", tmp_path / "mask full.svs")
    with pytest.raises(OSError, match="No space left"):
        _extract(write_config(**FAILING), [tmp_path / "mask full.svs"])


def test_a_fault_of_every_slide_ends_the_run_and_is_named(write_config: WriteConfig) -> None:
    config = write_config(**{**FAILING, "tissue": {"name": "failing", "always": True}})
    loaded, registry = load_config(str(config))
    with pytest.raises(
        CohortError, match=r"17 of 17 failed in the same unexpected way \(ValueError at failing\.py"
    ):
        run(loaded, registry)


def test_check_tells_of_slides_that_do_not_open(
    write_config: WriteConfig, small_cohort: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_cohort, tmp_path / "cohort")
    picture = np.asarray(with_tissue(600, 600, [(0, 0, 600, 600)]))
    slides = tmp_path / "cohort" / "slides"
    write_slide(slides / "P00-1.svs", picture, mpp=0.0000025)
    write_slide(slides / "P02-1.svs", picture, mpp=2.5, power=40)
    table = {"table": str(tmp_path / "cohort" / "follow_up.csv"), "slides": str(slides)}
    loaded, registry = load_config(
        str(write_config(cohort=table, tiling={"patch_px": 64, "magnifications": [4]}))
    )
    warnings = "\n".join(check_run(loaded, registry).warnings)
    assert "slide P00-1 will be excluded: invalid resolution: 2.5e-06 µm/px in its properties" in warnings
    assert "slide P02-1: its properties contain 2.5 µm/px, which is used, but its objective power" in warnings
