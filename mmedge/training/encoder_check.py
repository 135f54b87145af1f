"""What a recipe says about an encoder, checked before there are data, a tokenizer or weights."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from mmedge.runtime.errors import InvalidArgument


def encoder_problems(part: Mapping[str, Any], common: Sequence[str]) -> list[tuple[tuple[str, ...], str]]:
    """Where in a modality's part of a recipe, and what; `common` are the keys that are not the encoder's."""
    # A search asks about the same part for each value of another key.
    return list(_problems(json.dumps(part, default=str), tuple(common)))


@lru_cache(maxsize=16)
def _problems(described: str, common: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], str], ...]:
    part = json.loads(described)
    try:
        return tuple(_unknown_keys(part, common)) or tuple(_impossible(part))
    except InvalidArgument as error:
        return ((("encoder",), str(error)),)


def _unknown_keys(part: Mapping[str, Any], common: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    from mmedge.models.registry import config_keys, encoder_options

    encoder = part["encoder"]
    options = encoder_options(encoder)
    for key in sorted(part.keys() - {*options, *common}):
        yield (key,), _unknown(key, [*options, *common], f"encoder {encoder} has {', '.join(options)}")
    config, known = part.get("config"), config_keys(encoder)
    for key in config if isinstance(config, dict) and known else ():
        if key not in known:
            yield ("config", key), _unknown(key, known, f"the configuration of {encoder} has {', '.join(known)}")


def _unknown(key: str, known: Sequence[str], those: str) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; {those}"


def _impossible(part: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    from mmedge.models.options import part_problems
    from mmedge.models.registry import check_encoder, encoder_options

    options = encoder_options(part["encoder"])
    part = {key: value for key, value in part.items() if key in (*options, "encoder", "pretrained", "preprocess")}
    alone = [((key,), problem) for key, problem in part_problems(part)]
    yield from alone
    if alone or part.get("pretrained") is not None:  # with published weights comes most of the configuration
        return
    try:
        check_encoder(part)
    except InvalidArgument as error:
        yield (("config",) if "config" in part else ()), str(error)
