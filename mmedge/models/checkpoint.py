"""Models from and to folders, and new ones with published weights in their encoders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    get_verbosity,
    is_progress_bar_enabled,
    set_verbosity,
    set_verbosity_error,
)

from mmedge.models.configuration import MmedgeConfig
from mmedge.models.modeling import FusedModel
from mmedge.models.options import part_problems
from mmedge.models.pretrained import ARCHITECTURES, TransformersEncoder
from mmedge.models.registry import config_keys, look_up
from mmedge.runtime.errors import CheckpointError, InvalidArgument, MmedgeError


def new_model(config: MmedgeConfig) -> FusedModel:
    """A model to train: new weights, but for the encoders that name published ones under "pretrained" (a local folder
    or a hub id). Their whole configuration is written into the model's, so that a checkpoint needs nothing else.

    Raises:
        InvalidArgument: as `FusedModel`; weights that cannot be had, or of another architecture.
    """
    sources: dict[str, Any] = {}
    modalities: dict[str, Any] = {}
    for name, part in config.modalities.items():
        modalities[name] = part
        for _, problem in part_problems(part):
            raise InvalidArgument(problem)
        for key in part.get("config", ()):
            look_up(dict.fromkeys(config_keys(part["encoder"])), key, f"key of the config of {part['encoder']!r},")
        if part.get("pretrained"):
            sources[name] = source = _published(part["pretrained"], part["encoder"])
            own = {key: value for key, value in source.config.to_diff_dict().items() if key not in _NOT_TAKEN}
            modalities[name] = part | {"config": own | part.get("config", {})}
    config.modalities = modalities
    model = FusedModel(config)
    for name, source in sources.items():
        encoder = cast(TransformersEncoder, model.encoders[name])
        try:
            encoder.model.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise InvalidArgument(
                f"the weights of {config.modalities[name]['pretrained']} do not fit: {error}"
            ) from error
    return model


def load_checkpoint(path: str | Path) -> FusedModel:
    """The model saved in the folder `path` by `save_pretrained`, in evaluation mode; reads local files only.

    Raises:
        CheckpointError: no such folder, not one of ours, or weights that do not fit the configuration.
    """
    path = Path(path)
    config = path / "config.json"
    try:
        kind = json.loads(config.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint ({config.name}: {error}): expected a folder written by `mmedge train`"
        ) from error
    if kind != MmedgeConfig.model_type:
        raise CheckpointError(f"{path} holds a model of type {kind!r}: expected {MmedgeConfig.model_type!r}")
    try:
        found = MmedgeConfig.from_pretrained(path, local_files_only=True)
        found.name_or_path = str(path)  # where the files lie that its preprocessing names
        model = FusedModel(found)
        model.load_state_dict(load_file(path / "model.safetensors"))
    except MmedgeError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be loaded, its files are damaged or of another model: {error}") from error
    model.train(False)
    return model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers draws a bar for each file it reads or writes, and warns of what is meant."""
    shown, verbosity = is_progress_bar_enabled(), get_verbosity()
    disable_progress_bar()  # type: ignore[no-untyped-call]
    set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        set_verbosity(verbosity)
        if shown:
            enable_progress_bar()  # type: ignore[no-untyped-call]


# Of a published configuration: where it comes from, and that its own training masked parts of the samples, which
# transformers assumes of a file that does not say; a recipe's `config` may still ask for it.
_NOT_TAKEN = ("_name_or_path", "apply_spec_augment", "architectures", "dtype", "model_type", "transformers_version")

# Weights that no encoder reads and that published files may lack: what stands in for the masked samples of wav2vec2's
# own training, and how many batches a norm has seen.
_NOT_USED = ("masked_spec_embed", "num_batches_tracked")


def _published(source: str, encoder: str) -> Any:
    architecture = ARCHITECTURES.get(encoder)
    if architecture is None:
        raise InvalidArgument(
            f"encoder {encoder!r} has no published weights; expected one of {', '.join(ARCHITECTURES)}"
        )
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(source)
            if config.model_type != architecture.model_type:
                raise InvalidArgument(
                    f"{source!r} holds a {config.model_type}; encoder {encoder!r} expects a {architecture.model_type}"
                )
            model, report = AutoModel.from_pretrained(
                source, config=config, output_loading_info=True, **architecture.arguments
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidArgument(
            f"encoder {encoder!r}: cannot load {source!r} ({error}); expected a folder with config.json and weights, "
            "or a hub id that can be reached"
        ) from error
    # transformers fills what the file lacks with random numbers.
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(_NOT_USED))
    if missing:
        raise InvalidArgument(
            f"encoder {encoder!r}: the weights in {source!r} lack {len(missing)} of those of a "
            f"{architecture.model_type} ({', '.join(missing[:3])}{', ...' if missing[3:] else ''}); expected a file "
            "that names its weights as save_pretrained of transformers does"
        )
    return model
