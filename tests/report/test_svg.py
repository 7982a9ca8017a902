from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from matplotlib.figure import Figure

from milsurv.evaluation.risk_groups import risk_groups
from milsurv.report.figures.kaplan_meier import kaplan_meier
from milsurv.report.svg import svg_file, svg_inline
from tests.report.make_run import make_follow_up, predict


@pytest.fixture(scope="module")
def groups() -> Any:
    return risk_groups(predict(make_follow_up(50, 2), [1], []))


def test_a_figure_gives_the_same_svg_each_time(groups: dict[str, Any]) -> None:
    first, second = (svg_file(kaplan_meier(groups, "months", "OS"), "name") for _ in range(2))
    assert first == second
    assert ET.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"


def test_inline_figures_share_no_ids(groups: dict[str, Any]) -> None:
    def ids(figure: Figure, name: str) -> set[str]:
        root = ET.fromstring(svg_inline(figure, name, 'curves "A" & <B>'))
        assert root.get("aria-label") == 'curves "A" & <B>'
        assert root.get("viewBox")
        return {element.attrib["id"] for element in root.iter() if "id" in element.attrib}

    one, other = (ids(kaplan_meier(groups, "months", "OS"), name) for name in ("one", "other"))
    assert one
    assert not one & other
