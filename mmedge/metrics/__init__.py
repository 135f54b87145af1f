"""Metrics of every task, defined where they are defined and nowhere else: None, with the reason beside it, is not 0."""

from mmedge.metrics.classification import ClassificationReport, ClassScores, classification_report
from mmedge.metrics.embedding import (
    EmbeddingReport,
    Metric,
    Pairs,
    Retrieval,
    Verification,
    all_pairs,
    cross_retrieval,
    retrieval,
    score_pairs,
    similarity,
    verification,
)
from mmedge.metrics.multi_label import MultiLabelReport, multi_label_report
from mmedge.metrics.region import Box, RegionScores, bounding_box, box_iou, map_iou, region_scores

__all__ = [
    "Box",
    "ClassScores",
    "ClassificationReport",
    "EmbeddingReport",
    "Metric",
    "MultiLabelReport",
    "Pairs",
    "RegionScores",
    "Retrieval",
    "Verification",
    "all_pairs",
    "bounding_box",
    "box_iou",
    "classification_report",
    "cross_retrieval",
    "map_iou",
    "multi_label_report",
    "region_scores",
    "retrieval",
    "score_pairs",
    "similarity",
    "verification",
]
