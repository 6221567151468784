"""Pictures from a finished generator: single ones, and walks through latent space."""

import numpy as np
import pytest
from PIL import Image
from test_scripts import SMALL

import dcgan_grayscale
import results


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    dcgan_grayscale.main([*SMALL, "--steps", "2", "--out", str(out)])
    return out


def generate(out, *options):
    dcgan_grayscale.main(["--out", str(out), *options])
    folder = max((out / "generated").iterdir(), key=lambda path: path.stat().st_mtime)
    paths = sorted(folder.glob("[0-9]*.png"))
    return (
        folder,
        [path.name for path in paths],
        [np.asarray(Image.open(p)) for p in paths],
    )


def test_first_come_the_pictures_of_the_sheets(trained):
    folder, names, pictures = generate(trained, "--generate", "70")
    assert names == [f"{i:04}.png" for i in range(70)]
    with Image.open(trained / "samples" / "step_000002.png") as sheet:
        sheet = np.asarray(sheet).reshape(8, 8, 8, 8).swapaxes(1, 2).reshape(64, 8, 8)
    assert np.abs(np.int16(sheet) - pictures[:64]).max() <= 1
    assert len({picture.tobytes() for picture in pictures}) == 70
    with Image.open(folder / "sheet.png") as shown:
        assert shown.size == (9 * 8, 8 * 8)


def test_the_seed_decides_and_the_number_does_not(trained):
    _, _, some = generate(trained, "--generate", "3", "--seed", "5")
    _, _, more = generate(trained, "--generate", "66", "--seed", "5")
    folder, _, others = generate(trained, "--generate", "3", "--seed", "6")
    assert folder.name == "seed_6"
    assert np.array_equal(some, more[:3]) and not np.array_equal(some, others)


def test_a_walk_alone(trained):
    generate(trained, "--generate", "5", "--seed", "7")
    generate(trained, "--generate", "3", "--seed", "7")
    folder, names, _ = generate(trained, "--walk", "--seed", "7")
    assert names == ["0000.png", "0001.png", "0002.png"], "of the call before"
    with Image.open(folder / "walk.gif") as gif:
        assert gif.size == (32, 32) and gif.info["loop"] == 0


def test_a_generator_without_our_code_or_a_damaged_one(trained, tmp_path, capsys):
    for make in (lambda path: None, lambda path: path.write_bytes(b"no")):
        make(tmp_path / "generator.keras")
        with pytest.raises(SystemExit) as stop:
            generate(tmp_path, "--generate", "1")
        errors = capsys.readouterr().err
        assert stop.value.code == 2 and errors.count("\n") == 1
    assert "cannot be read" in errors


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_walks_are_smooth_closed_and_where_z_are(latent):
    z = results.walk(latent, walks=3, frames=120, latent_dim=100, seed=0)
    assert z.shape == (120, 3, 100) and z.dtype == np.float32
    steps = np.linalg.norm(np.roll(z, -1, axis=0) - z, axis=2)  # last to first, too
    assert steps.max() < 2.5 * steps.mean()
    turns = np.linalg.norm(np.roll(z, -2, 0) - 2 * np.roll(z, -1, 0) + z, axis=2)
    assert turns.max() < 0.3 * steps.mean()
    assert steps.sum(0).min() > 4 * np.linalg.norm(z, axis=2).mean(), "it goes far"
    if latent == "normal":
        assert np.allclose(np.linalg.norm(z, axis=2), 10, rtol=1e-4)
    else:
        assert np.abs(z).max() < 1 and abs(z.std() - 3**-0.5) < 0.05
    again = results.walk(latent, walks=3, frames=120, latent_dim=100, seed=0)
    assert np.array_equal(z, again)


def test_latent_vectors_of_files_are_those_of_training(script):
    """The facts that a script leaves in settings.json fit its own sample_z."""
    from test_networks import make_gan

    gan, source = make_gan(script), open(script.__file__, encoding="utf-8").read()
    latent = "uniform" if 'latent="uniform"' in source else "normal"
    z = np.asarray(gan.sample_z(5, seed=3))
    assert np.array_equal(z, results.sample_latent(latent, *z.shape, seed=3))
