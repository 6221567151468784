"""Two figures of losses: shoe_gan.py's four experiments, and dcgan256.py's two tricks.

    python docs/curves.py

Needs matplotlib. Lines are means over an epoch, from docs/losses, thin ones of seed 1;
dots the source's published ones of shoe_gan, at the step where the epoch ends.
Writes docs/shoe_gan_four_experiments.png and docs/dcgan256_tricks.png.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

PUBLISHED_STEPS = 201  # of an epoch
PUBLISHED = {  # experiment: epoch: D_loss, G_loss
    1: {0: (0.7299, 9.6187), 1: (0.6525, 4.6417), 5: (0.8236, 2.9504),
        10: (0.7839, 2.7777), 20: (0.8016, 2.8124), 49: (0.1631, 4.1612)},
    2: {0: (0.6816, 7.9651), 1: (0.6159, 4.5294), 2: (0.6613, 3.7914),
        3: (0.7398, 3.5096), 5: (0.8839, 2.7698), 10: (0.8290, 2.6087),
        20: (0.6433, 2.9199), 50: (0.1622, 4.1738)},
    3: {0: (0.8236, 6.1953), 1: (0.8170, 3.3177), 2: (0.8356, 3.0205),
        3: (0.9164, 2.7835), 5: (0.9868, 2.4790), 10: (0.9746, 2.2478),
        20: (0.8519, 2.4226), 50: (0.4665, 3.5753), 93: (0.4080, 4.1224)},
    4: {0: (2.6587, 3.7985), 1: (1.4630, 2.0864), 2: (1.3480, 1.9260),
        3: (1.2126, 1.7286), 4: (1.2028, 1.7121), 5: (1.2490, 1.7747),
        10: (1.2203, 1.7411), 20: (1.1725, 1.6754), 40: (1.1351, 1.6203),
        400: (1.0718, 1.5325), 499: (1.1009, 1.5723)},
}  # fmt: skip
DOCS = Path(__file__).parent
EXPERIMENTS = "1: input [0, 1]", "2: input [-1, 1]", "3: labels 0.9", "4: freezing"
TRICKS = {  # the end of the file's name: color, label
    "": ("C0", "as in the source"), "_seed_1": ("C0", None),
    "_labels": ("C1", "labels not flipped"),
    "_noise": ("C2", "no instance noise"), "_noise_seed_1": ("C2", None),
    "_neither": ("C3", "neither"),
}  # fmt: skip


def losses(name):
    """The columns of a losses.csv in docs/losses."""
    return np.genfromtxt(DOCS / f"losses/{name}.csv", delimiter=",", names=True)


def plot(panels, steps, values, style="-", **line):
    for axes, column in zip(panels, values):
        axes.plot(steps, column, style, markersize=4, **line)


def save(file, titles, lines, **settings):
    """A figure with a panel for each title; lines(panels) draws in them."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    lines(panels)
    for axes, title in zip(panels, titles):
        axes.set(title=title, xlabel="steps", **settings)
    panels[2].legend(fontsize=8)
    figure.savefig(DOCS / file, dpi=100)


def experiments(panels):
    for (i, published), label in zip(PUBLISHED.items(), EXPERIMENTS):
        theirs = [((n + 1) * PUBLISHED_STEPS, *both) for n, both in published.items()]
        steps, d_loss, g_loss = np.transpose(theirs)
        color = f"C{i - 1}"
        for file in sorted(DOCS.glob(f"losses/shoe_gan_{i}*.csv")):
            ours, second = losses(file.stem), "seed" in file.stem
            line = ours["d_loss"], ours["g_loss"], ours["d_loss"] / ours["g_loss"]
            style = {"linewidth": 0.7} if second else {"label": label}
            plot(panels, ours["step"], line, color=color, **style)
        plot(panels, steps, (d_loss, g_loss, d_loss / g_loss), "o", color=color)
    panels[2].axhline(0.7, color="gray", linewidth=0.5)


def tricks(panels):
    for name, (color, label) in TRICKS.items():
        rows = losses(f"dcgan256{name}")[:6]  # 3,000 steps
        line = {"color": color, "linewidth": 1.5 if label else 0.7}
        values = rows["d_loss"], rows["g_loss"], rows["d_real"]
        plot(panels, rows["step"], values, label=label, **line)
        plot(panels[2:], rows["step"], [rows["d_fake"]], "--", **line)


def main():
    titles = "D_loss", "G_loss", "D_loss / G_loss"
    save("shoe_gan_four_experiments.png", titles, experiments, xscale="log")
    titles = "D_loss", "G_loss", "D's P(real) for real, and fakes (dashed)"
    save("dcgan256_tricks.png", titles, tricks)


if __name__ == "__main__":
    main()
