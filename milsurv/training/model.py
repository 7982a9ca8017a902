"""The model that is trained and saved: feature standardisation and the aggregator; files of models."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from milsurv.aggregators.base import Aggregator
from milsurv.aggregators.mean_cox import MeanCox, MeanCoxConfig
from milsurv.errors import MilsurvError, first_line, size
from milsurv.evaluation.recalibration import Recalibration
from milsurv.executors.memory import host_memory
from milsurv.features.bag import Bag
from milsurv.losses.base import Loss
from milsurv.plugin.base import PluginSection
from milsurv.plugin.registry import Registry
from milsurv.storage.atomic import atomic_path
from milsurv.storage.documents import parse_json

METADATA_KEY = "milsurv"
CHECKSUM = "checksum"
BYTES_PER_WEIGHT = 4


class SurvivalModel(nn.Module):
    """Standardises the features of each magnification, applies an aggregator and adds an offset to its output.

    Standardisation is the identity and the offset 0 until they are fitted. With a linear path, the output of a linear
    model of mean features is also added, unless the aggregator has no parameters and learns nothing beside it.
    """

    offset: Tensor

    def __init__(
        self, aggregator: Aggregator, feature_dims: dict[int, int], n_outputs: int, linear_path: bool = False
    ):
        super().__init__()
        learns = any(True for _ in aggregator.parameters())
        self.linear_path = (
            MeanCox(MeanCoxConfig(), feature_dims, n_outputs) if linear_path and learns else None
        )
        self.aggregator = aggregator
        self.feature_dims = feature_dims
        self.register_buffer("offset", torch.zeros(n_outputs))
        for magnification, dim in feature_dims.items():
            self.register_buffer(f"mean_{magnification}", torch.zeros(dim))
            self.register_buffer(f"scale_{magnification}", torch.ones(dim))

    def fit_standardization(self, bags: Iterable[Bag]) -> None:
        """Set mean and standard deviation of each magnification over all patches of ``bags``, in float64."""
        sums = {m: torch.zeros(2, dim, dtype=torch.float64) for m, dim in self.feature_dims.items()}
        counts = dict.fromkeys(self.feature_dims, 0)
        for bag in bags:
            for m in self.feature_dims:
                features = bag.features[m].double()
                sums[m] += torch.stack((features.sum(0), features.square().sum(0))).cpu()
                counts[m] += len(features)
        for m, (total, squares) in sums.items():
            mean = total / counts[m]
            deviation = (squares / counts[m] - mean.square()).clamp_min(0).sqrt()
            self.get_buffer(f"mean_{m}").copy_(mean)
            self.get_buffer(f"scale_{m}").copy_(1 / torch.where(deviation > 1e-6, deviation, 1.0))

    def standardized(self, bag: Bag) -> Bag:
        """The bag with standardised float32 features."""
        features = {
            m: (bag.features[m].float() - self.get_buffer(f"mean_{m}")) * self.get_buffer(f"scale_{m}")
            for m in self.feature_dims
        }
        return Bag(features, bag.coords, bag.grid)

    def forward(self, bag: Bag) -> Tensor:
        """``(n_outputs,)``."""
        bag = self.standardized(bag)
        return self._with_fitted(self.aggregator(bag), lambda linear: linear(bag))

    def forward_batch(self, bags: Sequence[Bag]) -> Tensor:
        """``(len(bags), n_outputs)``; a single bag goes through :meth:`forward`."""
        if len(bags) == 1:
            outputs: Tensor = self(bags[0])
            return outputs.unsqueeze(0)
        bags = [self.standardized(bag) for bag in bags]
        return self._with_fitted(
            self.aggregator.forward_batch(bags), lambda linear: torch.stack([linear(bag) for bag in bags])
        )

    def _with_fitted(self, outputs: Tensor, linear_outputs: Callable[[MeanCox], Tensor]) -> Tensor:
        """The outputs with offset and linear path; unchanged if their number is wrong, so that it can be reported."""
        if outputs.shape[-1:] != self.offset.shape:
            return outputs
        outputs = outputs + self.offset
        return outputs if self.linear_path is None else outputs + linear_outputs(self.linear_path)

    def attention(self, bag: Bag) -> dict[int, Tensor]:
        """The aggregator's attention, see ``Aggregator.attention``."""
        return self.aggregator.attention(self.standardized(bag))


def build_model(
    registry: Registry,
    section: PluginSection,
    feature_dims: dict[int, int],
    n_outputs: int,
    linear_path: bool = False,
) -> SurvivalModel:
    """A new model, initialised from torch's global seed. Raises MilsurvError if it does not fit into memory."""
    shapes = _shapes(registry, section, feature_dims, n_outputs, linear_path) or {}
    needed = sum(BYTES_PER_WEIGHT * math.prod(shape) for shape in shapes.values())
    if needed > host_memory():
        raise MilsurvError(
            f"aggregator '{section.name}' with these settings needs {size(needed)} of {size(host_memory())} of memory; "
            "use smaller settings"
        )
    aggregator = registry.create("aggregator", section, feature_dims, n_outputs)
    return SurvivalModel(aggregator, feature_dims, n_outputs, linear_path)


def _shapes(
    registry: Registry,
    section: PluginSection,
    feature_dims: dict[int, int],
    n_outputs: int,
    linear_path: bool,
) -> dict[str, tuple[int, ...]] | None:
    """Shapes of all weights, on the meta device; None if the aggregator cannot be built there."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            aggregator = registry.create("aggregator", section, feature_dims, n_outputs)
            state = SurvivalModel(aggregator, feature_dims, n_outputs, linear_path).state_dict()
    except MilsurvError:
        raise
    except Exception:  # a plugin may need real tensors; if it is broken, building it raises
        return None
    return {name: tuple(value.shape) for name, value in state.items()}


class LoadedModel(NamedTuple):
    """The content of a model file."""

    model: SurvivalModel
    """In evaluation mode."""
    loss: Loss
    about: dict[str, Any]
    """Metadata."""
    recalibration: Recalibration | None
    """Recalibrates survival; None if the model was trained without, and for released checkpoints."""


def save_model(
    path: Path,
    model: SurvivalModel,
    loss: Loss,
    about: dict[str, Any],
    recalibration: Recalibration | None = None,
) -> None:
    """Write weights, fitted state of the loss, recalibration, and JSON metadata ``about`` to a safetensors file."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"loss.{name}": value for name, value in loss.state_dict().items()}
    if recalibration is not None:
        tensors |= {f"recalibration.{name}": value for name, value in recalibration.state_dict().items()}
    about = {
        **about,
        "feature_dims": model.feature_dims,
        "n_outputs": loss.n_outputs,
        "linear_path": model.linear_path is not None,
    }
    save_tensors(path, tensors, about)


def load_model(path: Path, registry: Registry, device: torch.device | str) -> LoadedModel:
    """The content of the file, with the model on ``device``. Raises MilsurvError if it cannot be built."""
    tensors, about = load_tensors(path)
    weights = with_prefix("model.", tensors)
    try:
        loss: Loss = registry.create("loss", PluginSection.model_validate(about["loss"]))
        feature_dims = {int(magnification): dim for magnification, dim in about["feature_dims"].items()}
        aggregator = PluginSection.model_validate(about["aggregator"])
        built = (registry, aggregator, feature_dims, about["n_outputs"], about["linear_path"])
        expected = _shapes(*built)
        if expected not in (None, {name: tuple(value.shape) for name, value in weights.items()}):
            raise ValueError("its settings do not match its weights")
        model = build_model(*built)
        model.load_state_dict(weights)
        loss.load_state_dict(with_prefix("loss.", tensors))
        state = with_prefix("recalibration.", tensors)
        recalibration = Recalibration.from_state(state) if state else None
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise MilsurvError(f"{path}: the model cannot be built ({first_line(error)})") from error
    return LoadedModel(model.to(device).eval(), loss, about, recalibration)


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write a safetensors file atomically, with ``about`` as JSON in its metadata.

    The metadata has a single key, because several would be written in random order: equal content gives equal bytes.
    """
    contiguous = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    as_read = json.loads(json.dumps(about))  # all keys become strings
    about = {**as_read, CHECKSUM: _checksum(contiguous, as_read)}
    content = save(contiguous, {METADATA_KEY: json.dumps(about, sort_keys=True)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of :func:`save_tensors`. Raises MilsurvError if the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            about = parse_json((file.metadata() or {}).get(METADATA_KEY, "{}"), path)
    except SafetensorError as error:
        raise MilsurvError(f"{path} is damaged ({error}); delete it and run again") from error
    checksum = about.pop(CHECKSUM, None) if isinstance(about, dict) else None
    if checksum is None:
        raise MilsurvError(f"{path} has no checksum: an older milsurv wrote it; delete it and run again")
    if checksum != _checksum(tensors, about):
        raise MilsurvError(f"{path} is damaged (wrong checksum); delete it and run again, or copy it again")
    return tensors, about


def _checksum(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """SHA-256 of names, dtypes, shapes and values, and of ``about`` as JSON."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
