"""Which digits, or pieces of clothing, does a generator draw? For docs/results.md.

    python docs/judge.py runs/mnist mnist.npy mnist_labels.npy
    python docs/judge.py runs/fashion fashion_mnist.npy fashion_mnist_labels.npy

A small classifier learns all pictures but the last 10,000 from their labels. It then
judges 1,000 generated pictures, 1,000 real ones that it has not seen, and 1,000 of the
generator before any training.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from utils import load_images, to_uint8  # noqa: E402  (first: it sets Keras up)

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

from sample import load_run, sample_z  # noqa: E402

SURE = 0.9  # the least probability that counts as recognized


def build_judge():
    """Pictures (B, 28, 28, 1) from 0 to 255 to probabilities (B, 10)."""
    return keras.Sequential([
        keras.Input((28, 28, 1)),
        layers.Rescaling(1 / 255),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(10, activation="softmax"),
    ])  # fmt: skip


def main(run, images, labels):
    keras.utils.set_random_seed(0)
    generator, settings = load_run(run)
    images, labels = load_images(images, (28, 28, 1)), np.load(labels)
    judge = build_judge()
    judge.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    judge.fit(images[:-10_000], labels[:-10_000], batch_size=128, epochs=3, verbose=2)
    _, accuracy = judge.evaluate(images[-10_000:], labels[-10_000:], verbose=0)
    print(f"accuracy on 10,000 unseen pictures: {accuracy:.1%}\n")

    z = sample_z(settings["latent"], 1000, generator.input_shape[1], seed=1)
    untrained = keras.models.clone_model(generator)
    print(
        f"of 1,000, recognized with {SURE:.0%} or more: share, and number of each label"
    )

    def draw(network):
        return to_uint8(network.predict(z, verbose=0), settings["value_range"])

    for name, pictures in (
        ("real", images[-1000:]),
        ("generated", draw(generator)),
        ("before training", draw(untrained)),
    ):
        found = judge.predict(pictures, verbose=0)
        sure = found.max(1) >= SURE
        counts = np.bincount(found.argmax(1)[sure], minlength=10)
        print(f"{name:16} {sure.mean():6.1%}  {' '.join(f'{n:4}' for n in counts)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
