"""`nearest-neighbor`: every training image is its own centroid; the nearest image's class is predicted.

Distances are euclidean and the images are used as they are, not augmented: 1-NN in pixel space, whose robustness Wang
et al. (2019, arXiv 1906.03972) and Yang et al. (2020, AISTATS) compute. `images` takes the first so many (0: all). An
image lies on its own centroid, so sigma^2 of ClusTR eq. 3 is 0: the classifier keeps its default, which scales nothing.
The weight file holds every image in float32, four bytes a pixel.
"""

from dataclasses import dataclass

from model_zoo.kmeans import KMeansClassifier
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import TrainingRun


@dataclass(frozen=True)
class Settings:
    images: int = 0


def train(data: TrainingData, settings: Settings, run: TrainingRun) -> KMeansClassifier:
    """Raises ValueError for more images than there are."""
    if settings.images > len(data.x):
        raise ValueError(f"images must be at most the {len(data.x)} training images, got {settings.images}")
    count = settings.images or len(data.x)
    x, y = data.x[:count], data.y[:count]
    absent = sorted(set(range(data.num_classes)) - set(y.tolist()))
    if absent:
        run.notes.append(f"no image of class {', '.join(map(str, absent))}: all its samples are misclassified")
    return KMeansClassifier(x, y, data.num_classes).to(run.device)
