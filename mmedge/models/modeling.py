"""The fused model: an encoder per modality, a fusion, a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils.generic import ModelOutput

from mmedge.models.configuration import MmedgeConfig, modality_of
from mmedge.models.encoders import Encoder, Encoding, repeated
from mmedge.models.fusion import FUSIONS, VECTOR_FUSIONS, CrossAttentionFusion
from mmedge.models.heads import (
    ClassificationHead,
    EmbeddingHead,
    VqaHead,
    classification_loss,
    contrastive_loss,
    region_loss,
)
from mmedge.models.registry import build_encoder, look_up
from mmedge.runtime.errors import InvalidArgument

# What each head gives, in the order of a graph's outputs; the gate's weights come after them.
HEADS = {"classification": ("logits",), "embedding": ("embedding",), "vqa": ("logits", "relevance")}


@dataclass
class FusedOutput(ModelOutput):
    """loss: a scalar, where labels were given; logits: float32 [B, classes]; embedding: float32 [B, embedding_dim];
    relevance: float32 [B, rows, columns], 0 to 1; modality_weights: float32 [B, M], what the gate listened to.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embedding: Tensor | None = None
    relevance: Tensor | None = None
    modality_weights: Tensor | None = None


class FusedModel(PreTrainedModel):
    """A model of any number of modalities, any of which may be absent from a sample.

    Raises:
        InvalidArgument: the configuration names no modality, an unknown encoder, fusion or head, or parts that do not
            fit each other.
    """

    config: MmedgeConfig
    config_class = MmedgeConfig
    base_model_prefix = "mmedge"
    main_input_name = "presence"
    # The open keywords of forward are tensors; HF's Trainer would put counts of its own among them.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    # Of the loss over classes: a matter of one training run, and no part of the model's configuration.
    label_smoothing = 0.0

    def __init__(self, config: MmedgeConfig) -> None:
        super().__init__(config)
        if not config.modalities:
            raise InvalidArgument("the configuration names no modality: expected at least one under 'modalities'")
        look_up(HEADS, config.head, "head")
        look_up(dict.fromkeys(FUSIONS), config.fusion, "fusion")
        modalities = [modality_of(part["preprocess"]) for part in config.modalities.values()]
        encoders = {name: build_encoder(part) for name, part in config.modalities.items()}
        self.encoders = nn.ModuleDict(encoders)
        self._image = modalities.index("image") if "image" in modalities else -1
        self.fusion = _fusion(list(encoders.values()), modalities, config)
        self.head = _head(list(encoders.values()), self._image, config)
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def output_names(self) -> tuple[str, ...]:
        """The fields of `FusedOutput` that the model fills, but for the loss."""
        return (*HEADS[self.config.head], *(("modality_weights",) if self.config.fusion == "gated" else ()))

    @property
    def region_shape(self) -> tuple[int, int] | None:
        """(rows, columns) of the relevance map; None without one."""
        if not isinstance(self.head, VqaHead):
            return None
        rows, columns = self.head.grid
        return rows * self.head.scale, columns * self.head.scale

    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own start, chosen per layer, instead of one normal distribution for all of them.
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()

    # transformers writes the names of older versions by default, for some architectures only.
    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:  # type: ignore[override]
        super().save_pretrained(save_directory, **{"save_original_format": False, **kwargs})

    def forward(
        self,
        presence: Tensor,
        labels: Tensor | None = None,
        region: Tensor | None = None,
        every_subset: bool = False,
        samples_per_row: Mapping[str, int] | None = None,
        **tensors: Tensor,
    ) -> FusedOutput:
        """One tensor [B, ...shape] by the name of each modality (zeros where it is absent), and presence bool [B, M] in
        the order of the modalities.

        labels: int64 [B], classes or, for embeddings, identities; float32 [B, classes], 0 or 1, for multi-label.
        region: float32 [B, *region_shape], the share of each cell that the mask covers, -1 where there is no mask.
        every_subset: the batch becomes every non-empty subset of the modalities of every sample, so that the loss is
        the mean over them; the encoders run once.
        samples_per_row: by the name of a modality whose tensor has one row for several samples, one after the other,
        how many: the questions about an image are asked of one encoding of it.

        Raises:
            InvalidArgument: a tensor is missing, or one is named like no modality.
        """
        if tensors.keys() != self.encoders.keys():
            raise InvalidArgument(f"tensors for {sorted(tensors)}: expected exactly {list(self.encoders)}")
        shared = samples_per_row or {}
        encodings: list[Encoding] = [
            encoder(tensors[name])._replace(samples=shared.get(name, 1)) for name, encoder in self.encoders.items()
        ]
        if every_subset:
            masks = torch.tensor(list(product([False, True], repeat=len(encodings)))[1:], device=presence.device)
            # bool [subsets, B]: which samples have all of a subset; one index for each of a sample's.
            whole = ~(masks.unsqueeze(1) & ~presence).any(dim=2)
            subset, rows = whole.nonzero(as_tuple=True)
            presence = masks[subset]
            encodings = [_select(encoding, rows // encoding.samples, self._takes_tokens) for encoding in encodings]
            labels = None if labels is None else labels[rows]
            region = None if region is None else region[rows]
        inputs: Sequence[Any] = encodings
        if self.config.fusion != "cross_attention":
            inputs = [repeated(encoding.vector, encoding.samples) for encoding in encodings]
        fused = self.fusion(inputs, presence)
        output = self._answer(fused.vector, encodings, presence, labels, region)
        output.modality_weights = fused.weights
        return output

    @property
    def _takes_tokens(self) -> bool:
        return self.config.fusion == "cross_attention" or self.config.head == "vqa"

    def _answer(
        self,
        vector: Tensor,
        encodings: Sequence[Encoding],
        presence: Tensor,
        labels: Tensor | None,
        region: Tensor | None,
    ) -> FusedOutput:
        config = self.config
        if isinstance(self.head, EmbeddingHead):
            embedding = self.head(vector)
            loss = None if labels is None else contrastive_loss(embedding, labels, config.metric, config.temperature)
            return FusedOutput(loss=loss, embedding=embedding)
        if isinstance(self.head, VqaHead):
            logits, relevance = self.head(vector, encodings[self._image], presence[:, self._image])
            loss = None
            if labels is not None:
                loss = classification_loss(logits, labels, self.label_smoothing)
                loss = loss + classification_loss(self.head.without_map(vector), labels, self.label_smoothing)
            if loss is not None and region is not None:
                known = torch.where(presence[:, self._image, None, None], region, -1.0)
                loss = loss + config.region_weight * region_loss(relevance, known)
            return FusedOutput(loss=loss, logits=logits, relevance=torch.sigmoid(relevance))
        logits = self.head(vector)
        return FusedOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.label_smoothing), logits=logits
        )


def _fusion(encoders: Sequence[Encoder], modalities: Sequence[str], config: MmedgeConfig) -> nn.Module:
    if config.fusion == "cross_attention":
        return CrossAttentionFusion(
            encoders,
            config.fusion_dim,
            asking=modalities.index("text") if "text" in modalities else 0,
            layers=config.fusion_layers,
            heads=config.fusion_heads,
            dropout=config.dropout,
        )
    return VECTOR_FUSIONS[config.fusion]([encoder.features for encoder in encoders], config.fusion_dim)


def _head(encoders: Sequence[Encoder], image: int, config: MmedgeConfig) -> nn.Module:
    if config.multi_label and config.head != "classification":
        raise InvalidArgument(f"multi_label with head {config.head!r}: expected head 'classification'")
    if config.head == "embedding":
        return EmbeddingHead(config.fusion_dim, config.embedding_dim, config.metric, config.dropout)
    if config.head == "classification":
        return ClassificationHead(config.fusion_dim, len(config.labels), config.dropout)
    if image < 0:
        raise InvalidArgument("head 'vqa' points at a place in an image: expected a modality with an image encoder")
    return VqaHead(config.fusion_dim, len(config.labels), encoders[image], config.region_scale, config.dropout)


def _select(encoding: Encoding, rows: Tensor, with_tokens: bool) -> Encoding:
    if not with_tokens:
        return Encoding(encoding.vector[rows], encoding.tokens)
    mask = None if encoding.mask is None else encoding.mask[rows]
    return Encoding(encoding.vector[rows], encoding.tokens[rows], mask, encoding.grid)


AutoConfig.register("mmedge", MmedgeConfig)
AutoModel.register(MmedgeConfig, FusedModel)
