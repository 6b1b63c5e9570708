"""Classifiers behind a logits interface, and the recipes they were trained by."""

from model_zoo.adapter import LogitsModel
from model_zoo.kmeans import KMeansClassifier
from model_zoo.learned_map import LearnedMapClassifier
from model_zoo.magnet import MagnetClassifier

__all__ = ["KMeansClassifier", "LearnedMapClassifier", "LogitsModel", "MagnetClassifier"]
