"""torch module -> ONNX graph: one file with its weights inside, no newer than its target reads."""

from __future__ import annotations

import logging
import warnings
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from mmedge.export.errors import ExportError
from mmedge.export.functions import append_functions
from mmedge.export.resize import verify_resizes
from mmedge.export.targets import Target, check_versions

OPSET = 18  # the oldest that PyTorch's exporter writes without conversion
NEWEST_IR = 10  # the newest that TensorRT 10 and ONNX Runtime 1.18 read
_MOST_BYTES = 2**31  # of a protobuf message
_ROOT = "module."  # of the names of the module's parameters in the graph


def export_graph(
    module: nn.Module,
    example_inputs: Mapping[str, Tensor],
    *,
    target: Target,
    output_names: Sequence[str],
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Export `module` as a checked graph with a dynamic batch; puts it into evaluation mode.

    Args:
        module: called with the inputs by name; returns a mapping that has every one of `output_names`, or one
            tensor, or a sequence of tensors in their order.
        example_inputs: name -> tensor [B, ...]. The names and their order become those of the graph; every
            dimension but the batch is fixed at the size given.
        target: bounds the opset and IR version.
        output_names: names of the graph's outputs.
        metadata: written into the graph's metadata.

    Returns:
        The graph: weights inside, no paths of this machine, the bodies of `mmedge` operators appended. The
        same weights give the same bytes from `to_bytes`.

    Raises:
        ExportError: the module has more weights than an ONNX file holds, the exporter cannot translate it (the
            message names the node), the graph would not compute what the module does, or it is newer than the
            target reads.
    """
    _check_size(module)
    # The exporter takes a batch of one for a constant.
    inputs = {name: torch.cat([tensor, tensor]) for name, tensor in example_inputs.items()}
    program = _export(_ByPosition(module, tuple(inputs), tuple(output_names)).eval(), inputs)
    model = onnx.ModelProto()
    model.CopyFrom(program.model_proto)
    _check_batch(model)
    verify_resizes(model, program.exported_program, inputs)
    _name_outputs(model, output_names)
    _name_weights(model)
    _strip_documentation(model)
    append_functions(model)
    _check_domains(model)
    model.ir_version = min(NEWEST_IR, target.max_ir)
    model.producer_name = "mmedge"
    model.producer_version = version("mmedge")
    onnx.helper.set_model_props(model, dict(sorted((metadata or {}).items())))
    check_versions(model, target)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    return model


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The file of `model`: the same bytes for the same graph."""
    return bytes(model.SerializeToString(deterministic=True))


class _ByPosition(nn.Module):
    """`module` with its named inputs and outputs in a fixed order."""

    def __init__(self, module: nn.Module, input_names: tuple[str, ...], output_names: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.input_names = input_names
        self.output_names = output_names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs = self.module(**dict(zip(self.input_names, tensors, strict=True)))
        if isinstance(outputs, Mapping):
            return tuple(outputs[name] for name in self.output_names)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _check_size(module: nn.Module) -> None:
    size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    if size >= _MOST_BYTES:
        raise ExportError(
            f"the module's weights are {size / 1e9:.2f} GB, and an ONNX file with its weights inside holds 2 GB"
            f" ({_MOST_BYTES} bytes); take a smaller encoder"
        )


def _export(module: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    try:
        with warnings.catch_warnings(), torch.no_grad(), _only_errors():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                dynamic_shapes=(tuple({0: torch.export.Dim("batch")} for _ in inputs),),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"the module cannot be exported: {_reason(error)}") from error


@contextmanager
def _only_errors() -> Iterator[None]:
    """The exporter warns of operators of packages that are not installed, and its optimiser of constants it leaves."""
    names = ("torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding")
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _name_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Call the graph's outputs `names`; the exporter would give one a name that a value inside has already."""
    renamed = {output.name: name for output, name in zip(model.graph.output, names, strict=True)}
    if len(renamed) < len(names):
        raise ExportError("two outputs of the module are one tensor; return it once")
    for name in names:
        renamed.setdefault(name, f"{name}.inner")
    _rename(model, renamed)


def _name_weights(model: onnx.ModelProto) -> None:
    """Call every weight of a product after the module that takes it, as those are that the exporter leaves as they are;
    one that it transposes, or computes of others, has but a number.
    """
    weights = {entry.name for entry in model.graph.initializer}
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in weights:
            continue
        noted = {entry.key: entry.value for entry in node.metadata_props}
        scopes = literal_eval(noted.get("pkg.torch.onnx.name_scopes", "['', '']"))  # from the outermost to the operator
        name = f"{scopes[-2]}.weight"
        if name.startswith(_ROOT) and not node.input[1].startswith(_ROOT) and name not in weights:
            renamed.setdefault(node.input[1], name)
            weights.add(name)
    _rename(model, renamed)


def _rename(model: onnx.ModelProto, renamed: Mapping[str, str]) -> None:
    graph = model.graph
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [renamed.get(value, value) for value in values]
    for value in (*graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed.get(value.name, value.name)


def _reason(error: BaseException) -> str:
    """The first line of every error below the exporter's own summary, from the node to the cause."""
    lines = []
    cause = error.__cause__
    while cause is not None:
        lines.append(str(cause).strip().split("\n")[0].removesuffix(" See the stack trace for more information."))
        cause = cause.__cause__
    return "; ".join(lines) or str(error)


def _check_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if not dimensions or not dimensions[0].dim_param:
            raise ExportError(
                f"the first dimension of {value.name!r} is fixed in the exported graph, and has to be the"
                " batch: the module must work for any batch size"
            )


def _check_domains(model: onnx.ModelProto) -> None:
    bodies = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in bodies:
            raise ExportError(f"node {node.name!r} is {node.domain}::{node.op_type}, an operator no runtime defines")


def _strip_documentation(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for debugging: stack traces hold file paths of this machine."""
    graph = model.graph
    for item in (model, graph, *model.functions):
        item.doc_string = ""
        del item.metadata_props[:]
    nodes = [*graph.node, *(node for function in model.functions for node in function.node)]
    for item in (*nodes, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
