from pathlib import Path

import numpy as np
import pytest

from milsurv.config.run import RunConfig
from milsurv.errors import MilsurvError
from milsurv.features.preview import inspect_slide, slides_to_inspect
from milsurv.plugin.registry import Registry, get_registry
from tests.conftest import COLOUR_BACKBONE
from tests.slides.make_slides import glass, stained, with_tissue, write_jpeg_slide, write_slide


@pytest.fixture(scope="module")
def registry() -> Registry:
    return get_registry((COLOUR_BACKBONE,))


def config(**sections: object) -> RunConfig:
    given = {"name": "a", "cohort": {"source": "synthetic"}, "backbone": {"name": "colour"}, **sections}
    return RunConfig.model_validate(given)


def test_what_a_run_would_make_of_a_slide(tmp_path: Path, registry: Registry) -> None:
    tissue = (512, 256, 1024, 768)
    path = write_jpeg_slide(
        tmp_path / "a.svs", with_tissue(2048, 1536, [tissue]), mpp=0.5, downsamples=(1, 4)
    )
    found = inspect_slide(path, None, config(), registry)
    assert found.reason is None
    assert (found.dimensions, found.levels) == ((2048, 1536), ((2048, 1536), (512, 384)))
    assert (found.mpp, found.mpp_source, found.read_by) == (0.5, "properties", "JPEG tiles at full scale")
    assert found.tissue_mm2 == pytest.approx(0.512 * 0.384, rel=0.1)
    assert found.patches == {20: 4 * 3, 10: 2 * 2, 5: 2 * 1}
    assert found.disk_bytes(dim=100, dtype="float16") == 18 * (200 + 8 * 2 + 4 * 2)
    assert found.read_seconds is not None
    assert found.read_seconds > 0


def test_why_a_slide_would_be_left_out(tmp_path: Path, registry: Registry) -> None:
    blank = write_slide(tmp_path / "blank.svs", glass(1024, 1024), mpp=0.5)
    unknown = write_slide(tmp_path / "unknown.tif", stained(600, 600))
    coarse = write_slide(tmp_path / "coarse.svs", stained(600, 600), mpp=2)
    for path, reason, resolution in (
        (blank, "no tissue", 0.5),
        (unknown, "unknown resolution", None),
        (coarse, "too coarse for 20x", 2.0),
        (tmp_path / "none.svs", "cannot be opened", None),
    ):
        found = inspect_slide(path, None, config(), registry)
        assert found.reason is not None
        assert reason in found.reason
        assert found.mpp == resolution
        assert found.patches == {}


def test_a_folders_slides_have_the_tables_resolution(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.svs", "deep/b.svs", "c.svs"):
        write_slide(folder / name, np.full((64, 64, 3), 200, np.uint8))
    table = tmp_path / "table.csv"
    table.write_text("case_id,slide_id,time,event,um\nx,a,1,1,0.25\ny,b,2,0,0.46\n")
    cohort = {"table": table, "slides": folder, "columns": {"mpp": "um"}}
    assert slides_to_inspect(folder, config(cohort=cohort)) == {
        folder / "a.svs": 0.25,
        folder / "c.svs": None,
        folder / "deep" / "b.svs": 0.46,
    }
    assert slides_to_inspect(folder / "a.svs", config()) == {folder / "a.svs": None}


def test_a_folder_without_slides_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(MilsurvError, match=r"no slide files; they end in \.svs"):
        slides_to_inspect(tmp_path, config())
