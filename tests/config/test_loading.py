from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milsurv.config.cohort import SyntheticCohort, TableCohort
from milsurv.config.loading import find_config, load_config
from milsurv.errors import ConfigError, MilsurvError
from tests.conftest import COLOUR_BACKBONE, WriteConfig

SYNTHETIC = "cohort: {source: synthetic}\nbackbone: {name: efficientnet_lite0}\n"


def _write(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text)
    return str(path)


def _problems(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(_write(folder, text), overrides)
    return [problem.replace(str(folder) + "/", "") for problem in caught.value.problems]


def test_all_problems_are_reported_at_once_each_with_its_line(tmp_path: Path) -> None:
    problems = _problems(
        tmp_path,
        "cohort:\n"
        "  source: synthetic\n"
        "  seeed: 1\n"
        "backbone:\n"
        "  name: resnet5\n"
        "training:\n"
        "  epochs: many\n"
        "  schedule: fish\n"
        "aggregater: {name: crossfusion}\n"
        "aggregator: {name: crossfusion, embed_dims: 8}\n",
    )
    expected = {
        "config.yaml:3: cohort.seeed: unknown key (did you mean 'seed'?); allowed are: cases, patches, scenario, seed, "
        "source",
        "config.yaml:5: backbone.name: unknown backbone 'resnet5' (did you mean 'resnet50'?)",
        "config.yaml:7: training.epochs: input should be a valid integer",
        "config.yaml:8: training.schedule: input should be 'constant', 'cosine' or 'one_cycle', not 'fish'",
        "config.yaml:9: aggregater: unknown key (did you mean 'aggregator'?)",
        "config.yaml:10: aggregator.embed_dims: unknown key (did you mean 'embed_dim'?)",
    }
    assert len(problems) == len(expected)
    for start in expected:
        assert any(problem.startswith(start) for problem in problems), (start, problems)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    problems = _problems(tmp_path, SYNTHETIC + "training:\n  epochs: 3\n  epochs: 4\n")
    assert problems == ["config.yaml:5: duplicate key 'epochs', first given in line 4; remove one"]


def test_a_missing_key_is_named_with_its_section(tmp_path: Path) -> None:
    problems = _problems(tmp_path, "backbone: {name: resnet18}\ncohort:\n  table: a.csv\n")
    assert problems == ["config.yaml:2: cohort.slides: this key is missing"]


def test_an_unknown_source_says_what_is_allowed(tmp_path: Path) -> None:
    problems = _problems(tmp_path, "backbone: {name: resnet18}\ncohort:\n  source: cloud\n")
    assert problems == ["config.yaml:3: cohort.source: must be 'table' or 'synthetic'"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("training: [\n", "config.yaml:2: not valid YAML"),
        ("- 1\n- 2\n", "config.yaml:1: must be a mapping"),
        ("", "cohort: this key is missing"),
    ],
)
def test_what_is_no_configuration_gets_a_line(tmp_path: Path, text: str, problem: str) -> None:
    assert any(problem in line for line in _problems(tmp_path, text))


@settings(deadline=None)
@given(exponent=st.integers(-8, -1), digit=st.integers(1, 9))
def test_numbers_in_scientific_notation_are_numbers(
    tmp_path_factory: pytest.TempPathFactory, exponent: int, digit: int
) -> None:
    folder = tmp_path_factory.mktemp("config")
    path = _write(folder, SYNTHETIC + f"training: {{learning_rate: {digit}e{exponent}}}\n")
    config, _ = load_config(path)
    assert config.training.learning_rate == float(f"{digit}e{exponent}")


def test_overrides_reach_any_key_and_are_named_when_wrong(tmp_path: Path) -> None:
    path = _write(tmp_path, SYNTHETIC)
    config, _ = load_config(path, ["training.epochs=7", "seeds=[3, 4]", "training.learning_rate=1e-3"])
    assert (config.training.epochs, config.seeds, config.training.learning_rate) == (7, (3, 4), 1e-3)
    assert _problems(tmp_path, SYNTHETIC, "training.epochs=none") == [
        "--set training.epochs=none: training.epochs: input should be a valid integer, unable to parse string as an "
        "integer, not 'none'"
    ]
    assert _problems(tmp_path, SYNTHETIC, "epochs") == [
        "--set epochs: write key.subkey=value, such as training.epochs=5"
    ]


def test_another_plugin_takes_none_of_the_settings_of_the_one_it_replaces(tmp_path: Path) -> None:
    path = _write(tmp_path, SYNTHETIC + "aggregator: {name: crossfusion, embed_dim: 16}\n")
    config, _ = load_config(path, ["aggregator.magnification=5", "aggregator.name=abmil"])
    assert config.aggregator.name == "abmil"
    assert config.aggregator.settings["magnification"] == 5
    assert "embed_dim" not in config.aggregator.settings


def test_plugin_sections_are_completed_with_the_plugins_defaults(tmp_path: Path) -> None:
    config, _ = load_config(_write(tmp_path, SYNTHETIC))
    assert config.aggregator.settings["embed_dim"] == 512
    assert config.loss.settings == {"bins": 4, "alpha": 0.2}


def test_local_plugins_come_from_the_yaml_and_from_the_command(write_config: WriteConfig) -> None:
    _, registry = load_config(str(write_config()))
    assert registry.find("backbone", "colour").distribution == str(COLOUR_BACKBONE)
    without = str(write_config("without", plugins=None))
    _, registry = load_config(without, plugin_files=[COLOUR_BACKBONE])
    assert registry.find("backbone", "colour").distribution == str(COLOUR_BACKBONE)


TCGA = {f"crossfusion_{cohort}" for cohort in ("blca", "brca", "coad", "gbmlgg", "kirc", "luad", "ucec")}


def test_configurations_that_come_with_milsurv_are_valid_and_found_by_name() -> None:
    sources = {}
    for name in ("demo", "scenario", "synthetic", *TCGA):
        config, _ = load_config(name)
        assert config.name == name
        sources[name] = type(config.cohort)
    made = dict.fromkeys(("demo", "scenario", "synthetic"), SyntheticCohort)
    assert sources == made | dict.fromkeys(TCGA, TableCohort)


def test_every_configuration_is_tested() -> None:
    names = {path.stem for path in (Path(__file__).parents[2] / "configs").rglob("*.yaml")}
    assert names == {"demo", "scenario", "synthetic"} | TCGA


def test_an_unknown_configuration_lists_the_known_ones() -> None:
    with pytest.raises(
        MilsurvError, match=r"did you mean 'demo'.*crossfusion_kirc.*, demo, scenario, synthetic"
    ):
        find_config("demos")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seeds: 1\n", "config.yaml:3: seeds: must be a list, such as [1, 2], not 1"),
        ("training: 5\n", "config.yaml:3: training: must be a mapping, such as {name: …}, not 5"),
        ("plugins: mine.py\n", "config.yaml:3: plugins: must be a list of files, such as [./my_plugin.py]"),
    ],
)
def test_a_value_of_another_shape_is_told_in_words_of_yaml(tmp_path: Path, text: str, problem: str) -> None:
    assert _problems(tmp_path, SYNTHETIC + text) == [problem]


def test_an_empty_section_is_one_that_is_not_there(tmp_path: Path) -> None:
    config, _ = load_config(_write(tmp_path, SYNTHETIC + "training:\n  # epochs: 3\n"))
    assert config.training.epochs == 30


def test_a_file_whose_name_cannot_name_a_run_says_what_to_add(tmp_path: Path) -> None:
    path = tmp_path / "my köhort.yaml"
    path.write_text(SYNTHETIC)
    with pytest.raises(ConfigError, match="the file name is not a valid run name; add 'name:'"):
        load_config(str(path))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        load_config(str(path))


def test_a_plugin_file_that_the_user_names_must_load(tmp_path: Path) -> None:
    broken = tmp_path / "broken_file.py"
    broken.write_text("1 / 0")
    path = _write(tmp_path, SYNTHETIC)
    for file, reason in ((broken, "ZeroDivisionError"), (tmp_path / "missing.py", "FileNotFoundError")):
        with pytest.raises(ConfigError, match=rf"plugin file {file} is broken: {reason}"):
            load_config(path, plugin_files=[file])


def test_a_plugin_file_named_twice_is_loaded_once(write_config: WriteConfig) -> None:
    _, registry = load_config(str(write_config()), plugin_files=[COLOUR_BACKBONE])
    assert [info.status for info in registry.plugins if info.name == "colour"] == ["ok"]
    assert registry.manager.has_plugin(str(COLOUR_BACKBONE))


IMPORT = "cohort: {table: a.csv}\nfeatures: {import: there, layout: trident}\n"


def test_imported_features_need_neither_slides_nor_backbone(tmp_path: Path) -> None:
    config, _ = load_config(_write(tmp_path, IMPORT))
    assert config.features is not None
    assert config.features.folders == Path.cwd() / "there"
    assert config.backbone is None
    config, _ = load_config(
        _write(tmp_path, "cohort: {table: a.csv}\nfeatures: {import: {20: a, 10x: b}, layout: clam}\n")
    )
    assert config.features is not None
    assert config.features.folders == {20: Path.cwd() / "a", 10: Path.cwd() / "b"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (IMPORT + "backbone: {name: resnet18}\n", "3: backbone: features.import replaces the backbone"),
        (
            "cohort: {source: synthetic}\n",
            "config.yaml: backbone: this key is missing; give a backbone, or features.import",
        ),
        (
            IMPORT.replace("a.csv", "a.csv, slides: b"),
            "1: cohort.slides: slides are not read if features are",
        ),
        (
            IMPORT.replace("table: a.csv", "source: synthetic"),
            "1: cohort: features.import requires a cohort table",
        ),
        (IMPORT.replace("import: there, ", ""), "2: features.import: this key is missing"),
        (IMPORT.replace("there", "3"), "2: features.import: must be a folder, or one folder per"),
        (IMPORT.replace("there", "{big: a}"), "2: features.import: keys must be magnifications"),
        (IMPORT.replace("there", "{20: 3}"), "2: features.import: must have one folder per magnification"),
        (
            IMPORT.replace("trident", "tridnt"),
            "2: features.layout: unknown feature_layout 'tridnt' (did you mean",
        ),
        (IMPORT.replace("layout", "layuot"), "2: features.layuot: unknown key (did you mean 'layout'?)"),
        (IMPORT.replace("import:", "folders:"), "allowed are: encoder, import, layout"),
    ],
)
def test_what_is_wrong_with_an_import_gets_a_line(tmp_path: Path, text: str, problem: str) -> None:
    assert any(problem in line for line in _problems(tmp_path, text)), _problems(tmp_path, text)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
"""Each line stands for ten of the line before."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "has .* keys and values with its aliases expanded; at most 100,000 are allowed"),
        ("x: " + "[" * 20_000, "is nested too deeply"),
        ("x: &a {b: *a}", "an alias refers to a node that contains it"),
        ("? [a]\n: 1", "a key must be text or a number"),
        ("name: 2024-99-99", "a value that cannot be read"),
        (f"seeds: [{'9' * 5000}]", "a value that cannot be read"),
        ("aggregator: {name: abmil, 1: 2}", "keys should be strings"),
        ("splits: {folds: 1000000000}", "less than or equal to 1000"),
        ("splits: {repeats: 1000000000}", "less than or equal to 1000"),
        ("training: {epochs: 100000000000000000000}", "less than or equal to 1000000"),
        ("seeds: [100000000000000000000]", "less than 4294967296"),
    ],
)
def test_yaml_that_stands_for_too_much_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"cohort: {{source: synthetic}}\nbackbone: {{name: efficientnet_lite0}}\n{text}\n")
    with pytest.raises(ConfigError, match=said):
        load_config(str(path))


def test_a_scenario_has_patches_and_nothing_else_has(tmp_path: Path) -> None:
    config, _ = load_config(_write(tmp_path, SYNTHETIC), ["cohort.scenario=rare"])
    assert isinstance(config.cohort, SyntheticCohort)
    assert config.cohort.patches == 2000
    assert not config.has_pictures
    assert load_config(_write(tmp_path, SYNTHETIC))[0].has_pictures
    assert _problems(tmp_path, SYNTHETIC, "cohort.patches=300") == [
        "config.yaml:1: cohort: patches applies only to a scenario; remove it, or give a scenario"
    ]
    (problem,) = _problems(tmp_path, SYNTHETIC, "cohort.scenario=jiont")
    assert "rare" in problem
