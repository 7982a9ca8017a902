"""One cohort with a slide of each bad kind beside good ones, through the real command."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml

from milsurv.cohort.cases import SlideRef
from milsurv.cohort.table import read_cohort
from milsurv.config.cohort import TableCohort
from milsurv.config.loading import load_config
from milsurv.errors import CohortError
from milsurv.executors.devices import Device
from milsurv.features.extraction import Extraction
from milsurv.features.source import make_feature_file
from tests.command import bow_to_permissions, features_of, hidden_files, results_of, run_milsurv
from tests.conftest import COLOUR_BACKBONE, DATA, WriteConfig, small_config
from tests.contexts import on_cpu
from tests.slides.make_slides import cut_off_tile, damage_tile, glass, with_tissue, write_slide

STAGED_READER = DATA / "plugins" / "staged_reader.py"
PX = 1000
GOOD = [
    "with space",
    "Möller Σ 患者",
    "quote'\"s",
    "<b>bold",
    "<script>alert(1)",
    "comma, semicolon; $HOME %s {x}",
    "-rf",
    "007",
    "L" * 251,
]
"""Ids of whole slides. The longest leaves room for ``.svs`` in a file name of 255 bytes, and for nothing else."""


def _good(path: Path, seed: int = 0) -> Path:
    return write_slide(path, with_tissue(PX, PX, [(60, 40, 900, 900)], seed), mpp=0.5, downsamples=(1, 4))


def _truncated(path: Path) -> None:
    content = _good(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _half_copied(path: Path) -> None:
    """As long as the whole slide, its second half still empty."""
    size = _good(path).stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


def _late_tile_lacks(path: Path) -> None:
    cut_off_tile(_good(path), tile=10)


def _tile_does_not_decode(path: Path) -> None:
    damage_tile(_good(path), page=0, tile=9)


def _no_resolution(path: Path) -> None:
    write_slide(path, with_tissue(PX, PX, [(60, 40, 900, 900)]))


def _no_tissue(path: Path) -> None:
    write_slide(path, glass(PX, PX), mpp=0.5, downsamples=(1, 4))


def _two_files(path: Path) -> None:
    _good(path)
    (path.parent / "elsewhere").mkdir()
    _good(path.parent / "elsewhere" / path.name, seed=1)


def _no_permission(path: Path) -> None:
    _good(path, seed=103).chmod(0)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (Path.touch, "empty (0 bytes)"),
    "text": (lambda path: path.write_text("a letter"), "not in a slide format"),
    "truncated": (_truncated, "cannot be opened"),
    "half copied": (_half_copied, "damaged: cannot read"),
    "late tile lacks": (_late_tile_lacks, "damaged: cannot read"),
    "tile does not decode": (_tile_does_not_decode, "damaged: cannot read"),
    "cut while read": (lambda path: _good(path, seed=101), "damaged: cannot read"),
    "grown while read": (lambda path: _good(path, seed=102), "changed while it was read"),
    "no resolution": (_no_resolution, "unknown resolution"),
    "no tissue": (_no_tissue, "no tissue"),
    "two files": (_two_files, "2 files with this id"),
    "link to nothing": (lambda path: path.symlink_to(path.with_name("gone")), "No such file"),
    "a folder": (Path.mkdir, "no file for this slide"),
    "never scanned": (lambda _path: None, "no file for this slide"),
    "no permission": (_no_permission, "Permission denied"),
}
ESCAPING = ["../escape", "../../../tmp/escape", "/escape", ".."]


@dataclass(frozen=True)
class Worst:
    """The run of the worst cohort."""

    folder: Path
    workspace: Path
    output: str
    errors: str
    slides_before: dict[str, int]

    @property
    def run_folder(self) -> Path:
        (path,) = (self.workspace / "runs" / "worst").iterdir()
        return path


def _write_table(path: Path, slide_ids: list[str]) -> None:
    """Each slide a case of its own, but two that share a case with a good slide."""
    shared = {"empty": GOOD[0], "no tissue": GOOD[3]}
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["case_id", "slide_id", "time", "event"])
        for slide_id in slide_ids:
            case = shared.get(slide_id, slide_id)
            number = slide_ids.index(case)
            table.writerow([case.replace("/", "_")[:200], slide_id, 5 + number, int(number % 4 != 3)])


def _write_config(folder: Path, table: str, slides: Path) -> Path:
    config = small_config(folder / "workspace", folder)
    config |= {
        "name": "worst",
        "plugins": [str(COLOUR_BACKBONE), str(STAGED_READER)],
        "reader": {"name": "staged"},
        "cohort": {"table": str(folder / table), "slides": str(slides), "on_invalid": "drop"},
        "splits": {"folds": 2},
        "training": {"epochs": 1, "batch_cases": 4, "learning_rate": 0.01},
        "evaluation": {"bootstraps": 0},
        "executor": {"workers": 2},
    }
    path = folder / f"{table}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*")) if path.is_dir()}


@pytest.fixture(scope="module")
def worst(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worst]:
    folder = tmp_path_factory.mktemp("worst")
    slides = folder / "slides"
    slides.mkdir()
    for number, name in enumerate(GOOD):
        _good(slides / f"{name}.svs", seed=number)
    for name, (make, _) in BAD.items():
        make(slides / f"{name}.svs")
    _write_table(folder / "all.csv", [*GOOD, *BAD, *ESCAPING])
    before = _times(slides)
    slides.chmod(0o555)
    everything = _write_config(folder, "all.csv", slides)
    done = run_milsurv("run", everything, cwd=folder, preexec_fn=bow_to_permissions)
    assert done.returncode == 0, done.stderr
    yield Worst(folder, folder / "workspace", done.stdout, done.stderr, before)
    slides.chmod(0o755)


@pytest.fixture(scope="module")
def slides_csv(worst: Worst) -> pd.DataFrame:
    return pd.read_csv(worst.run_folder / "slides.csv", dtype=str, keep_default_na=False).set_index(
        "slide_id"
    )


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report_text(worst: Worst) -> str:
    parser = _Text()
    parser.feed((worst.run_folder / "report.html").read_text(encoding="utf-8"))
    return parser.text


def _permissions_bite(path: Path) -> bool:
    command = [sys.executable, "-c", "import sys; open(sys.argv[1], 'rb')", str(path)]
    done = subprocess.run(command, preexec_fn=bow_to_permissions, capture_output=True, check=False)
    return done.returncode != 0


@pytest.mark.parametrize("name", BAD)
def test_a_bad_slide_is_left_out_with_its_reason(
    name: str, worst: Worst, slides_csv: pd.DataFrame, report_text: str
) -> None:
    if name == "no permission" and not _permissions_bite(worst.folder / "slides" / f"{name}.svs"):
        pytest.skip("this process may read every file, whatever its permissions, and cannot give that up")
    assert slides_csv["status"][name] == "excluded"
    reason = str(slides_csv["reason"][name])
    assert BAD[name][1] in reason
    assert "slides are excluded, see the report:" in worst.errors
    assert name in report_text
    assert reason in report_text
    assert not list(worst.workspace.rglob(f"{name}.h5"))


@pytest.mark.parametrize("name", GOOD)
def test_a_good_slide_is_used_whatever_its_name(
    name: str, worst: Worst, slides_csv: pd.DataFrame, report_text: str
) -> None:
    assert slides_csv["status"][name] == "used"
    assert (worst.workspace / str(slides_csv["features"][name])).is_file()
    assert name in report_text
    predictions = pd.read_csv(worst.run_folder / "predictions.csv", dtype=str, keep_default_na=False)
    assert name[:200] in set(predictions["case_id"])


def test_the_good_slides_give_what_they_give_alone(worst: Worst, tmp_path: Path) -> None:
    _write_table(tmp_path / "good.csv", GOOD)
    done = run_milsurv("run", _write_config(tmp_path, "good.csv", worst.folder / "slides"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    features = features_of(worst.workspace)
    assert len(features) == len(GOOD)
    assert features == features_of(tmp_path / "workspace")
    results, alone = results_of(worst.workspace), results_of(tmp_path / "workspace")
    for values in (results, alone):  # cohort facts name what was excluded
        assert values.pop(next(name for name in values if name.endswith("metrics.json")))
    assert len(results) == 2 * 3 + 2
    assert results == alone


def test_every_case_is_accounted_for(worst: Worst, slides_csv: pd.DataFrame) -> None:
    assert len(slides_csv) == len(GOOD) + len(BAD)
    assert f"{len(GOOD)} cases" in worst.output
    assert f"{len(GOOD)} slides used, {len(BAD)} excluded" in worst.output
    assert "Traceback" not in worst.errors


def test_names_do_not_leave_their_folders(worst: Worst, report_text: str) -> None:
    assert not list(worst.folder.parent.rglob("*escape*"))
    assert not Path("/escape.h5").exists()
    assert not Path("/tmp/escape.h5").exists()
    made = {path.name for path in worst.folder.iterdir()}
    assert made == {"slides", "workspace", "all.csv", "all.csv.yaml"}
    for row, name in enumerate(ESCAPING, start=2 + len(GOOD) + len(BAD)):
        assert f"row {row} (case {name.replace('/', '_')}): excluded" in report_text


def test_the_folder_of_the_slides_is_not_written(worst: Worst) -> None:
    assert _times(worst.folder / "slides") == worst.slides_before


def test_nothing_hidden_stays_behind(worst: Worst) -> None:
    assert hidden_files(worst.folder) == []


def test_the_report_runs_no_markup_of_names(worst: Worst) -> None:
    page = (worst.run_folder / "report.html").read_text(encoding="utf-8")
    assert "<b>bold" not in page
    assert "<script>alert" not in page


def test_an_escaping_name_is_refused_by_default(worst: Worst) -> None:
    """In this process: the command is the same code."""
    table = TableCohort(table=worst.folder / "all.csv", slides=worst.folder / "slides")
    with pytest.raises(CohortError) as caught:
        read_cohort(table)
    assert len(caught.value.problems) == len(ESCAPING)
    for row, problem in enumerate(caught.value.problems, start=2 + len(GOOD) + len(BAD)):
        assert f"row {row} " in problem
        assert "path separator" in problem or "cannot be a file name" in problem


def test_a_retried_slide_is_whole(worst: Worst, tmp_path: Path) -> None:
    """Slides that were half there are copied again; extracting the whole ones elsewhere is the oracle."""
    retried = ["empty", "truncated", "late tile lacks"]
    config = _write_config(worst.folder, "all.csv", worst.folder / "slides")
    elsewhere = Extraction.of(
        *load_config(str(config), [f"workspace={tmp_path / 'workspace'}"]), Device("cpu")
    )
    for number, name in enumerate(retried, start=50):
        whole = _good(tmp_path / f"{name}.svs", seed=number)
        shutil.copyfile(whole, worst.folder / "slides" / whole.name)
        make_feature_file(on_cpu(), elsewhere, SlideRef(name, whole))
    before = features_of(worst.workspace)
    again = run_milsurv("run", config, cwd=worst.folder, preexec_fn=bow_to_permissions)
    assert again.returncode == 0, again.stderr
    assert features_of(worst.workspace) == before | features_of(tmp_path / "workspace")
    assert len(features_of(worst.workspace)) == len(GOOD) + len(retried)


def test_a_slide_that_is_lost_once_it_was_read_is_used(
    small_cohort: Path, write_config: WriteConfig, tmp_path: Path
) -> None:
    """Its features are whole; the report, which would show it, goes without."""
    shutil.copytree(small_cohort, tmp_path / "cohort")
    slides = tmp_path / "cohort" / "slides"
    config = write_config(
        cohort={"table": str(tmp_path / "cohort" / "follow_up.csv"), "slides": str(slides)},
        plugins=[str(COLOUR_BACKBONE), str(STAGED_READER)],
        reader={"name": "staged"},
        splits={"folds": 2},
        training={"epochs": 1, "batch_cases": 4},
        evaluation={"bootstraps": 0},
    )
    done = run_milsurv("run", config, cwd=tmp_path, environment={"STAGE_EMPTY": "P00-1"})
    assert done.returncode == 0, done.stderr
    assert (slides / "P00-1.svs").stat().st_size == 0
    assert "17 slides used, 0 excluded" in done.stdout
