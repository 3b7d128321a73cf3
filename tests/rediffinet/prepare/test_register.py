"""Rigid registration of a phantom's series: the way they were moved is known."""

from typing import Any

import numpy as np
import pytest

from rediffinet.prepare.register import Fixed, fixed_image, register, similarity

pytest.importorskip("SimpleITK", reason="needs the extra [prepare]")


@pytest.fixture(scope="module")
def fixed(scanned: Any) -> Fixed:
    reference = scanned.images["t1c"]
    return fixed_image(reference.voxels, reference.grid.affine)


@pytest.mark.parametrize("contrast", ["t1n", "t2w", "t2f"])
def test_a_thick_oblique_series_of_another_plane_is_found(scanned: Any, fixed: Fixed, contrast: str) -> None:
    moving = scanned.images[contrast]
    found = register(fixed, moving.voxels, moving.grid.affine)
    brain = np.argwhere(scanned.head.brain)[::97]
    world = brain @ scanned.head.affine[:3, :3].T + scanned.head.affine[:3, 3]
    truth = world @ scanned.moves[contrast][:3, :3].T + scanned.moves[contrast][:3, 3]
    reached = world @ found.to_moving[:3, :3].T + found.to_moving[:3, 3]
    before = np.linalg.norm(truth - world, axis=1).mean()
    after = np.linalg.norm(truth - reached, axis=1).mean()
    assert before > 3
    assert after < 1.2
    assert found.after > found.before
    assert np.allclose(found.to_moving[:3, :3] @ found.to_moving[:3, :3].T, np.eye(3), atol=1e-6)


def test_similarity_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    values = rng.permutation(32 * 500).astype(np.float64)
    assert similarity(values, values) == pytest.approx(2.0, abs=1e-9)
    assert similarity(values, np.exp(-values / 4000)) == pytest.approx(2.0, abs=1e-9)  # any one-to-one relation
    assert similarity(values, rng.permutation(values)) == pytest.approx(1.0, abs=0.02)
    assert similarity(values, np.ones_like(values)) == pytest.approx(1.0)
