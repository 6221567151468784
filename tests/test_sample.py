"""Pictures from a finished generator: single ones, and walks through latent space."""

import keras
import numpy as np
import pytest
from PIL import Image

import sample


def test_pictures_their_z_and_a_walk(trained):
    """First come those of the training's grid; z.npy has the z of each."""
    sample.main([str(trained), "--count", "30", "--walk"])
    folder = trained / "generated" / "seed_3"
    found = [np.asarray(Image.open(folder / f"{i:05}.png")) for i in range(30)]
    grid = np.asarray(Image.open(trained / "samples" / "step_0000002.png"))
    first = grid.reshape(5, 28, 5, 28).swapaxes(1, 2).reshape(25, 28, 28)
    assert np.abs(np.int16(first) - found[:25]).max() <= 1
    generator = keras.models.load_model(trained / "generator.keras")
    redrawn = generator(np.load(folder / "z.npy")[3:4], training=False)
    assert np.abs(127.5 * (redrawn[0, ..., 0] + 1) - found[3]).max() <= 1
    with Image.open(folder / "walk.gif") as gif:
        assert gif.size == (9 * 28, 9 * 28) and gif.n_frames == 120


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_walks_are_smooth_closed_and_where_z_are(latent):
    z = sample.walk(latent, 120, 9, 100, seed=0)
    steps = np.linalg.norm(np.roll(z, -1, axis=0) - z, axis=2)  # last to first, too
    assert z.shape == (120, 9, 100) and steps.max() < 1.5 * steps.mean()
    assert abs(z.std() - (1 if latent == "normal" else 3**-0.5)) < 0.05
    assert latent == "normal" or np.abs(z).max() < 1
