"""Segmentation metrics of known definition: overlap, surface distances, lesion-wise BraTS scores."""

from rediffinet.metrics.cases import RegionScores, evaluate_case, region_dice
from rediffinet.metrics.lesionwise import LesionScores, lesionwise
from rediffinet.metrics.masks import average_surface_distance, dice, hausdorff, hd95, normalised_surface_dice
from rediffinet.metrics.protocols import PROTOCOLS, Protocol, find_protocol

__all__ = [
    "PROTOCOLS",
    "LesionScores",
    "Protocol",
    "RegionScores",
    "average_surface_distance",
    "dice",
    "evaluate_case",
    "find_protocol",
    "hausdorff",
    "hd95",
    "lesionwise",
    "normalised_surface_dice",
    "region_dice",
]
