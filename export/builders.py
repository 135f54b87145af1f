"""Native TensorRT (10.3, 10.16, 11) and TensorRT-RTX: what differs between them, and nothing else.

| | TensorRT | TensorRT-RTX |
|---|---|---|
| where it comes from | JetPack, or the package `tensorrt` | two packages whose libraries must be loaded first |
| what it builds for | the GPU that is here | a list of compute capabilities, with no GPU |
| strongly typed networks | a flag in 10, that 11 ignores | always |
| timing cache | speeds up the next build | has no effect, and asks for a GPU |
| version compatible | puts a lean runtime into the engine | has none |
| hardware compatible | for Ampere and newer | the list of compute capabilities |
| mmedge's plugin | is loaded | is not made for it |
| kernels of an engine | the engine inspector tells, on a GPU | the log tells |

Parsing, profiles, the builder's settings, progress and cancelling are one code (engine_process.py). What is here runs
in that process, except for `check` and `find`.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from mmedge.export.errors import BuilderMissing, GpuMissing
from mmedge.runtime.errors import EngineError, InvalidArgument

COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""Those that TensorRT-RTX builds for without a GPU; it lists 7.5 too, but refuses its convolutions over time."""


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built.

    target: "tensorrt" or "tensorrt-rtx". compute_capabilities: of `COMPUTE_CAPABILITIES`, for TensorRT-RTX only; with
    none, 8.6 and 12.0. max_batch: the largest batch the engine takes; it is tuned for one sample. workspace: the most
    memory that a kernel may work with, in MiB. optimization_level: 0 builds fastest, 5 searches longest.
    version_compatible: newer TensorRT of the same major version run it too. hardware_compatible: other GPUs, Ampere and
    newer, run it too. plugin: the fused operators run mmedge's plugin in place of their bodies.
    """

    target: str = "tensorrt-rtx"
    compute_capabilities: tuple[str, ...] = ()
    max_batch: int = 1
    workspace: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    plugin: bool = False


@dataclass(frozen=True)
class EngineLayer:
    """A kernel of an engine. kind: what the compiler calls it, such as "correlation" (a convolution), "gemm" or "kgen"
    (a generated kernel); nodes: names of the graph's nodes it came of; inputs, constants, outputs: their types, such as
    "Float", "Half" or "Int8".
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]


class TensorRtRtx:
    """TensorRT-RTX."""

    title: ClassVar[str] = "TensorRT-RTX"
    keeps_timings: ClassVar[bool] = False
    libraries: ClassVar[str] = "onnxruntime_ep_nv_tensorrt_rtx"
    bindings: ClassVar[str] = "tensorrt_rtx_bindings"

    def check(self, options: EngineOptions) -> None:
        for capability in options.compute_capabilities:
            if capability not in COMPUTE_CAPABILITIES:
                raise InvalidArgument(
                    f"compute capability {capability!r}: TensorRT-RTX builds for {', '.join(COMPUTE_CAPABILITIES)}"
                    " without a GPU; for any other build where the GPU is, with TensorRT"
                )
        if options.version_compatible:
            raise InvalidArgument(
                "--version-compatible: TensorRT-RTX has no lean runtime to put into an engine; build one for each"
                " version of it, or take --target tensorrt"
            )
        if options.hardware_compatible:
            raise InvalidArgument(
                "--hardware-compatible: TensorRT-RTX builds for the compute capabilities it is given; name every one"
                " with --compute-capability, or take --target tensorrt"
            )
        if options.plugin:
            raise InvalidArgument(
                "--plugin: mmedge's plugin is made for TensorRT, and TensorRT-RTX compiles the fused operators' bodies;"
                " leave it out, or take --target tensorrt"
            )

    def find(self) -> None:
        if find_spec(self.libraries) is None or find_spec(self.bindings) is None:
            raise BuilderMissing(
                "TensorRT-RTX is not installed: expected the packages onnxruntime-ep-nv-tensorrt-rtx-cu13 and"
                " tensorrt-rtx-cu13-bindings; install both with pip install 'mmedge[tensorrt]'"
            )

    def capabilities(self, options: EngineOptions) -> tuple[str, ...]:
        return tuple(dict.fromkeys(options.compute_capabilities)) or ("8.6", "12.0")

    def gpu(self) -> str:
        return ""

    def load(self) -> tuple[Any, str]:
        # The bindings ask the loader for these names, which the wheel keeps outside its search path.
        folder = Path(str(find_spec(self.libraries).origin)).parent  # type: ignore[union-attr]
        main, _ = (
            ctypes.CDLL(str(next(folder.glob(f"{stem}.*"))), mode=ctypes.RTLD_GLOBAL)
            for stem in ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so")
        )
        return import_module(self.bindings), library_version(main)

    def configure(self, tensorrt: Any, config: Any, options: EngineOptions) -> None:
        names = ["SM" + capability.replace(".", "") for capability in self.capabilities(options)]
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            config.set_compute_capability(getattr(tensorrt.ComputeCapability, name), index)

    def layers(
        self, _tensorrt: Any, logger: Any, _plan: Any, _options: EngineOptions, _plugin: str
    ) -> list[EngineLayer]:
        return [_listed(line) for line in logger.listing]


class TensorRt:
    """Native TensorRT. Its bindings for 10.3 and 11.4 have every name used here; no GPU has run this code yet."""

    title: ClassVar[str] = "TensorRT"
    keeps_timings: ClassVar[bool] = True
    bindings: ClassVar[str] = "tensorrt"

    def check(self, options: EngineOptions) -> None:
        if options.compute_capabilities:
            raise InvalidArgument(
                f"compute capability {', '.join(options.compute_capabilities)}: TensorRT builds for the GPU that is"
                " here; leave --compute-capability out, or take --target tensorrt-rtx"
            )

    def find(self) -> None:
        if find_spec(self.bindings) is None:
            raise BuilderMissing(
                "TensorRT is not installed: found no Python package tensorrt. On a Jetson it is JetPack's"
                " python3-libnvinfer, which a virtual environment sees when made with --system-site-packages; on a PC"
                " with a GPU pip install tensorrt. --target tensorrt-rtx needs no GPU"
            )

    def capabilities(self, _options: EngineOptions) -> tuple[str, ...]:
        return (first_gpu()[0],)

    def gpu(self) -> str:
        return first_gpu()[1]

    def load(self) -> tuple[Any, str]:
        first_gpu()  # Without a GPU TensorRT's builder fails with no reason given.
        try:
            tensorrt = import_module(self.bindings)
            # The bindings name three numbers of the version or four; an engine depends on all four.
            library = ctypes.CDLL(f"libnvinfer.so.{tensorrt.__version__.split('.')[0]}")
        except (ImportError, OSError) as error:
            raise BuilderMissing(
                f"TensorRT's Python package is there, but cannot be loaded: {error}; install the libraries of its own"
                " version (JetPack's libnvinfer, or pip install tensorrt)"
            ) from error
        return tensorrt, library_version(library)

    def configure(self, tensorrt: Any, config: Any, options: EngineOptions) -> None:
        if options.version_compatible:
            config.set_flag(tensorrt.BuilderFlag.VERSION_COMPATIBLE)
        if options.hardware_compatible:
            config.hardware_compatibility_level = tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS

    def layers(self, tensorrt: Any, logger: Any, plan: Any, options: EngineOptions, plugin: str) -> list[EngineLayer]:
        runtime = tensorrt.Runtime(logger)
        # A version-compatible engine brings code of its own; and the plugins of a builder are not those of a runtime.
        runtime.engine_host_code_allowed = options.version_compatible
        if options.plugin:
            runtime.get_plugin_registry().load_library(plugin)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(
                f"TensorRT does not load the engine that it has built: {'; '.join(logger.lines['ERROR'])}"
            )
        # It runs nothing, so it is given no memory.
        context = engine.create_execution_context(tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise EngineError(f"TensorRT does not tell the engine's layers: {'; '.join(logger.lines['ERROR'])}")
        inspector = engine.create_engine_inspector()
        # The types of a layer are told only where the sizes are known.
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT:
                context.set_input_shape(name, [abs(size) for size in engine.get_tensor_shape(name)])
        inspector.execution_context = context
        return inspected(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))


Builder = TensorRt | TensorRtRtx

BUILDERS: dict[str, Builder] = {"tensorrt": TensorRt(), "tensorrt-rtx": TensorRtRtx()}


def find_builder(target: str) -> Builder:
    """The builder called `target`.

    Raises:
        InvalidArgument: there is none.
    """
    if target not in BUILDERS:
        raise InvalidArgument(f"unknown builder {target!r}; expected one of {', '.join(BUILDERS)}")
    return BUILDERS[target]


def default_target() -> str:
    """TensorRT where its Python package is installed, or else TensorRT-RTX."""
    return "tensorrt-rtx" if find_spec(TensorRt.bindings) is None else "tensorrt"


def network_flags(tensorrt: Any) -> int:
    """Those that make a network strongly typed: TensorRT 10 needs the flag, TensorRT 11 and TensorRT-RTX ignore it."""
    flag = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def library_version(library: ctypes.CDLL) -> str:
    """The four numbers of a loaded TensorRT or TensorRT-RTX, such as "10.3.0.30"."""
    parts = ("Major", "Minor", "Patch", "Build")
    return ".".join(str(getattr(library, f"getInferLib{part}Version")()) for part in parts)


def first_gpu() -> tuple[str, str]:
    """The compute capability of the first GPU, such as "8.7", and its model, such as "Orin (8 multiprocessors)", by
    CUDA's driver. libmmedge makes the same of it.

    Raises:
        GpuMissing: there is no driver or no GPU.
    """
    remedy = "; build where the GPU is, or with --target tensorrt-rtx, which needs none"
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise GpuMissing(f"TensorRT needs a GPU to build, and there is no driver: {error}{remedy}") from error
    device, name, numbers = ctypes.c_int(), ctypes.create_string_buffer(128), []
    status = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetName(name, ctypes.sizeof(name), device)
    )
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, and _MULTIPROCESSOR_COUNT.
    for attribute in (75, 76, 16):
        number = ctypes.c_int()
        status = status or cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        numbers.append(number.value)
    if status:
        raise GpuMissing(f"TensorRT needs a GPU to build, and the driver finds none (CUDA error {status}){remedy}")
    return f"{numbers[0]}.{numbers[1]}", f"{name.value.decode(errors='replace')} ({numbers[2]} multiprocessors)"


# ---- The kernels of an engine ----------------------------------------------------------------------------------------

_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\S*), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*Metadata: (?P<nodes>.*)$"
)
# A node of a function's body is followed by the node that calls the function.
_NODE = re.compile(r"\[ONNX Layer: ([^\]|]*?)(?: \| [^\]]*)?\]")


def _listed(line: str) -> EngineLayer:
    # A tensor's numbers are lists inside a list.
    found = _LAYER.match(re.sub(r"(Dimensions|Strides|StrideOrder): \[[^\]]*\]", "", line))
    if found is None:
        raise EngineError(f"TensorRT-RTX lists a layer in a form that is not known: {line[:200]}")
    types = {key: tuple(re.findall(r"Datatype: (\w+)", found[key])) for key in ("inputs", "constants", "outputs")}
    return EngineLayer(found["name"], found["kind"], tuple(_NODE.findall(found["nodes"])), **types)


# The words of TensorRT 10 ("Channel major FP16 format where channel % 8 == 0"), then those of 11.
_TYPES = (
    ("Int8", re.compile("int8", re.I)),
    ("Half", re.compile(r"\bfp16|half", re.I)),
    ("Float", re.compile(r"fp32|\bfloat\b", re.I)),
)


def inspected(information: str) -> list[EngineLayer]:
    """The layers that TensorRT's engine inspector tells of, in JSON."""

    def types(tensors: Sequence[dict[str, Any]]) -> tuple[str, ...]:
        keys = ("Format/Datatype", "DataType", "Datatype", "Format")
        texts = [" ".join(str(tensor.get(key, "")) for key in keys) for tensor in tensors]
        return tuple(next((name for name, words in _TYPES if words.search(text)), "other") for text in texts)

    return [
        EngineLayer(
            layer["Name"],
            layer.get("LayerType", ""),
            tuple(_NODE.findall(layer.get("Metadata", ""))),
            types(layer.get("Inputs", ())),
            types(layer.get("Constants", ())),
            types(layer.get("Outputs", ())),
        )
        for layer in json.loads(information)["Layers"]
        if isinstance(layer, dict)
    ]
