"""Conversion of models that were trained with other software."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from milsurv.aggregators.abmil import ABMIL
from milsurv.aggregators.base import Aggregator
from milsurv.aggregators.crossfusion import CrossFusion, CrossFusionConcat, CrossFusionSingle
from milsurv.aggregators.dsmil import DSMIL
from milsurv.aggregators.transmil import TransMIL
from milsurv.backbones.weights import file_id, read_state
from milsurv.errors import MilsurvError, first_line, nearest
from milsurv.losses.discrete import NLL
from milsurv.plugin.registry import get_registry
from milsurv.training.model import SurvivalModel, save_model

AUTHORS_MODELS: dict[str, type[Aggregator]] = {
    "CrossFusion": CrossFusion,
    "CrossFusionConcat": CrossFusionConcat,
    "CrossFusionSingle": CrossFusionSingle,
    "AMIL": ABMIL,
    "DSMIL": DSMIL,
    "TransMIL": TransMIL,
}
"""The CrossFusion authors' name of a model -> the aggregator that it is here."""
RELEASED_HEADS = 4

_SCALES = {"c": 5, "s": 10, "f": 20, "coarse": 5, "source": 10, "fine": 20}
_TRANSFORMER = (
    (r"pre_layers\.layers\.", "before."),
    (r"post_layers\.layers\.", "after."),
    (r"((?:before|after)\.\d+)\.0\.", r"\1.norm1."),
    (r"((?:before|after)\.\d+)\.1\.", r"\1.attention."),
    (r"((?:before|after)\.\d+)\.2\.", r"\1.norm2."),
    (r"((?:before|after)\.\d+)\.3\.net\.", r"\1.feed_forward."),
    (r"ppeg\.proj\.", "position.depthwise.parts.0."),
    (r"ppeg\.proj([12])\.", r"position.depthwise.parts.\1."),
    (r"^final_transformer\.", "final."),
    (r"^final_ln\.", "final.norm."),
    (r"^cls_token$", "final.class_token"),
    (r"^mlp_head\.0\.", "head."),
    (r"^conv_processor\.conv3d\.", "scale_mix."),
    (r"^conv_processor\.conv_block\.0\.proj\.", "convolution_mix.grouped.parts.0."),
    (r"^conv_processor\.conv_block\.0\.proj([12])\.", r"convolution_mix.grouped.parts.\1."),
    (r"^conv_processor\.conv_block\.0\.x_proj\.", "convolution_mix.grouped.parts.3."),
    (r"^conv_processor\.linear\.0\.", "convolution_mix.linear."),
    (r"^conv_processor\.linear\.1\.", "convolution_mix.norm."),
    (r"^pre_final_linear\.", "concat."),
    (r"\.out_proj\.", ".out."),
)
_MULTI_SCALE = (
    (r"^([a-z]+)_(?:lin_proj|pre_cross_attn)\.", r"projections.<\1>."),
    (r"^([a-z]+)_cross_attn_ln\.", r"cross_attentions.<\1>.norm."),
    (r"^([a-z]+)_cross_attn_ffn\.net\.", r"cross_attentions.<\1>.feed_forward."),
    (r"^([a-z]+)_cross_attn\.scale_embeddings$", r"cross_attentions.<\1>.scale_embedding"),
    (r"^([a-z]+)_cross_attn\.", r"cross_attentions.<\1>.attention."),
    (r"^(c|s|f)_transformer_ln\.|^(coarse|source|fine)_ln\.", r"transformers.<\1\2>.norm."),
    (r"^(c|s|f|coarse|source|fine)_transformer\.", r"transformers.<\1>."),
    (r"<([a-z]+)>", lambda match: str(_SCALES.get(match[1], match[1]))),
    *_TRANSFORMER,
)
_RULES: dict[str, tuple[tuple[str, Any], ...]] = {
    "CrossFusion": _MULTI_SCALE,
    "CrossFusionConcat": _MULTI_SCALE,
    "CrossFusionSingle": (
        (r"^source_pre_cross_attn\.", "projection."),
        (r"^source_transformer\.", "transformer."),
        (r"^source_ln\.", "transformer.norm."),
        *_TRANSFORMER,
    ),
    "AMIL": (
        (r"^attention_net\.0\.", "projections.20.0."),
        (r"^attention_net\.2\.attention_a\.0\.", "value."),
        (r"^attention_net\.2\.attention_b\.0\.", "gate."),
        (r"^attention_net\.2\.attention_c\.", "score."),
        (r"^classifiers\.", "head."),
    ),
    "DSMIL": (
        (r"^i_classifier\.fc\.0\.", "instance."),
        (r"^b_classifier\.q\.", "query."),
        (r"^b_classifier\.fcc\.", "head."),
    ),
    "TransMIL": (
        (r"^_fc1\.", "projection."),
        (r"^_fc2\.", "head."),
        (r"^cls_token$", "class_token"),
        (r"^layer([12])\.norm\.", r"norm\1."),
        (r"^layer([12])\.attn\.to_qkv\.", r"attention\1.qkv."),
        (r"^layer([12])\.attn\.to_out\.0\.", r"attention\1.out."),
        (r"^layer([12])\.attn\.res_conv\.", r"attention\1.residual."),
        (r"^pos_layer\.proj\.", "position.depthwise.parts.0."),
        (r"^pos_layer\.proj([12])\.", r"position.depthwise.parts.\1."),
    ),
}
"""Released key -> key here, by rules applied one after the other."""


class ReleasedModel(NamedTuple):
    """A released model as one of milsurv's, with its constructor arguments."""

    aggregator: Aggregator
    """In evaluation mode."""
    settings: dict[str, Any]
    feature_dims: dict[int, int]
    n_outputs: int


def from_authors_checkpoint(
    model: str, state_dict: Mapping[str, Tensor], *, num_heads: int | None = None
) -> Aggregator:
    """A model released by the CrossFusion authors as one of milsurv's aggregators, in evaluation mode.

    Args:
        model: a name in :data:`AUTHORS_MODELS`.
        state_dict: the released checkpoint's tensors under their own names; sizes are read from the shapes.
        num_heads: attention heads of the CrossFusion models, which cannot be inferred from shapes; None: 4.

    Raises MilsurvError when the name is unknown or the tensors are not that model's.
    """
    return _released_model(model, state_dict, num_heads).aggregator


def import_checkpoint(
    file: Path, model: str, output: Path, *, num_heads: int | None = None
) -> dict[str, Any]:
    """Write a released checkpoint as a model file, for :func:`milsurv.training.model.load_model`.

    A checkpoint does not say where its time bins were cut. The loss in the model file therefore gives risk, but
    no survival at times before :meth:`milsurv.losses.discrete.DiscreteTime.fit` has cut bins.

    Args:
        file: ``.pt`` or ``.pth``, of which only tensors are loaded, or ``.safetensors``.
        model, num_heads: as for :func:`from_authors_checkpoint`.
        output: is replaced as a whole when it exists.

    Returns what the model file says about itself. Raises MilsurvError when the file cannot be read, is not a
    checkpoint of that model, or ``output`` cannot be written.
    """
    if output.resolve() == file.resolve():
        raise MilsurvError(f"{output} is the checkpoint itself; name another file to write to")
    released = _released_model(model, read_state(file), num_heads)
    if released.n_outputs < 2:
        raise MilsurvError(
            f"{file} has {released.n_outputs} output; released models have a hazard for each of 2 or more time bins"
        )
    about = {
        "aggregator": {"name": _registered_name(released.aggregator), **released.settings},
        "loss": {"name": "nll", "bins": released.n_outputs},
        "imported_from": {"model": model, "file": file.name, "id": file_id(file)},
    }
    survival_model = SurvivalModel(released.aggregator, released.feature_dims, released.n_outputs)
    loss = NLL(NLL.Config(bins=released.n_outputs))
    try:
        save_model(output, survival_model, loss, about)
    except OSError as error:
        raise MilsurvError(f"cannot write {output}: {error.strerror or error}") from error
    return about | {"feature_dims": released.feature_dims, "n_outputs": released.n_outputs}


def _registered_name(aggregator: Aggregator) -> str:
    target = f"{type(aggregator).__module__}:{type(aggregator).__name__}"
    return next(info.name for info in get_registry().plugins if info.target == target)


def _released_model(model: str, state_dict: Mapping[str, Tensor], num_heads: int | None) -> ReleasedModel:
    if model not in AUTHORS_MODELS:
        known = ", ".join(AUTHORS_MODELS)
        raise MilsurvError(f"unknown model '{model}'{nearest(model, AUTHORS_MODELS)}; known are {known}")
    if num_heads is not None and not model.startswith("CrossFusion"):
        raise MilsurvError(f"num_heads applies only to CrossFusion models, not to {model}")
    kind = AUTHORS_MODELS[model]
    try:
        state = _translated(model, state_dict)
        settings, feature_dims, n_outputs = _sizes(model, state)
        if model.startswith("CrossFusion"):
            settings["num_heads"] = RELEASED_HEADS if num_heads is None else num_heads
        with torch.device("meta"):  # no memory is taken before all shapes are known to be the file's
            _require_fit(kind(kind.Config(**settings), feature_dims, n_outputs), state, model)
    except (LookupError, ValueError, TypeError, RuntimeError) as problem:
        raise MilsurvError(
            f"not a {model} checkpoint: cannot read its sizes ({first_line(problem)})"
        ) from None
    aggregator = kind(kind.Config(**settings), feature_dims, n_outputs)
    with torch.no_grad():
        for name, parameter in aggregator.named_parameters():
            parameter.copy_(state[name].reshape(parameter.shape))
    return ReleasedModel(aggregator.eval(), settings, feature_dims, n_outputs)


def translate(model: str, key: str) -> tuple[str, int | None]:
    """The parameter that a released key names here; and 0, 1 or 2 where it is the first, second or third part of it.

    Query, key and value projections are one parameter here. A key without a rule is returned unchanged.
    """
    for pattern, replacement in _RULES[model]:
        key = re.sub(pattern, replacement, key)
    part = re.search(r"\.([qkv])_proj\.", key)
    return (key, None) if part is None else (key.replace(part[0], ".qkv."), "qkv".index(part[1]))


def _translated(model: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    whole: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for key, tensor in state_dict.items():
        name, part = translate(model, key)
        if part is None:
            whole[name] = tensor
        else:
            parts.setdefault(name, {})[part] = tensor
    return whole | {name: torch.cat([of[part] for part in sorted(of)]) for name, of in parts.items()}


def _sizes(model: str, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[int, int], int]:
    """The config's sizes, the feature widths by magnification, and the number of outputs."""
    n_outputs = len(state["head.weight"])
    if model == "AMIL":
        hidden, feature_dim = state["projections.20.0.weight"].shape
        attention = len(state["value.weight"])
        return {"hidden_dim": hidden, "attention_dim": attention, "gated": True}, {20: feature_dim}, n_outputs
    if model == "DSMIL":
        query, feature_dim = state["query.0.weight"].shape
        return {"query_dim": query}, {20: feature_dim}, n_outputs
    if model == "TransMIL":
        dim, feature_dim = state["projection.0.weight"].shape
        return {"embed_dim": dim}, {20: feature_dim}, n_outputs
    dim = state["final.class_token"].shape[-1]
    layers = sum(re.fullmatch(r"final\.before\.\d+\.norm1\.weight", name) is not None for name in state)
    projections = (
        {20: "projection"} if model == "CrossFusionSingle" else {m: f"projections.{m}" for m in (20, 10, 5)}
    )
    feature_dims = {
        m: state[f"{name}.0.weight"].shape[1] if f"{name}.0.weight" in state else dim
        for m, name in projections.items()
    }
    return {"embed_dim": dim, "num_layers": layers}, feature_dims, n_outputs


def _require_fit(aggregator: Aggregator, state: Mapping[str, Tensor], model: str) -> None:
    """Raise MilsurvError unless ``state`` has the parameters, whose released shapes may have more axes of length 1."""
    parameters = dict(aggregator.named_parameters())
    problems = [f"no tensor for '{name}'" for name in parameters.keys() - state.keys()]
    problems += [f"unknown tensor '{name}'" for name in state.keys() - parameters.keys()]
    for name in parameters.keys() & state.keys():
        if state[name].squeeze().shape != parameters[name].squeeze().shape:
            problems.append(f"'{name}' is {tuple(state[name].shape)}, not {tuple(parameters[name].shape)}")
    if problems:
        listed = "; ".join(sorted(problems)[:3]) + (
            f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        )
        raise MilsurvError(f"not a {model} checkpoint: {listed}")
