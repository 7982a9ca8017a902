from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from milsurv.cli import app
from milsurv.cohort.ids import IdError, extract_id, extract_slide_id
from milsurv.config.cohort import TableCohort
from milsurv.config.loading import bundled_configs, load_config
from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError

CONFIGS = Path(__file__).parents[2] / "configs"
TCGA = sorted(CONFIGS.glob("crossfusion_*.yaml"))
COHORTS = ["blca", "brca", "coad", "gbmlgg", "kirc", "luad", "ucec"]
UUID = "1F2812C1-9807-4D14-8071-3FE15236EB44"


def test_every_configuration_is_listed_with_its_purpose() -> None:
    printed = CliRunner().invoke(app, ["config", "ls"], env={"COLUMNS": "200"}).output.splitlines()
    assert [line.split()[0] for line in printed[1:]] == sorted(file.stem for file in CONFIGS.glob("*.yaml"))
    assert any(
        line.startswith("crossfusion_kirc ") and "CrossFusion on TCGA-KIRC" in line for line in printed
    )


def test_a_copy_is_the_same_file_and_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["configs", "cp", "demo"])
    assert done.exit_code == 0
    assert "milsurv check demo.yaml" in done.output
    copy = tmp_path / "demo.yaml"
    assert copy.read_bytes() == (CONFIGS / "demo.yaml").read_bytes()
    copy.write_text("mine")
    for output, reason in (("demo.yaml", "already exists"), ("none/demo.yaml", "no such folder")):
        with pytest.raises(MilsurvError, match=reason):
            CliRunner().invoke(app, ["configs", "cp", "demo", "-o", output], catch_exceptions=False)
    assert copy.read_text() == "mine"
    with pytest.raises(MilsurvError, match="did you mean 'demo'"):
        CliRunner().invoke(app, ["configs", "cp", "dem"], catch_exceptions=False)


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_configuration_is_valid_and_opens_with_its_purpose(file: Path) -> None:
    config, _ = load_config(str(file))
    assert config.name == file.stem
    assert file.read_text().startswith("# ")
    assert bundled_configs()[file.stem] == file


def _header(file: Path) -> str:
    """The comment with which a configuration opens, as one line without the marks."""
    lines = file.read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(" ".join(line.removeprefix("#") for line in lines[:end]).split())


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_configuration_says_what_it_needs_and_how_it_is_run(file: Path) -> None:
    header = _header(file)
    assert f"milsurv run {file.stem}" in header
    assert re.search(r"\bNeeds\b|\bTakes\b", header)
    assert re.search(r"\b(GB|hours?)\b", header)


@pytest.mark.parametrize("file", TCGA, ids=lambda file: file.stem)
def test_a_tcga_configuration_opens_with_all_that_it_promises(file: Path) -> None:
    config, _ = load_config(str(file))
    assert isinstance(config.cohort, TableCohort)
    header = _header(file)
    for part in ("CrossFusion on TCGA-", "Needs:", "Takes,", "disk features", "time features:", "Other than"):
        assert part in header
    for command in (f"config cp {file.stem}", f"check {file.stem}.yaml", f"run {file.stem}.yaml"):
        assert f"milsurv {command} " in header
    for path in (config.cohort.table, config.cohort.slides, config.splits.files):
        assert path is None or str(path.relative_to(Path.cwd())) in header
    for column in config.cohort.columns.model_dump(exclude_none=True).values():
        assert column in header
    assert max(map(len, file.read_text().splitlines())) <= 120


@pytest.mark.parametrize("file", TCGA, ids=lambda file: file.stem)
def test_the_disk_and_hours_of_a_tcga_configuration_follow_from_its_assumptions(file: Path) -> None:
    header = _header(file)
    disk = re.search(r"features (\d+) x 13,125 x \(2 x 2048 \+ 24\) bytes = (\d+) GB", header)
    time = re.search(r"(\S+) million patches, (\S+) core-hours to read and (\d+) for ResNet-50", header)
    training = re.search(r"(\d+) x 0.68 .* x 0.9 TFLOP .* x 100 epochs x 5 folds at most: (\S+) h ", header)
    assert disk
    assert time
    assert training
    slides = int(disk[1])
    patches = slides * 13_125
    assert int(disk[2]) == round(patches * (2 * 2048 + 24) / 1e9)
    assert float(time[1]) == round(patches / 1e6, 1)
    assert float(time[2]) == round(patches / 900 / 3600, 1)
    assert int(time[3]) == round(patches / 16 / 3600)
    assert int(training[1]) == slides
    assert float(training[2]) == round(slides * 0.68 * 0.9 * 500 / 20 / 3600, 1)


@pytest.mark.parametrize("cohort", COHORTS)
def test_a_tcga_configuration_follows_the_released_protocol_but_for_the_choice_of_the_epoch(
    cohort: str,
) -> None:
    config, _ = load_config(f"crossfusion_{cohort}")
    training = config.training.model_dump()
    assert (
        training
        | {
            "epochs": 100,
            "select_after": 5,
            "patience": 20,
            "batch_cases": 32,
            "rows": "slide",
            "sampling": "balanced",
            "optimizer": "adam",
            "learning_rate": 1e-4,
            "weight_decay": 4e-6,
            "schedule": "cosine",
            "cosine_period": 10,
            "selection": "inner_validation",
        }
        == training
    )
    assert config.seeds == (7,)
    assert (config.loss.name, config.loss.settings) == ("nll", {"bins": 4, "alpha": 0.2})
    assert config.aggregator.name == "crossfusion"
    sizes = {"embed_dim": 512, "num_heads": 4, "num_layers": 1, "dropout": 0.3, "attention_dropout": 0.2}
    assert config.aggregator.settings | sizes == config.aggregator.settings
    assert (config.tiling.magnifications, config.tiling.patch_px) == ((20, 10, 5), 256)
    assert config.extracting_backbone.name == "resnet50"


@pytest.mark.parametrize("selection", ["reported_fold", "both"])
@pytest.mark.parametrize("cohort", COHORTS)
def test_the_authors_choice_of_the_epoch_is_one_setting_away(cohort: str, selection: str) -> None:
    setting = f"training.selection={selection}"
    by = "training.select_by=c_index"
    config, _ = load_config(f"crossfusion_{cohort}", [setting, by])
    assert (config.training.selection, config.training.select_by) == (selection, "c_index")
    assert f"--set {setting} --set {by}" in _header(CONFIGS / f"crossfusion_{cohort}.yaml")


@pytest.mark.parametrize("cohort", COHORTS)
def test_folds_are_the_authors_where_there_are_any(cohort: str) -> None:
    splits = load_config(f"crossfusion_{cohort}")[0].splits
    assert splits.files == (None if cohort == "kirc" else Path.cwd() / "data" / cohort / "splits")
    assert splits.folds == 5


def _cohort(name: str) -> TableCohort:
    config: RunConfig = load_config(name)[0]
    assert isinstance(config.cohort, TableCohort)
    return config.cohort


def test_a_coad_slide_is_cut_to_its_patient_in_table_and_folds() -> None:
    cohort = _cohort("crossfusion_coad")
    slide = f"TCGA-AA-A01S-01Z-00-DX1.{UUID}"
    for text in (slide, f"{slide}.svs", "TCGA-AA-A01S"):
        assert extract_id(text, cohort.case_pattern, "case_pattern") == "TCGA-AA-A01S"
    assert extract_slide_id(f"{slide}.svs", cohort.slide_pattern) == slide


def test_a_kirc_case_has_its_diagnostic_slides_and_no_others() -> None:
    cohort = _cohort("crossfusion_kirc")
    slide = f"TCGA-B0-5088-01Z-00-DX1.{UUID}"
    for text in ("TCGA-B0-5088", f"{slide}.svs"):
        assert extract_id(text, cohort.case_pattern, "case_pattern") == "TCGA-B0-5088"
    assert extract_slide_id(f"{slide}.svs", cohort.slide_pattern) == slide
    for frozen in (f"TCGA-B0-5088-01A-01-TS1.{UUID}.svs", f"TCGA-B0-5088-01A-01-BS1.{UUID}.svs"):
        with pytest.raises(IdError):
            extract_id(frozen, cohort.case_pattern, "case_pattern")
