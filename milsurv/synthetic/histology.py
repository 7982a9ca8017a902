"""Draws the picture of one synthetic slide: tissue that looks like H&E, with two hidden effects.

ARCHITECTURE is the spread of the directions of the elongated glands over the slide. Number, size and shape of the
glands do not depend on it, and the main direction is uniformly random. A 20x patch (128 µm) shows about one gland wall
and does not reveal the effect; a 5x patch (512 µm) shows several glands.

CELLS is the coarseness of the chromatin of the epithelial nuclei. Size, shape and number of the nuclei do not depend on
it. All nuclei have the same mean transmission, and the clumps are a few µm apart, so that the effect disappears when a
5x scan averages over 2 to 4 µm.

The picture is drawn as concentrations of hematoxylin and eosin, which are converted to colours by the Beer-Lambert
law. Lengths are in µm, except in names with px.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SIDE_PX = 2048
MPP = 0.5
SIDE = SIDE_PX * MPP

FIELD_PX = SIDE_PX // 4  # distances are computed on a coarse grid,
FIELD_MPP = SIDE / FIELD_PX
GROUND_PX = SIDE_PX // 2  # everything except nuclei and grain on a finer one
GROUND_MPP = SIDE / GROUND_PX

STEPS_PER_UNIT = 110  # stain concentrations are stored as bytes, in steps of 1/110
HEMATOXYLIN = (0.563, 0.720, 0.406)  # optical density (natural log) of R, G, B at concentration 1
EOSIN = (0.216, 0.801, 0.558)
WHITE = 243.0

GLAND_PITCH = 160.0
GLAND_LENGTH = 158.0
GLAND_WIDTH = 52.0
EPITHELIUM = 17.5
NUCLEAR_SPACING = 9.5

STAMP_PX = 36
STAMP_ANGLES = 16
STAMP_VARIANTS = 10
CLUMP_SIGMA = 0.85
NUCLEAR_HEMATOXYLIN = 1.15
NUCLEAR_ABSORPTION = 0.62  # of light between red and green, in which nuclei are equally bright


@dataclass(frozen=True)
class Glands:
    """Elongated glands in the shape of rounded rods: centres (n, 2) as x and y, angles, lengths and widths (n,)."""

    centres: Floats
    angles: Floats
    lengths: Floats
    widths: Floats


@dataclass(frozen=True)
class Stamps:
    """Predrawn nuclei: hematoxylin steps and outlines, both (angle, variant, STAMP_PX, STAMP_PX)."""

    hematoxylin: Bytes
    inside: NDArray[np.bool_]


def draw_slide(architecture: float, cells: float, rng: np.random.Generator) -> Bytes:
    """Draw a (2048, 2048, 3) uint8 RGB picture at 0.5 µm/px.

    `architecture` and `cells` are the two effects in standard deviations, 0 on average; high values mean
    disordered glands and coarse chromatin. All random numbers are drawn from `rng`.
    """
    glands = _place_glands(disorder(architecture), rng)
    depth = _gland_depth(glands, rng)
    tissue = _tissue_depth(rng)
    fibres = _smooth_noise(rng, cell=55.0) * 7.0
    hematoxylin, eosin = _draw_ground(depth, tissue, fibres, rng)
    groups = _stroma_nuclei(depth, tissue, fibres, rng)
    groups.append(
        (*_epithelial_nuclei(glands, depth, tissue, rng), _epithelial_stamps(coarseness(cells), rng))
    )
    for centres, angles, stamps in groups:
        _stamp_nuclei(hematoxylin, centres, angles, stamps, rng)
    _add_grain(eosin, rng)
    return _stain(hematoxylin, eosin, rng)


def disorder(architecture: float) -> float:
    """Share of the half circle, 0.05 to 1, over which the glands' directions are spread evenly."""
    return float(np.clip(0.5 + 0.25 * architecture, 0.05, 1.0))


def coarseness(cells: float) -> float:
    """Share of chromatin in coarse clumps, 0 to 1; the rest is finely grained."""
    return float(np.clip(0.5 + 0.22 * cells, 0.0, 1.0))


def _smooth_noise(rng: np.random.Generator, cell: float, pixels: int = FIELD_PX) -> Floats:
    """(pixels, pixels) over the slide: standard normal values every `cell` µm, smoothly interpolated."""
    knots = rng.standard_normal((int(SIDE / cell) + 3,) * 2, dtype=np.float32)
    return np.asarray(cv2.resize(knots, (pixels, pixels), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _enlarge(field: Floats, pixels: int) -> Floats:
    return np.asarray(cv2.resize(field, (pixels, pixels), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _place_glands(spread: float, rng: np.random.Generator) -> Glands:
    """Glands on a jittered, randomly rotated triangular lattice, with directions spread over a half circle."""
    steps = np.arange(-7, 8)
    column, row = (axis.ravel() for axis in np.meshgrid(steps, steps))
    lattice = GLAND_PITCH * np.stack([column + 0.5 * row, np.sqrt(0.75) * row], axis=1)
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centres = lattice @ rotation + SIDE / 2 + rng.uniform(-0.5, 0.5, 2) * GLAND_PITCH
    centres += rng.normal(0, 7.0, centres.shape)
    centres = centres[np.all((centres > -0.4 * GLAND_PITCH) & (centres < SIDE + 0.4 * GLAND_PITCH), axis=1)]
    count = len(centres)
    evenly = (rng.permutation(count) + rng.random(count)) / count - 0.5
    return Glands(
        centres=centres.astype(np.float32),
        angles=(rng.uniform(0, np.pi) + np.pi * spread * evenly).astype(np.float32),
        lengths=(GLAND_LENGTH * rng.uniform(0.88, 1.06, count)).astype(np.float32),
        widths=(GLAND_WIDTH * rng.uniform(0.88, 1.12, count)).astype(np.float32),
    )


def _gland_depth(glands: Glands, rng: np.random.Generator) -> Floats:
    """(FIELD_PX, FIELD_PX): depth of a point inside a gland in µm; negative outside, at least -60."""
    depth = np.full((FIELD_PX, FIELD_PX), -60.0, dtype=np.float32)
    reach = 0.6 * GLAND_LENGTH + 30.0
    for (x, y), angle, length, width in zip(
        glands.centres, glands.angles, glands.lengths, glands.widths, strict=True
    ):
        left, right, top, bottom = (
            int(np.clip(edge / FIELD_MPP, 0, FIELD_PX))
            for edge in (x - reach, x + reach, y - reach, y + reach)
        )
        dx = ((np.arange(left, right, dtype=np.float32) + 0.5) * FIELD_MPP - x)[None, :]
        dy = ((np.arange(top, bottom, dtype=np.float32) + 0.5) * FIELD_MPP - y)[:, None]
        along = np.abs(dx * np.cos(angle) + dy * np.sin(angle)) - (length - width) / 2
        across = dy * np.cos(angle) - dx * np.sin(angle)
        inside = width / 2 - np.hypot(np.maximum(along, 0), across)
        window = depth[top:bottom, left:right]
        np.maximum(window, inside, out=window)
    return depth + 2.5 * _smooth_noise(rng, cell=30.0)


def _tissue_depth(rng: np.random.Generator) -> Floats:
    """(FIELD_PX, FIELD_PX): depth of a point inside the tissue in µm; negative on glass."""
    offset = np.abs((np.arange(FIELD_PX, dtype=np.float32) + 0.5) * FIELD_MPP - SIDE / 2)
    rounded = (offset[None, :] ** 10 + offset[:, None] ** 10) ** 0.1
    margin = 26.0 + 11.0 * _smooth_noise(rng, cell=120.0) + 3.0 * _smooth_noise(rng, cell=25.0)
    return np.asarray(SIDE / 2 - rounded - margin, dtype=np.float32)


def _draw_ground(
    depth: Floats, tissue: Floats, fibres: Floats, rng: np.random.Generator
) -> tuple[Bytes, Bytes]:
    """Hematoxylin and eosin of everything except the nuclei, (SIDE_PX, SIDE_PX) steps each."""
    inside = _enlarge(depth, GROUND_PX)
    epithelium = np.clip(inside / 2.0 + 0.5, 0, 1)
    lumen = np.clip((inside - EPITHELIUM) / 2.0 + 0.5, 0, 1)
    covered = np.clip(_enlarge(tissue, GROUND_PX) / 3.0 + 0.5, 0, 1)
    wave = np.sin(_enlarge(fibres, GROUND_PX) * 2.0 + _smooth_noise(rng, 12.0, GROUND_PX))
    cleft = np.clip((wave - 0.90) * 9.0, 0, 0.8)
    density = 1.0 + 0.12 * _enlarge(_smooth_noise(rng, cell=90.0), GROUND_PX)
    stroma_eosin = (0.50 + 0.13 * wave) * density * (1 - cleft)
    secretion = 0.03 + 0.16 * np.clip(_enlarge(_smooth_noise(rng, cell=110.0), GROUND_PX) - 0.4, 0, 1)
    cytoplasm = 0.46 + 0.05 * _smooth_noise(rng, 8.0, GROUND_PX)
    eosin = stroma_eosin + epithelium * (cytoplasm - stroma_eosin)
    eosin += lumen * (secretion - eosin)
    hematoxylin = 0.08 + epithelium * 0.14
    hematoxylin *= 1 - lumen
    return _steps(hematoxylin * covered), _steps(eosin * covered)


def _steps(concentration: Floats) -> Bytes:
    """Concentration on the grid of the ground -> byte steps on the grid of the picture."""
    steps = cv2.convertScaleAbs(np.maximum(concentration, 0), alpha=STEPS_PER_UNIT)
    return np.asarray(cv2.resize(steps, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _at(field: Floats, points: Floats) -> Floats:
    """Values of a coarse field at points (n, 2) in µm; points outside the slide have the value at its border."""
    column, row = np.clip((points / FIELD_MPP).astype(np.int64), 0, FIELD_PX - 1).T
    return np.asarray(field[row, column])


def _slope(field: Floats, points: Floats) -> Floats:
    """Gradient of a coarse field at points, (n, 2), per µm."""
    step = np.array([[3.0, 0.0], [0.0, 3.0]], dtype=np.float32)
    rise = [(_at(field, points + d) - _at(field, points - d)) / 6.0 for d in step]
    return np.stack(rise, axis=1)


def _epithelial_nuclei(
    glands: Glands, depth: Floats, tissue: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Centres (n, 2) and angles (n,) of adjacent nuclei along the walls of the glands."""
    outlines = zip(glands.centres, glands.angles, glands.lengths, glands.widths, strict=True)
    centres = np.concatenate([_along_wall(*outline, rng) for outline in outlines])
    target = rng.normal(8.5, 1.5, len(centres)).astype(np.float32)
    centres = centres + (target - _at(depth, centres))[:, None] * _slope(depth, centres)
    slope = _slope(depth, centres)
    reached = _at(depth, centres)
    kept = (reached > 5.0) & (reached < 13.0) & (_at(tissue, centres) > 4.0)
    angles = np.arctan2(slope[:, 1], slope[:, 0]) + rng.normal(0, 0.25, len(centres)).astype(np.float32)
    return centres[kept], angles[kept]


def _along_wall(
    centre: Floats, angle: float, length: float, width: float, rng: np.random.Generator
) -> Floats:
    """Points (n, 2) about `NUCLEAR_SPACING` apart on the rounded rod 8 µm inside a gland's border."""
    radius = width / 2 - 8.0
    straight = length - width
    half = straight + np.pi * radius
    count = int(2 * half / NUCLEAR_SPACING)
    walked = (np.arange(count) + rng.uniform(-0.15, 0.15, count)) * (2 * half / count)
    side = np.where(walked < half, 1.0, -1.0)
    walked = np.mod(walked, half)
    turned = np.clip(walked - straight, 0, None) / radius
    along = side * (np.minimum(walked, straight) - straight / 2 + radius * np.sin(turned))
    across = side * radius * np.cos(turned)
    x = centre[0] + along * np.cos(angle) - across * np.sin(angle)
    y = centre[1] + along * np.sin(angle) + across * np.cos(angle)
    return np.stack([x, y], axis=1).astype(np.float32)


def _stroma_nuclei(
    depth: Floats, tissue: Floats, fibres: Floats, rng: np.random.Generator
) -> list[tuple[Floats, Floats, Stamps]]:
    """Fibroblasts along the fibres, and clusters of lymphocytes."""
    clusters = _smooth_noise(rng, cell=70.0)
    groups = []
    for spacing, length, width, level, threshold in (
        (17.0, 13.0, 4.0, 1.25, -9.0),
        (11.0, 6.2, 5.8, 1.6, 1.1),
    ):
        count = int(SIDE / spacing)
        lattice = np.stack(np.meshgrid(np.arange(count), np.arange(count)), axis=-1).reshape(-1, 2)
        centres = ((lattice + rng.random(lattice.shape)) * spacing).astype(np.float32)
        kept = (
            (_at(depth, centres) < -5.0) & (_at(tissue, centres) > 5.0) & (_at(clusters, centres) > threshold)
        )
        centres = centres[kept]
        slope = _slope(fibres, centres)
        angles = np.arctan2(slope[:, 1], slope[:, 0]) + np.float32(np.pi / 2)
        groups.append((centres, angles, _plain_stamps(length, width, level, rng)))
    return groups


def _outlines(length: float, width: float, rng: np.random.Generator) -> Floats:
    """Soft outlines, 1 inside and 0 outside, (STAMP_ANGLES, STAMP_VARIANTS, STAMP_PX, STAMP_PX)."""
    axis = (np.arange(STAMP_PX, dtype=np.float32) - (STAMP_PX - 1) / 2) * MPP
    angles = (np.arange(STAMP_ANGLES) * np.pi / STAMP_ANGLES).reshape(-1, 1, 1, 1)
    lengths, widths = (
        size * rng.uniform(0.88, 1.12, (1, STAMP_VARIANTS, 1, 1)) / 2 for size in (length, width)
    )
    along = axis * np.cos(angles) + axis[:, None] * np.sin(angles)
    across = axis[:, None] * np.cos(angles) - axis * np.sin(angles)
    radius = np.hypot(along / lengths, across / widths)
    return np.clip((1 - radius) * widths / MPP / 1.5 + 0.5, 0, 1).astype(np.float32)


def _plain_stamps(length: float, width: float, level: float, rng: np.random.Generator) -> Stamps:
    outlines = _outlines(length, width, rng)
    grain = rng.standard_normal(outlines.shape, dtype=np.float32)
    hematoxylin = np.clip(level * (1 + 0.12 * grain), 0.3, 2.2) * outlines
    return Stamps((hematoxylin * STEPS_PER_UNIT).astype(np.uint8), outlines > 0.35)


def _epithelial_stamps(coarse: float, rng: np.random.Generator) -> Stamps:
    """Nuclei of equal mean brightness with chromatin in fine grains (0) or coarse clumps (1)."""
    outlines = _outlines(12.5, 8.4, rng)
    sheet = rng.standard_normal((STAMP_ANGLES * STAMP_VARIANTS * STAMP_PX, STAMP_PX), dtype=np.float32)
    fine = cv2.GaussianBlur(sheet, (0, 0), 0.6) * 2.1
    coarse_px = CLUMP_SIGMA / MPP
    clumps = cv2.GaussianBlur(sheet[::-1], (0, 0), coarse_px) - cv2.GaussianBlur(
        sheet[::-1], (0, 0), 1.6 * coarse_px
    )
    clumps = np.tanh(1.3 * clumps / clumps.std())
    texture = (0.13 * (1 - coarse) * fine + 0.62 * coarse * clumps).reshape(outlines.shape)
    light = _balance(texture, outlines)
    hematoxylin = (NUCLEAR_HEMATOXYLIN - np.log1p(light) / NUCLEAR_ABSORPTION) * outlines
    return Stamps(np.rint(np.clip(hematoxylin, 0, 2.3) * STEPS_PER_UNIT).astype(np.uint8), outlines > 0.35)


def _balance(texture: Floats, outlines: Floats) -> Floats:
    """Relative change of transmitted light, within [-0.5, 0.75], with mean 0 over each nucleus."""
    light = np.zeros_like(texture)
    shift = np.zeros((*texture.shape[:2], 1, 1), dtype=np.float32)
    area = np.square(outlines).sum(axis=(2, 3), keepdims=True)
    for _ in range(3):
        light = np.clip((texture - shift) * outlines, -0.5, 0.75)
        shift += (light * outlines).sum(axis=(2, 3), keepdims=True) / area
    return light


def _stamp_nuclei(
    hematoxylin: Bytes, centres: Floats, angles: Floats, stamps: Stamps, rng: np.random.Generator
) -> None:
    """Draw nuclei into the hematoxylin picture; where two overlap, the later one is on top."""
    corners = np.rint(centres / MPP).astype(np.int64) - STAMP_PX // 2
    visible = np.all((corners >= 0) & (corners <= SIDE_PX - STAMP_PX), axis=1)
    turns = np.rint(angles / np.pi * STAMP_ANGLES).astype(np.int64) % STAMP_ANGLES
    variants = rng.integers(0, STAMP_VARIANTS, len(centres))
    for (left, top), turn, variant in zip(
        corners[visible].tolist(), turns[visible].tolist(), variants[visible].tolist(), strict=True
    ):
        window = hematoxylin[top : top + STAMP_PX, left : left + STAMP_PX]
        np.copyto(window, stamps.hematoxylin[turn, variant], where=stamps.inside[turn, variant])


def _add_grain(eosin: Bytes, rng: np.random.Generator) -> None:
    """Multiply the eosin by noise at the scale of 1 µm."""
    tile = rng.integers(0, 256, (SIDE_PX // 4, SIDE_PX // 4), dtype=np.uint8)
    grain = np.tile(cv2.GaussianBlur(tile, (0, 0), 0.9), (4, 4))
    cv2.multiply(eosin, grain, dst=eosin, scale=1 / 127.5)


def _stain(hematoxylin: Bytes, eosin: Bytes, rng: np.random.Generator) -> Bytes:
    """Concentration steps -> RGB, with random strength and tint of both stains."""
    strengths = rng.normal(1.0, 0.05, 2)
    tints = rng.normal(1.0, 0.03, (2, 3))
    densities = strengths[:, None] * tints * np.array([HEMATOXYLIN, EOSIN])
    steps = np.arange(256) / STEPS_PER_UNIT
    optical_density = steps[:, None, None] * densities[0] + steps[None, :, None] * densities[1]
    colours = np.zeros((256, 256, 4), dtype=np.uint8)
    colours[..., :3] = np.rint(WHITE * np.exp(-optical_density))
    index = hematoxylin.astype(np.uint16) << 8 | eosin
    packed = np.take(colours.reshape(-1, 4).view(np.uint32).ravel(), index)
    return np.asarray(cv2.cvtColor(packed.view(np.uint8).reshape(*index.shape, 4), cv2.COLOR_RGBA2RGB))
