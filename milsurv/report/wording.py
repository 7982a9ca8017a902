"""How the report says things: numbers, names, and sentences made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from milsurv.report.results import RunResults

DASH = "–"
SELECTION = {
    "inner_validation": "epoch chosen on inner validation cases",
    "last_epoch": "last epoch kept, none chosen",
    "reported_fold": "optimistic: epoch chosen on the reported cases",
    "both": "epoch chosen on inner validation cases, and for comparison on the reported cases",
}
HONESTY = {
    "inner_validation": "honest selection",
    "last_epoch": "last epoch, no selection",
    "reported_fold": "optimistic selection",
    "both": "honest selection",
}
METRICS = {
    "harrell_c_index": "Harrell's C-index (higher is better, 0.5 is chance)",
    "uno_c_index": "Uno's C-index (higher is better, 0.5 is chance)",
    "integrated_area_under_roc": "Integrated area under the ROC curve (higher is better, 0.5 is chance)",
    "integrated_brier_score": "Integrated Brier score (lower is better)",
    "integrated_brier_score_kaplan_meier": "Integrated Brier score of Kaplan-Meier (the reference)",
    "integrated_index_of_prediction_accuracy": "Integrated index of prediction accuracy "
    "(higher is better, 0 is Kaplan-Meier)",
}
METRICS_AT = {
    "area_under_roc": "Area under the ROC curve at {time} (higher is better, 0.5 is chance)",
    "brier_score": "Brier score at {time} (lower is better)",
    "brier_score_kaplan_meier": "Brier score of Kaplan-Meier at {time} (the reference)",
    "index_of_prediction_accuracy": "Index of prediction accuracy at {time} (higher is better, 0 is Kaplan-Meier)",
}
D_CALIBRATION = "D-calibration, p-value (small: predicted survival is not calibrated)"
HAZARD_RATIO = "Hazard ratio within folds, high to low risk (1 is no difference)"
LOG_RANK = "Log-rank p within folds, high against low risk"
CALIBRATION_SLOPE = "Calibration slope at {time} (1 is calibrated, below 1 too extreme, above 1 too moderate)"
CLINICAL_MODELS = {
    "clinical": "Harrell's C-index of clinical variables (higher is better)",
    "image": "Harrell's C-index of the image risk (higher is better)",
    "both": "Harrell's C-index of both (higher is better)",
}
CLINICAL_DIFFERENCES = {
    "image_less_clinical": "Image risk less clinical variables (above 0: the image is better)",
    "both_less_clinical": "Both less clinical variables (above 0: the image adds)",
    "both_less_image": "Both less image risk (above 0: clinical variables add)",
}
CLINICAL_TESTS = {
    "likelihood_ratio_p_value": "Likelihood-ratio p of the image risk beside clinical variables",
    "hazard_ratio": "Hazard ratio of a standard deviation of image risk, beside clinical variables (1 is none)",
}


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return DASH if value is None else f"{value:.3f}"


def interval(ends: Sequence[float] | None) -> str:
    """``0.640–0.771``, or a dash."""
    return DASH if ends is None else f"{ends[0]:.3f}–{ends[1]:.3f}"


def with_interval(metric: Mapping[str, Any]) -> str:
    """``0.706 (0.640–0.771)``; the value alone without an interval, a dash without a value."""
    value = number(metric["value"])
    return f"{value} ({interval(metric['interval'])})" if metric["interval"] else value


def time(value: float) -> str:
    """A time to about three digits, never in powers of ten."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def p_value(p: float | None) -> str:
    """``p = 0.012``, ``p < 0.001``, or ``p = –`` when there is none."""
    if p is not None and p < 0.001:
        return "p < 0.001"
    return f"p = {number(p)}"


def bare_p_value(p: float) -> str:
    """``0.012`` or ``< 0.001``."""
    return p_value(p).removeprefix("p = ").removeprefix("p ")


def ratio(value: float) -> str:
    """``2.13``; three digits where two decimals would hide it or are too many."""
    return f"{value:.2f}" if 0.1 <= value < 100 else f"{value:.3g}"


def count(n: int, singular: str, plural: str | None = None) -> str:
    """``1 case``, ``2 cases``."""
    return f"{n} {singular if n == 1 else plural or singular + 's'}"


def metric_name(name: str, time_unit: str) -> str:
    """The name of a metric of ``metrics.json`` as a reader knows it."""
    match = re.fullmatch(r"(\w+)_at_(\S+)", name)
    if match and match[1] in METRICS_AT:
        return METRICS_AT[match[1]].format(time=f"{match[2]} {time_unit}")
    return METRICS.get(name, name.replace("_", " "))


def magnifications(values: Sequence[int]) -> str:
    """``20x, 10x, 5x``."""
    return ", ".join(f"{m}x" for m in values)


def headline(results: RunResults) -> str:
    """The result in one sentence: ``Harrell's C 0.71 (0.64–0.77), 373 cases, 169 events, honest selection.``"""
    pooled = results.metrics["pooled"]
    first = pooled[0]
    parts = [
        _c_index([seed["metrics"]["harrell_c_index"] for seed in pooled], first["seed"]),
        count(first["cases"], "case"),
        count(first["events"], "event"),
        "external validation" if results.external else HONESTY[results.cohort["selection"]],
    ]
    return ", ".join(parts) + "."


def under_headline(results: RunResults) -> str:
    """What the headline's numbers are of, in a sentence or two."""
    pooled = results.metrics["pooled"]
    if results.external:
        said = "A model that was made elsewhere, and that no case of this cohort changed"
    else:
        folds, seeds = count(len(results.folds), "fold"), count(len(pooled), "seed")
        said = f"{folds}, {seeds}, {SELECTION[results.cohort['selection']]}"
    said += "; in brackets the 95 % interval." if pooled[0]["metrics"]["harrell_c_index"]["interval"] else "."
    optimistic = results.metrics.get("optimistic")
    if optimistic is not None:
        metrics = [seed["metrics"]["harrell_c_index"] for seed in optimistic["pooled"]]
        said += f" Chosen on the reported cases, the epochs give the optimistic {_c_index(metrics, pooled[0]['seed'])}."
    return said


def _c_index(metrics: Sequence[Mapping[str, Any]], first_seed: int) -> str:
    first = metrics[0]
    values = [metric["value"] for metric in metrics if metric["value"] is not None]
    if first["value"] is None:
        return f"Harrell's C could not be computed ({first['reason']})"
    span = "–".join(f"{end:.2f}" for end in first["interval"]) if first["interval"] else first["reason"]
    if len(metrics) == 1:
        return f"Harrell's C {first['value']:.2f} ({span})"
    each = ", ".join("–" if metric["value"] is None else f"{metric['value']:.2f}" for metric in metrics)
    return (
        f"Harrell's C {sum(values) / len(values):.2f} on average of {len(metrics)} seeds "
        f"({each}; under seed {first_seed} {span})"
    )


def bound(results: RunResults) -> str | None:
    """What the known risk itself would reach on a synthetic cohort; None on a real one."""
    true_risk = results.metrics.get("true_risk")
    if true_risk is None:
        return None
    metric = true_risk["harrell_c_index"]["pooled"]
    if metric["value"] is None:
        return f"The true risk's own Harrell's C cannot be computed: {metric['reason']}."
    return (
        f"The true risk of each case is known: ranking by it gives Harrell's C {with_interval(metric)}, "
        "the bound that no model can be expected to pass."
    )


def limits(results: RunResults, views: int) -> list[str]:
    """What the numbers do not say."""
    within = ", drawn within folds" if len(results.folds) > 1 else ""
    lines = [
        f"Intervals are 95 % percentile bootstrap intervals over the reported cases{within}. They speak "
        "of these fitted models and these cases; how much another training would differ is not in them."
    ]
    lines += _external_limits() if results.external else _cross_validation_limits(results)
    if results.cohort["synthetic"]:
        lines.append(
            "The cohort is synthetic: its slides were drawn and its follow-up made. No patient is in it, and none of "
            "its numbers is evidence about patients."
        )
    lines.append(
        "High and low risk are told apart at the median risk of the training cases, which is no cut-off of clinical "
        "meaning. P-values are not corrected for the number of tests on this page."
    )
    if views:
        lines.append(
            "Attention says which patches the model weighed, not why, nor whether they matter to a patient."
        )
    left_out = len(results.left_out)
    if left_out:
        lines.append(
            f"{count(left_out, 'slide was', 'slides were')} left out; what they show is not in any number."
        )
    return lines


def _external_limits() -> list[str]:
    return [
        "The cases are of one cohort. How the model does where slides are stained and scanned in other ways is not "
        "known from it.",
        "Censoring is weighed by the follow-up that the evaluation was given; where it ends early, late times rest on "
        "few cases.",
    ]


def _cross_validation_limits(results: RunResults) -> list[str]:
    cohort = results.cohort
    lines = [
        "Standard deviations over folds and seeds show that variation in part. Folds share training cases, so they "
        "are no standard errors of the pooled numbers.",
        "Risks of different folds come from different models, so cases are compared within folds alone; pooled "
        "numbers add up what was compared within folds.",
        _selection_limit(cohort["selection"], cohort["select_by"]),
    ]
    if not cohort["synthetic"]:
        sites = (
            "though cases of one site were never on both sides of a split."
            if cohort["group_by"]
            else "and hospitals whose cases train may also be among those reported."
        )
        lines.append(
            f"All cases are from one cohort. Nothing here was tested on cases from elsewhere, {sites}"
        )
    return lines


def _selection_limit(selection: str, select_by: str) -> str:
    chooser = "C-index" if select_by == "c_index" else "loss"
    honest = (
        f"The epoch of each fold was chosen by the {chooser} on inner validation cases, which neither train nor "
        "are reported. The reported cases chose nothing."
    )
    return {
        "inner_validation": honest,
        "last_epoch": "The last epoch was kept: no cases chose it, and the reported cases had no part in it.",
        "reported_fold": (
            f"Optimistic: the epoch of each fold was chosen by the {chooser} on the very cases that are reported, as "
            "in studies without inner validation. On new cases worse numbers are to be expected."
        ),
        "both": (
            f"{honest} The numbers called optimistic are of a second epoch of the same trainings, chosen by the "
            f"{chooser} on the reported cases themselves; they are there to be compared with, not to be believed."
        ),
    }[selection]
