from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from milsurv.evaluation.metrics import METRICS, OTHERS
from milsurv.plugin.registry import get_registry
from milsurv.report.citations import OF_PLUGIN, SOFTWARE, WORKS, Citations
from milsurv.report.methods import Methods, methods
from milsurv.report.results import RunResults
from tests.report.make_run import make_config, make_follow_up, make_run


def methods_of(folder: Path, **sections: Any) -> Methods:
    config = make_config(folder, **sections)
    make_run(folder / "run", config, make_follow_up(40, 2), imported="uni_v1")
    return methods(config, RunResults.read(folder / "run"))


def test_works_are_numbered_in_the_order_of_the_text_and_all_are_listed(tmp_path: Path) -> None:
    found = methods_of(tmp_path)
    text = " ".join(found.paragraphs)
    groups = [[int(n) for n in group.split(", ")] for group in re.findall(r"\[([\d, ]+)\]", text)]
    numbers = list(dict.fromkeys(n for group in groups for n in group))
    assert numbers == list(range(1, len(found.citations) + 1))
    assert len(set(found.citations)) == len(found.citations)
    assert "crossfusion (embed_dim 16, num_heads 2) [" in text
    number = int(text.split("crossfusion (embed_dim 16, num_heads 2) [")[1].split("]")[0])
    assert "Soraki" in found.citations[number - 1]


def test_the_prose_says_what_the_settings_say(tmp_path: Path) -> None:
    text = " ".join(
        methods_of(
            tmp_path,
            training={"epochs": 7, "optimizer": "adamw", "patience": 3, "selection": "last_epoch"},
            splits={"folds": 2, "stratify": "event_and_time"},
            seeds=(1, 2),
        ).paragraphs
    )
    for said in (
        "40 synthetic cases with 40 whole-slide images",
        "the endpoint was OS, in months",
        "patches of 128 × 128 pixels",
        "20x (0.5 µm per pixel), 10x (1 µm per pixel) and 5x (2 µm per pixel)",
        "encoded by efficientnet_lite0",
        "by AdamW",
        "early stopping after 3 epochs",
        "for at most 7 epochs with batches of 64 cases",
        "divided into 2 folds",
        "stratified by event and time",
        "with 2 random seeds",
        "The last epoch was used.",
        "100 bootstrap resamples",
        "milsurv 0.1.0, Python 3.11.9 and PyTorch 2.4.0",
    ):
        assert said in text, said
    assert "inner validation" not in text


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (
            "inner_validation",
            "the lowest loss on inner validation cases (15 % of the training cases of each fold)",
        ),
        ("reported_fold", "on the test cases was selected, so the results are optimistic"),
        ("both", "whose results are optimistic"),
    ],
)
def test_the_choice_of_the_epoch_is_told(selection: str, said: str, tmp_path: Path) -> None:
    assert said in " ".join(methods_of(tmp_path, training={"epochs": 12, "selection": selection}).paragraphs)


@pytest.mark.parametrize(
    ("training", "said", "not_said"),
    [
        ({}, "The constant that minimises the loss", "A linear model was fitted first"),
        ({"linear_path": True}, "A linear model was fitted first", "The constant that minimises the loss"),
        ({"output_offset": False}, "were averaged.", "The constant that minimises the loss"),
    ],
)
def test_what_is_fitted_before_training_is_told(
    training: dict[str, Any], said: str, not_said: str, tmp_path: Path
) -> None:
    text = " ".join(methods_of(tmp_path, training=training).paragraphs)
    assert said in text
    assert not_said not in text


def test_slides_of_a_scenario_are_arrangements(tmp_path: Path) -> None:
    text = " ".join(methods_of(tmp_path, cohort={"source": "synthetic", "scenario": "joint"}).paragraphs)
    assert "an arrangement of patches of drawn pictures (scenario joint), about 2000 at the highest" in text
    assert "reduced to principal components" in text
    assert "Tissue" not in text


def test_recalibration_is_told_with_its_slopes(tmp_path: Path) -> None:
    text = " ".join(methods_of(tmp_path).paragraphs)
    assert "its slope was fitted to the inner validation cases and shrunk by a heuristic factor [" in text
    assert "(slopes 0.25 to 0.75 per standard deviation of the risk)." in text
    crossed = " ".join(methods_of(tmp_path / "b", training={"selection": "last_epoch"}).paragraphs)
    assert "cross-fitted risks of the training cases, by models of three inner folds, and shrunk" in crossed
    without = " ".join(methods_of(tmp_path / "c", training={"recalibrate": False}).paragraphs)
    assert "recalibrated" not in without


def test_features_that_were_imported_have_no_slides_to_tell_of(tmp_path: Path) -> None:
    found = methods_of(
        tmp_path,
        cohort={"table": "follow_up.csv"},
        backbone=None,
        features={"import": "features", "layout": "trident"},
    )
    text = " ".join(found.paragraphs)
    assert "Patch features of the encoder uni_v1 at 20x" in text
    assert "Tissue" not in text
    assert not any("Otsu" in work or "OpenSlide" in work for work in found.citations)


def test_only_what_was_used_is_cited() -> None:
    cite = Citations()
    assert cite.of_plugin("aggregator", "my_own") == ""
    assert cite.of_plugin("aggregator", "abmil") == " [1]"
    assert cite("torch", "abmil") == " [1, 2]"
    assert [work.split()[0] for work in cite.works] == ["Ilse", "Paszke"]


def test_every_plugin_rests_on_known_works() -> None:
    cited = {key for names in OF_PLUGIN.values() for keys in names.values() for key in keys}
    cited |= {key for _, key in SOFTWARE.values()}
    cited |= {key for info in (*METRICS, *OTHERS) for key in info.citations}
    assert cited <= set(WORKS)
    built_in = {(i.kind, i.name) for i in get_registry().plugins if i.distribution == "milsurv"}
    assert {(kind, name) for kind, names in OF_PLUGIN.items() for name in names} <= built_in
