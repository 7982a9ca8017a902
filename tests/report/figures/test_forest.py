from __future__ import annotations

from milsurv.evaluation.metrics import HARRELL, definitions
from milsurv.report.figures.forest import forest


def test_a_forest_plot_marks_optimistic_runs() -> None:
    def found(value: float) -> dict[str, object]:
        return {"value": value, "interval": [value - 0.1, value + 0.1], "reason": None}

    runs = [
        {"name": name, "selection": selection, "harrell_c_index": found(0.6)}
        for name, selection in (("one", "both"), ("other", "reported_fold"))
    ]
    pairs = [
        {"metric": "harrell_c_index", "first": "one", "second": "other", "difference": found(0.0)},
    ]
    shown = definitions([HARRELL], ())
    above, below = forest({"runs": runs, "pairs": pairs, "definitions": shown}).axes  # type: ignore[typeddict-item]
    assert [label.get_text() for label in above.get_yticklabels()] == ["other (optimistic)", "one"]
    assert [label.get_text() for label in below.get_yticklabels()] == ["one - other (optimistic)"]
    assert above.get_xlabel() == "Harrell's C, 95 % interval"
    assert below.get_xlabel() == "Difference in Harrell's C, 95 % interval"
