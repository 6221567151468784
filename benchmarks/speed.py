"""How fast are the scripts, beside what one would use instead? One command:

    python benchmarks/speed.py          # all parts, about half an hour on two cores
    python benchmarks/speed.py steps    # one of steps, growth, keeping, start, loading

steps: the real code of each script, main() with its own fit(), against the classic
Keras loop (classic.py) and against PyTorch (torch_peers.py). Each contender is a
process of its own; they take turns of about two seconds, one working while the others
wait, each round beginning with another. Shown are medians over the rounds, the least
and the most. Nothing is kept meanwhile; what that costs is the part "keeping". PyTorch
is "plain", as in its own DCGAN example, with the better of its two memory layouts, or
"lean": without gradients for the network that is not updated. check.py, run by the
tests, shows that all compute the same.

Utilisation: operations of the convolutions and dense layers (counted from the networks,
a multiplication with its addition being two) per second, as a share of those of the
fastest convolution that either library reaches on this machine.

Everything runs on the CPU. Results go to benchmarks/results/, as Markdown, CSV and a
picture.
"""

import argparse
import csv
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
RESULTS = HERE / "results"
SCRIPTS = {  # shape, real pictures per step
    "shoe_gan": ((64, 64, 3), 64),
    "dcgan_grayscale": ((28, 28, 1), 32),
    "dcgan_pokemon": ((64, 64, 3), 64),
    "dcgan_general": ((150, 150, 3), 32),
    "dcgan256": ((256, 256, 3), 8),
}
# Passes of each network in one step, in batches of real pictures: forward, gradients of
# weights, gradients of inputs without and with those of the first layer.
PASSES = {
    "shoe_gan": ((1, 1, 1, 0), (3, 2, 2, 1)),
    "dcgan_grayscale": ((2, 1, 1, 0), (3, 2, 2, 1)),
    "dcgan_pokemon": ((1, 1, 1, 0), (2, 2, 2, 1)),
    "dcgan_general": ((2, 1, 1, 0), (3, 2, 2, 1)),
    "dcgan256": ((3, 2, 2, 0), (4, 2, 2, 2)),
}
CONTENDERS = {
    "ours": ["ours"],
    "ours, --bfloat16": ["ours-bfloat16"],
    "classic Keras": ["classic"],
    "PyTorch, plain": ["torch", "torch-last"],
    "PyTorch, lean": ["torch-lean-last"],
    "PyTorch, plain, bfloat16": ["torch-bfloat16", "torch-bfloat16-last"],
    "PyTorch, lean, bfloat16": ["torch-bfloat16-lean-last"],
}


class Worker:
    """A contender: a process that takes steps when told to."""

    def __init__(self, contender, script=None, *options):
        command = [sys.executable, HERE / "worker.py", contender]
        command += ["--script", script] if script else []
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*map(str, command), *map(str, options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"a contender failed: {self.log.read().decode()[-2000:]}")
        return json.loads(line)

    def steps(self, n) -> dict:
        """Take n steps; gives seconds, memory and peak (bytes)."""
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def operations(name, batch) -> float:
    """Operations of the convolutions and dense layers in one step of a script."""
    import importlib

    import utils  # noqa: F401, I001  (first: keeps TensorFlow's start quiet)

    import classic

    gan, total = classic.make_gan(importlib.import_module(name)), 0
    for network, (forward, of_weights, inner, whole) in zip(
        (gan.generator, gan.discriminator), PASSES[name]
    ):
        each = []
        for layer in network.layers:
            kind = type(layer).__name__
            if kind in ("Conv2D", "Conv2DTranspose", "Dense"):
                seen = layer.input if kind == "Conv2DTranspose" else layer.output
                places = math.prod(seen.shape[1:-1])
                each.append(2 * batch * places * math.prod(layer.kernel.shape))
        total += sum(each) * (forward + of_weights + inner + whole) - inner * each[0]
    return total


def peaks(rounds=3) -> dict:
    """Operations per second of the fastest convolution, in float32 and bfloat16."""
    found = {"float32": 0.0, "bfloat16": 0.0}
    for _ in range(rounds):
        for precision in found:
            for library in ("keras", "torch"):
                worker = Worker(f"peak-{library}-{precision}")
                found[precision] = max(found[precision], worker.answer()["peak"])
                worker.end()
    return found


def steps(folder, rounds):
    """The rows of the table, one for each script and contender."""
    peak = peaks()
    rows = []
    for name, (shape, batch) in SCRIPTS.items():
        images = folder / f"{name}.npy"
        rng = np.random.default_rng(0)
        np.save(images, rng.integers(0, 256, (32 * batch, *shape), dtype=np.uint8))
        options = ["--images", images, "--batch-size", batch]
        workers, turns = {}, {}
        for kind in (kind for kinds in CONTENDERS.values() for kind in kinds):
            more = []
            if kind.startswith("ours"):
                more = ["--out", folder / f"{name}-{kind}"]
                more += ["--experiment", 3] * (name == "shoe_gan")
                if name == "dcgan256":  # half of its batch is real
                    more += ["--batch-size", 2 * batch]
            workers[kind] = Worker(kind, name, *options, *more)
            workers[kind].answer()
            workers[kind].steps(2)
            seconds = workers[kind].steps(3)["seconds"] / 3
            turns[kind] = max(2, round(2 / seconds))
        times = {kind: [] for kind in workers}
        for i in range(rounds):
            kinds = list(workers)
            for kind in kinds[i % len(kinds) :] + kinds[: i % len(kinds)]:
                n = turns[kind]
                times[kind].append(workers[kind].steps(n)["seconds"] / n)
        memory = {kind: worker.steps(1)["peak"] for kind, worker in workers.items()}
        for worker in workers.values():
            worker.end()
        medians = {kind: statistics.median(t) for kind, t in times.items()}
        work = operations(name, batch)
        for label, kinds in CONTENDERS.items():
            kind = min(kinds, key=medians.get)
            seconds = medians[kind]
            precision = "bfloat16" if "bfloat16" in kind else "float32"
            rows.append({
                "script": name, "contender": label,
                "step_s": round(seconds, 4), "least_s": round(min(times[kind]), 4),
                "most_s": round(max(times[kind]), 4),
                "images_per_s": round(batch / seconds, 1),
                "ours_is_faster": round(seconds / medians["ours"], 2),
                "ours_bfloat16_is_faster": round(seconds / medians["ours-bfloat16"], 2),
                "GFLOP_per_step": round(work / 1e9, 1),
                "utilisation": round(work / seconds / peak[precision], 2),
                "peak_memory_MB": round(memory[kind] / 1e6),
                "layout": kind if kind.startswith("torch") else "",
            })  # fmt: skip
            print(*rows[-1].values(), flush=True)
    title = f"peak: {peak['float32'] / 1e9:.0f} GFLOP/s in float32, " + (
        f"{peak['bfloat16'] / 1e9:.0f} in bfloat16; {rounds} rounds"
    )
    return rows, title


def growth(folder, rounds):
    """Time per step and memory, over pictures, batch, size and number of steps."""
    rows = []

    def measure(what, script, *options):
        worker = Worker(
            "ours", script, "--out", folder / f"growth-{len(rows)}", *options
        )
        worker.answer()
        worker.steps(2)
        n = max(2, round(1.5 / (worker.steps(2)["seconds"] / 2)))
        answers = [worker.steps(n) for _ in range(rounds)]
        worker.end()
        rows.append({
            "script": script, "what": what,
            "step_s": round(statistics.median(a["seconds"] / n for a in answers), 4),
            "peak_memory_MB": round(answers[-1]["peak"] / 1e6),
        })  # fmt: skip
        print(*rows[-1].values(), flush=True)

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pictures = folder / "pictures"
    pictures.mkdir()
    count = 0
    for goal in (200, 2000, 20_000):
        for count in range(count, goal):
            Image.fromarray(np.roll(pixels, count, 1)).save(
                pictures / f"{count:05}.jpg"
            )
        count = goal
        measure(f"{goal:,} pictures of 64×64", "dcgan_pokemon", "--images", pictures)
    for batch in (8, 32, 128):
        measure(f"batch of {batch}", "dcgan_pokemon", "--batch-size", batch)
    for side in (32, 64, 128, 256):
        size = ["--img-size", side, side, 3, "--batch-size", 8]
        measure(f"{side}×{side}, batch of 8", "dcgan_general", *size)

    tiny = ["--img-size", 16, 16, 3, "--depth", 2, "--batch-size", 8]
    worker, before = Worker("kept", "dcgan_general", "--out", folder / "long", *tiny), 1
    worker.answer()
    for taken in (100, 500, 1000, 2000, 3000, 4000, 5000):
        answer, n = worker.steps(taken - before), taken - before
        before = taken
        rows.append({
            "script": "dcgan_general", "what": f"in use after {taken:,} steps of 16×16",
            "step_s": round(answer["seconds"] / n, 4),
            "peak_memory_MB": round(answer["memory"] / 1e6),
        })  # fmt: skip
        print(*rows[-1].values(), flush=True)
    worker.end()
    title = (
        "growth (200 pictures end in a batch of 8; the last rows are the memory in use)"
    )
    return rows, title


def keeping(folder, rounds):
    """What it costs to keep sheets, checkpoints, GIF, plot and generator."""
    code = """
import importlib, json, sys, time
name, out = sys.argv[1:3]
import utils, results
spent = {}
for method in ("save_sheet", "save_checkpoint", "save_results"):
    def timed(self, before=getattr(results.Recorder, method), method=method):
        began = time.perf_counter()
        before(self)
        spent.setdefault(method, []).append(time.perf_counter() - began)
    setattr(results.Recorder, method, timed)
results.Recorder.wants_sheet = lambda self, step: step % 3 == 0
try:
    importlib.import_module(name).main(["--steps", "18", "--out", out])
except SystemExit:
    pass
print(json.dumps(spent))
"""
    every = {  # steps from sheet to sheet, with as many pictures as the source has
        "shoe_gan": math.ceil(12_856 / 64),
        "dcgan_grayscale": 500,
        "dcgan_pokemon": 100 * math.ceil(819 / 64),
        "dcgan_general": 10 * math.ceil(1898 / 32),
        "dcgan256": 1000,
    }
    rows = []
    for name in SCRIPTS:
        out = folder / f"kept-{name}"
        run = subprocess.run(
            [sys.executable, "-c", code, name, out],
            env=os.environ | {"PYTHONPATH": str(HERE.parent)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        spent = json.loads(run.stdout.splitlines()[-1])
        each = {method: statistics.median(times[1:]) for method, times in spent.items()}
        worker = Worker("ours", name, "--out", folder / f"kept-{name}-steps")
        worker.answer()
        worker.steps(2)
        seconds = worker.steps(5)["seconds"] / 5
        worker.end()
        interval = every[name] * seconds
        share = (each["save_sheet"] + each["save_checkpoint"]) / interval
        # The results come after 100 times what they took, at most after ten minutes.
        results = 1 / (1 + min(100, 600 / each["save_results"]))
        rows.append({
            "script": name, "sheet_s": round(each["save_sheet"], 3),
            "checkpoint_s": round(each["save_checkpoint"], 3),
            "results_s": round(each["save_results"], 3),
            "steps_between_sheets": every[name], "step_s": round(seconds, 3),
            "share_percent": round(100 * (share + results), 2),
        })  # fmt: skip
        print(*rows[-1].values(), flush=True)
    return rows, "what keeping results costs at the default cadence"


def start(folder, rounds):
    """From the start of the process to the end of the first step."""
    rows = []
    tensorflow = [sys.executable, "-c", "import tensorflow"]
    code = """
import importlib, sys, time
import utils, results
fit = utils.keras.Model.fit
first = []
class Clock(utils.keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        first.append(time.perf_counter())
    def on_train_batch_end(self, batch, logs=None):
        first.append(time.perf_counter())
def timed(self, *positional, callbacks, **named):
    return fit(self, *positional, callbacks=[Clock(), *callbacks], **named)
utils.keras.Model.fit = timed
before = results.Recorder.on_train_batch_end
def ended(self, batch, logs=None):
    print(first[1] - first[0], time.time(), flush=True)
    import os; os._exit(0)
results.Recorder.on_train_batch_end = ended
name, out, images = sys.argv[1:]
importlib.import_module(name).main(["--out", out, "--images", images])
"""
    for name, (shape, batch) in SCRIPTS.items():
        images = folder / f"start-{name}.npy"
        np.save(images, np.zeros((2 * batch, *shape), np.uint8))
        environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
        imports, traces, totals = [], [], []
        for i in range(rounds):
            began = time.time()
            subprocess.run(tensorflow, capture_output=True, check=True)
            imports.append(time.time() - began)
            began, out = time.time(), folder / f"start-{name}-{i}"
            run = subprocess.run(
                [sys.executable, "-c", code, name, out, images],
                env=environment, capture_output=True, text=True,
            )  # fmt: skip
            traced, ended = map(float, run.stdout.split()[-2:])
            traces.append(traced)
            totals.append(ended - began)
        medians = [statistics.median(t) for t in (totals, imports, traces)]
        rows.append({
            "script": name, "first_step_s": round(medians[0], 2),
            "import_tensorflow_s": round(medians[1], 2),
            "tracing_and_step_s": round(medians[2], 2),
            "rest_s": round(medians[0] - medians[1] - medians[2], 2),
        })  # fmt: skip
        print(*rows[-1].values(), flush=True)
    return rows, f"from process start to the first finished step, {rounds} rounds"


def loading(folder, rounds):
    """2,000 JPEGs of 300×200 to 64×64."""
    import utils  # noqa: F401, I001  (first: keeps TensorFlow's start quiet)

    import disk

    pictures, rng = folder / "jpegs", np.random.default_rng(0)
    pictures.mkdir()
    for i in range(2000):
        noise = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        smooth = Image.fromarray(noise).resize((300, 200), Image.Resampling.BICUBIC)
        smooth.save(pictures / f"{i}.jpg", quality=85)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        images, _ = disk.load_images(pictures, (64, 64, 3))
        seconds.append(time.perf_counter() - began)
    differences = []
    for path, image in zip(disk.find_pictures(pictures)[:200], images):
        with Image.open(path) as picture:
            whole = picture.convert("RGB")  # decoded at its full size
        exact = disk.fit_picture(whole, (64, 64, 3), "pad", (255, 255, 255))
        differences.append(np.abs(exact.astype(int) - image)[11:53].mean())
    difference = statistics.mean(differences)

    row = {
        "what": "2,000 JPEGs of 300×200 to 64×64",
        "pictures_per_s": round(2000 / statistics.median(seconds)),
        "least": round(2000 / max(seconds)), "most": round(2000 / min(seconds)),
        "mean_difference_to_full_decode": round(float(difference), 2),
    }  # fmt: skip
    print(*row.values(), flush=True)
    return [row], f"loading, {rounds} rounds"


def write(part, rows, title):
    """The rows as CSV and Markdown; for the steps also a picture."""
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lines = [f"{title}. {machine()}", ""]
    lines += ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    lines += ["| " + " | ".join(map(str, row.values())) + " |" for row in rows]
    (RESULTS / f"{part}.md").write_text("\n".join(lines) + "\n", "utf-8")
    if part == "steps":
        plot(rows, title)


def plot(rows, title):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes, width = figure.subplots(), 0.8 / len(CONTENDERS)
    for i, label in enumerate(CONTENDERS):
        some = [row for row in rows if row["contender"] == label]
        base = {r["script"]: r["step_s"] for r in rows if r["contender"] == "ours"}
        height = [base[row["script"]] / row["step_s"] for row in some]
        places = np.arange(len(some)) + width * (i - (len(CONTENDERS) - 1) / 2)
        bars = axes.bar(places, height, width, label=label)
        axes.bar_label(bars, [f"{r['images_per_s']:.3g}" for r in some], fontsize=7)
    axes.axhline(1, color="gray", linewidth=0.5)
    axes.set_xticks(range(len(SCRIPTS)), SCRIPTS)
    axes.set(ylabel="speed relative to ours in float32")
    axes.set_title(f"real images per second; {title}", fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(RESULTS / "steps.png", dpi=120)


def machine() -> str:
    import utils

    keras, tf = utils.keras, utils.tf
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            name = line.split(":")[1].strip()
    versions = f"Keras {keras.__version__}, TensorFlow {tf.__version__}"
    try:
        from importlib.metadata import version

        versions += f", PyTorch {version('torch')}"
    except ImportError:
        pass
    return f"{os.cpu_count()} cores, {name}; {versions}, {platform.python_version()}"


PARTS = {part.__name__: part for part in (steps, growth, keeping, start, loading)}


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"{', '.join(unknown)}: the parts are {', '.join(PARTS)}")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    for part in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            write(part, *PARTS[part](Path(folder), args.rounds))


if __name__ == "__main__":
    main()
