"""The four experiments of shoe_gan.py beside the published log, as one figure.

    python docs/curves.py

Needs matplotlib. Dots are the source's means over an epoch of 201 steps, lines ours,
from docs/losses; both are drawn at the step where the epoch ends.
Writes docs/shoe_gan_four_experiments.png.
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
LABELS = "1: input [0, 1]", "2: input [-1, 1]", "3: labels 0.9", "4: and freezing"


def losses(experiment):
    """Steps, and D_loss and G_loss as means over the epoch up to there."""
    file = DOCS / f"losses/shoe_gan_{experiment}.csv"
    rows = np.genfromtxt(file, delimiter=",", names=True)
    return rows["step"], rows["d_loss"], rows["g_loss"]


def main():
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    for (i, published), label in zip(PUBLISHED.items(), LABELS):
        theirs = [((n + 1) * PUBLISHED_STEPS, *both) for n, both in published.items()]
        for columns, style in ((losses(i), "-"), (np.transpose(theirs), "o")):
            steps, d_loss, g_loss = columns
            for axes, values in zip(panels, (d_loss, g_loss, d_loss / g_loss)):
                axes.plot(steps, values, style, color=f"C{i - 1}", markersize=4,
                          label=label if style == "-" else None)  # fmt: skip
    for axes, title in zip(panels, ("D_loss", "G_loss", "D_loss / G_loss")):
        axes.set(title=title, xscale="log", xlabel="steps")
    panels[2].axhline(0.7, color="gray", linewidth=0.5)
    panels[2].legend(fontsize=8)
    figure.savefig(DOCS / "shoe_gan_four_experiments.png", dpi=100)


if __name__ == "__main__":
    main()
