"""Check of the scenarios: what do linear models read from each magnification, and from the mean of a slide?

    python -m tests.synthetic.probe_scenarios WORKSPACE

Uses the banks of patches that runs of `configs/scenario.yaml` have made in a workspace: one of scenario `site`, and one
of any other. Two tables are printed. The first has Pearson's r between the effects of the
bank's blocks and out-of-fold ridge predictions from the mean of each block, pictures kept together; `both` is the
product of the two effects, which is what `joint` asks for. The second has, for cohorts of each scenario, Harrell's C of
out-of-fold ridge predictions of the score from the mean of each slide's patches, beside the bound; `read` is that of
the score worked out from the cells and architecture that ridge regressions read from single blocks (20x and 5x, trained
on the labels of other pictures): what the features allow.

Use seeds from 9000 up: smaller ones are for evaluating models.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from milsurv.config.loading import load_config
from milsurv.evaluation.pairs import c_index
from milsurv.features.arranged import Arranged
from milsurv.features.patch_bank import PatchBank, read_bank
from milsurv.progress import RunProgress
from milsurv.runs.inputs import feature_source
from milsurv.runs.session import open_session
from milsurv.synthetic.bank import COARSE, FINE
from milsurv.synthetic.scenarios import plan_scenario
from tests.synthetic.probe_synthetic import Floats, cross_validated_r, out_of_fold

SCENARIOS = ("rare", "joint", "spatial", "site")


def source_of(scenario: str, workspace: Path) -> Arranged:
    """The source of the features of a scenario, as in `configs/scenario.yaml`."""
    config, registry = load_config("scenario", [f"cohort.scenario={scenario}", f"workspace={workspace}"])
    with open_session(config, registry, RunProgress(quiet=True)) as session:
        source = feature_source(session)
    assert isinstance(source, Arranged)
    return source


def blocks_table(source: Arranged, seed: int) -> pd.DataFrame:
    """What single magnifications tell about a block's cells and architecture."""
    bank = read_bank(source.bank)
    rows = [(picture, block) for picture in source.pictures for block in bank.blocks_of[picture.slide_id]]
    extreme = [(picture, block) for picture, block in rows if picture.cells in (FINE, COARSE)]
    names = np.array([picture.slide_id for picture, _ in extreme])
    cells, architecture = (
        np.sign([getattr(p, name) for p, _ in extreme]) for name in ("cells", "architecture")
    )
    found = []
    for m, features in bank.features.items():
        means = features[[block for _, block in extreme]].astype(np.float64).mean(axis=1)
        effects = {"cells": cells, "architecture": architecture, "both": cells * architecture}
        found.append(
            {
                "from": f"{m}x",
                **{name: cross_validated_r(means, effect, names, seed) for name, effect in effects.items()},
            }
        )
    return pd.DataFrame(found).round(2)


def means_table(source: Arranged, scenario: str, cases: int, seed: int) -> dict[str, object]:
    """Harrell's C of linear models of a cohort's slide means."""
    bank = read_bank(source.bank)
    table, slides = plan_scenario(scenario, cases, seed, source.blocks)  # type: ignore[arg-type]
    means = _means(bank, [slide.blocks for slide in slides])
    means["all"] = np.concatenate(list(means.values()), axis=1)
    score, names = table["score"].to_numpy(), table["case_id"].to_numpy(dtype=str)
    row: dict[str, object] = {"scenario": scenario, "cases": cases}
    for name, features in means.items():
        risk = out_of_fold(features, score, names, seed)
        row[name] = round(c_index(table["time"], table["event"], risk), 3)
    if "site" in table:
        high = (table["site"] % 2).to_numpy(dtype=float)
        row["site alone"] = round(c_index(table["time"], table["event"], high), 3)
        risk = out_of_fold(means["all"], score, table["site"].to_numpy().astype(str), seed)
        row["all, new sites"] = round(c_index(table["time"], table["event"], risk), 3)
    read = _read_scores(source, scenario, [slide.blocks for slide in slides], seed)
    row["read"] = round(c_index(table["time"], table["event"], read), 3)
    row["bound"] = round(c_index(table["time"], table["event"], table["true_risk"]), 3)
    return row


def _read_scores(source: Arranged, scenario: str, slides: list[pd.DataFrame], seed: int) -> Floats:
    """The score of each slide, from what linear models read from its blocks, one by one."""
    bank = read_bank(source.bank)
    picture_of = {block: p for p in source.pictures for block in bank.blocks_of[p.slide_id].tolist()}
    pictures = [picture_of[block] for block in range(len(picture_of))]
    names = np.array([picture.slide_id for picture in pictures])
    cells, architecture = (
        out_of_fold(bank.features[m].astype(np.float64).mean(axis=1), effect, names, seed) + effect.mean()
        for m, effect in (
            (20, np.array([picture.cells for picture in pictures])),
            (5, np.array([picture.architecture for picture in pictures])),
        )
    )

    def shown(read: Floats, blocks: pd.DataFrame, kind: str) -> Floats:
        chosen = zip(blocks[f"{kind}_from"], blocks[f"{kind}_part"], strict=True)
        of_pictures = [bank.blocks_of[name][part % len(bank.blocks_of[name])] for name, part in chosen]
        return np.asarray(read[of_pictures])

    scores = []
    for blocks in slides:
        seen = shown(cells, blocks, "cells")
        if scenario == "joint":
            scores.append(((seen > 0) & (shown(architecture, blocks, "coarse") < 0)).mean())
        elif scenario == "spatial":
            at = dict(zip(map(tuple, blocks[["column", "row"]].to_numpy().tolist()), seen, strict=True))
            around = ((1, 0), (-1, 0), (0, 1), (0, -1))
            beside = [
                any(at.get((x + dx, y + dy), 0.0) < -1 for dx, dy in around)
                for (x, y), c in at.items()
                if c > 1
            ]
            scores.append(np.mean(beside) if beside else 0.0)
        else:
            scores.append(np.sort(seen)[-max(1, round(0.035 * len(seen))) :].mean())
    return np.array(scores)


def _means(bank: PatchBank, slides: list[pd.DataFrame]) -> dict[str, Floats]:
    gathered = [bank.gather(blocks) for blocks in slides]
    return {
        f"{m}x": np.stack([of_slide[m].features.mean(axis=0, dtype=np.float64) for of_slide in gathered])
        for m in bank.features
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--cases", nargs="+", type=int, default=[300, 1000])
    parser.add_argument("--seed", type=int, default=9001)
    arguments = parser.parse_args()
    sources = {name: source_of(name, arguments.workspace) for name in arguments.scenario}
    print("Pearson's r with the effects of blocks of the bank")
    for bank in dict.fromkeys(source.bank for source in sources.values()):
        of_bank = [name for name, source in sources.items() if source.bank == bank]
        print(
            f"\n{', '.join(of_bank)}\n{blocks_table(sources[of_bank[0]], arguments.seed).to_string(index=False)}"
        )
    print("\nHarrell's C of ridge regression on the mean of a slide's patches")
    rows = [
        means_table(source, name, cases, arguments.seed)
        for name, source in sources.items()
        for cases in arguments.cases
    ]
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
