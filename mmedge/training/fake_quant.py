"""A model that computes with the roundings of its INT8 graph, and learns with them: fake quantisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mmedge.calibration.collect import session_on_one_thread
from mmedge.calibration.fusion import find_fusions
from mmedge.calibration.graph import GraphIndex, with_outputs
from mmedge.calibration.layers import LEAST_SCALE, activation_scale, find_integers, find_layers, find_tables
from mmedge.calibration.ranges import LEVELS

_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def fake_quantize(
    model: nn.Module, graph: onnx.ModelProto, ranges: Mapping[str, float], chosen: Collection[str]
) -> list[str]:
    """Let `model` compute in float32 what `emit_tensorrt` would make of its `graph` with the nodes named in `chosen` in
    INT8, and what `emit_cpu` would of tables and the gated fusion. Gradients pass the roundings as if there were none
    (Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons", 4), and are zero for what
    the ranges cut off. Batch norms keep their statistics, as in the graph.

    A weight's step per channel follows the weight. Where the graph has a batch norm in the weight, both are of the same
    integers: it scales whole channels. Parameters keep their names and values.

    ranges: the largest magnitude by tensor of the graph, of all that `tensors_to_range` names.
    Returns the nodes of `chosen` whose module cannot be found, or is called in several places, which stay in float.
    """
    index = GraphIndex(graph.graph)
    layers = [layer for layer in find_layers(graph) if layer.name in chosen]
    products = [(layer.name, layer.source, layer.weight) for layer in layers]
    for fusion in find_fusions(graph):
        if fusion.name in chosen:
            weights = (weight for weight, *_ in fusion.parameters)
            products += [(fusion.name, *pair) for pair in zip(fusion.sources, weights, strict=True)]
    tables = {name: table for name, table in find_tables(graph).items() if name in chosen}
    names, integers = {layer.name for layer in layers}, find_integers(graph, layers)
    readers: dict[str, list[str]] = {}
    for node in graph.graph.node:
        for name in integers.read_by(node) if node.name not in names else ():
            readers.setdefault(name, []).append(node.name)
    # A module rounds what it gives for all that take it.
    shared = [
        name
        for name, others in readers.items()
        if name in integers.made or names.issuperset({node.name for node in index.consumers[name]}.difference(others))
    ]
    givers = _givers(model, graph, shared)

    uses = Counter([*(weight for _, _, weight in products), *tables.values()])
    modules = {f"module.{name}.weight": module for name, module in model.named_modules()}
    left = [reader for name, others in readers.items() if name not in givers for reader in others]
    for name, source, weight in products:
        module = modules.get(weight)
        if isinstance(module, _PRODUCTS) and uses[weight] == 1:
            scale = activation_scale(ranges[index.root(source)])
            # In place of a parametrisation, which would rename the weight.
            module.forward = partial(_product, module, scale)  # type: ignore[method-assign]
        else:
            left.append(name)
    for name, table in tables.items():
        module = modules.get(table)
        if isinstance(module, nn.Embedding) and uses[table] == 1:
            module.register_forward_hook(_round_features)
        else:
            left.append(name)
    for name, module in givers.items():
        module.register_forward_hook(partial(_round_output, activation_scale(ranges[index.root(name)])))
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_keep_statistics)
    return list(dict.fromkeys(left))


def _product(module: nn.Linear | nn.Conv1d | nn.Conv2d, scale: float, x: Tensor) -> Tensor:
    x = _round(x, scale)
    # The emitters' step of a channel too faint beside its bias is larger: what that changes is lost in the bias.
    weight = _round_channels(module.weight, 0, module.weight.abs().flatten(1).amax(1))
    if isinstance(module, nn.Linear):
        return functional.linear(x, weight, module.bias)
    convolved: Tensor = module._conv_forward(x, weight, module.bias)
    return convolved


def _round(x: Tensor, scale: float) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, scale, 0, -LEVELS - 1, LEVELS)


def _round_channels(x: Tensor, axis: int, largest: Tensor) -> Tensor:
    scales = (largest.detach() / LEVELS).clamp_min(LEAST_SCALE)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(x, scales, zeros, axis, -LEVELS, LEVELS)


def _round_features(module: nn.Module, _: Any, output: Tensor) -> Tensor:
    return _round_channels(output, output.ndim - 1, module.get_parameter("weight").abs().amax(0))


def _round_output(scale: float, _module: nn.Module, _: Any, output: Tensor) -> Tensor:
    return _round(output, scale)


def _keep_statistics(module: nn.Module, _: Any) -> None:
    module.train(False)


def _givers(model: nn.Module, graph: onnx.ModelProto, tensors: Collection[str]) -> dict[str, nn.Module]:
    """By tensor of the graph: the module that gives it, known by its values for an input of noise; a sum or a ReLU has
    no weights to be named after.
    """
    if not tensors:
        return {}
    random = np.random.default_rng(0)
    feeds = {}
    for value in graph.graph.input:
        kind = value.type.tensor_type
        shape = [max(dimension.dim_value, 1) for dimension in kind.shape.dim]
        if kind.elem_type == TensorProto.FLOAT:
            feeds[value.name] = random.standard_normal(shape).astype(np.float32)
        else:
            feeds[value.name] = np.ones(shape, np.bool_ if kind.elem_type == TensorProto.BOOL else np.int32)
    names = sorted(set(tensors))
    wanted = dict(zip(names, session_on_one_thread(with_outputs(graph, names)).run(names, feeds), strict=True))
    found: dict[str, nn.Module] = {}

    def compare(module: nn.Module, _: Any, output: Any) -> None:
        for name, values in wanted.items():
            if isinstance(output, Tensor) and output.shape == values.shape and name not in found:
                error = np.square(output.numpy() - values).sum()
                if error <= 1e-8 * np.square(values).sum():
                    found[name] = module

    handles = [module.register_forward_hook(compare) for module in model.modules()]
    training = model.training
    model.train(False)
    with torch.no_grad():
        model(**{name: torch.from_numpy(values) for name, values in feeds.items()})
    model.train(training)
    for handle in handles:
        handle.remove()
    return found
