"""Small cases and settings for the training tests."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def phantoms(labelled_phantoms: Path) -> Path:
    """Folder of four labelled phantoms of four patients."""
    return labelled_phantoms


@pytest.fixture(scope="session")
def cases() -> list:
    """Two made-up training cases of two patients; the first contrast of both is brighter in the tumour."""
    from rediffinet.training.data import TrainingCase

    rng = np.random.default_rng(4)
    made = []
    for patient in (1, 2):
        shape = (24, 30, 20 + patient)
        image = rng.uniform(-0.9, 0.4, (4, *shape))
        regions = np.zeros((3, *shape), bool)
        for region, half in enumerate((7, 5, 3)):
            regions[region, 12 - half : 12 + half, 15 - half : 15 + half, 10 - half : 10 + half] = True
        image[0] += 0.5 * regions[0]
        image[:, :3] = -1.0  # a slab of background
        name = f"BraTS-GLI-0000{patient}-000"
        made.append(TrainingCase(name, name[:-4], image.astype(np.float16), regions))
    return made


@pytest.fixture(scope="session")
def predictions(cases: list) -> list:
    """Out-of-fold probabilities for `cases`, wrong on one side of the tumour."""
    rng = np.random.default_rng(5)
    made = []
    for case in cases:
        inside = np.roll(case.regions, 2, axis=1)
        made.append(np.clip(np.where(inside, 0.9, 0.02) + rng.normal(0, 0.03, inside.shape), 0, 1).astype(np.float16))
    return made
