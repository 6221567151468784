"""How fast are the scripts, beside what one would use instead? One command:

    python benchmarks/speed.py            # under half an hour on two cores
    python benchmarks/speed.py --quick    # about five minutes

First check.py shows that all contenders take the same step, or stops this. Then each
contender runs in a process of its own, on the CPU, in float32 unless it says bfloat16.
They take turns, one working while the others wait, each round beginning with another.

A table and a picture go to benchmarks/results/, named for the kind of processor; those
of --quick, which has fewer rounds and contenders, have -quick in their names.
"""

import argparse
import importlib.metadata
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import contender
from contender import JPEGS, SCRIPTS

HERE, SPAWN = Path(__file__).parent, multiprocessing.get_context("spawn")
OURS, COMPILED = "ours", "PyTorch compiled"
CONTENDERS = {  # label: kinds for contender.py, the fastest of which counts
    "stock Keras as installed": ["plain-stock"],
    OURS: ["plain"],
    "ours, --fast": ["fast"],
    "classic loop, stock Keras": ["classic-stock"],
    "PyTorch eager": ["torch", "torch-channels_last"],
    "PyTorch eager, lean": ["torch-lean", "torch-lean-channels_last"],
    COMPILED: ["torch-lean-channels_last-compiled"],
}
IN_BFLOAT16 = {
    "ours, --bfloat16": ["bfloat16"],
    "PyTorch lean, bfloat16": ["torch-lean-bfloat16-channels_last"],
}
NOTES = """
- *stock Keras as installed*: the script's own step with no environment variable set.
  On Linux, TensorFlow then uses oneDNN if the processor has one of {}.
  This one, by /proc/cpuinfo, {}.
- *ours*: the script, whose utils.py turns oneDNN on. *--fast*: with fast.py.
- *classic loop*: two compiled models, predict() and train_on_batch(), as in tutorials.
- *eager*: as in PyTorch's own DCGAN example. *lean*: without gradients that nobody
  uses. *compiled*: lean, with torch.compile. Of two memory layouts, the faster one.
- shoe_gan updates D in every step, in all contenders.
- *s/step*, *CPU s* (of all cores): medians of {} rounds. *start*: from the start of the
  process to the end of its first step, once. *speed*: ours is 1.

Loading {:,} JPEGs of 300×200 with utils.load_images() to 64×64: {:,.0f} a second
({:,.0f}–{:,.0f}), {:.2f} s of CPU time.
"""
ONEDNN = "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"
INFO = {"model name": platform.machine(), "flags": ""}  # of the processor
if os.path.exists("/proc/cpuinfo"):
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        INFO[key.strip()] = value.strip()
FLAGS = INFO["flags"].split()


class Worker:
    """A contender: a process that takes steps when told to; ready after its first."""

    def __init__(self, kind, name, folder):
        one_dnn = not kind.endswith("-stock") or any(f in FLAGS for f in ONEDNN)
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(one_dnn))
        self.kind, self.rounds, began = kind, [], time.monotonic()
        self.pipe, end = SPAWN.Pipe()
        args = end, kind.removesuffix("-stock"), name, folder
        self.process = SPAWN.Process(target=contender.main, args=args, daemon=True)
        self.process.start()
        end.close()
        self.pipe.recv()
        self.start = time.monotonic() - began

    def steps(self, n):
        """Take n steps; gives seconds a step: wall time, CPU time."""
        self.pipe.send(n)
        return [seconds / n for seconds in self.pipe.recv()]

    def end(self):
        self.pipe.close()
        self.process.join()
        wall, cpu = zip(*self.rounds)
        self.wall, self.least, self.most = median(wall), min(wall), max(wall)
        self.cpu = median(cpu)
        return self.wall


def measure(name, contenders, folder, rounds, turn):
    """{label: its fastest worker} for a script; a turn lasts some seconds or a step."""
    workers, found = [], {}
    for kind in (kind for kinds in contenders.values() for kind in kinds):
        try:
            workers.append(Worker(kind, name, folder))
        except EOFError:
            if kind not in CONTENDERS[COMPILED]:
                sys.exit(f"{name}, {kind}: failed")
    numbers = {w: max(1, round(turn / w.steps(1)[0])) for w in workers}
    for i in range(rounds):
        shift = i * len(workers) // rounds
        for worker in workers[shift:] + workers[:shift]:
            worker.rounds.append(worker.steps(numbers[worker]))
    for worker in sorted(workers, key=Worker.end, reverse=True):  # the fastest last
        found |= {k: worker for k, kinds in contenders.items() if worker.kind in kinds}
    return found


def rows(name, contenders, found):
    """Lines of a table in Markdown."""
    for label in contenders:
        if label not in found:
            yield f"| {name} | {label} | failed: needs a C++ compiler | | | | | |"
            continue
        w = found[label]
        layout = "channels_last" if "channels_last" in w.kind else "contiguous"
        who = label + f" ({layout})" * w.kind.startswith("torch")
        yield (
            f"| {name} | {who} | {w.wall:.3f} | {w.least:.3f}–{w.most:.3f} "
            f"| {w.cpu:.2f} | {SCRIPTS[name][1] / w.wall:.1f} "
            f"| {found[OURS].wall / w.wall:.2f} | {w.start:.1f} s |"
        )


def draw(results, contenders, file, title):
    """Bars: speed relative to ours, with the least and the most as lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes, width = figure.subplots(), 0.85 / len(contenders)
    for i, label in enumerate(contenders):
        for n, found in enumerate(results.values()):
            if label in found:
                x, w, ours = n + width * i - 0.4, found[label], found[OURS].wall
                text = "_" * n + label  # with _ in front, it is not in the legend
                axes.bar(x, ours / w.wall, width, color=f"C{i}", label=text)
                axes.vlines(x, ours / w.most, ours / w.least, "black", linewidth=0.7)
    axes.axhline(1, color="gray", linewidth=0.5)
    axes.set_xticks(range(len(results)), results)
    axes.set(title=title, ylabel="speed, ours = 1")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def facts():
    """Lines of Markdown: processor, versions, commit."""
    sets = [f for f in FLAGS if f.startswith(("avx", "amx", "fma", "f16c"))]
    packages = "tensorflow", "keras", "torch", "numpy", "pillow", "matplotlib"
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    command = ["git", "-C", HERE, "describe", "--always", "--dirty", "--abbrev=7"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    load = f"load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    yield f"- {INFO['model name']}, {os.cpu_count()} cores ({' '.join(sets)}); {load}"
    yield f"- python {platform.python_version()}, {', '.join(versions)}"
    yield f"- commit {commit}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="about five minutes")
    parser.add_argument("--rounds", type=int, help="default: 5, with --quick 2")
    args = parser.parse_args()
    rounds, turn = args.rounds or (2 if args.quick else 5), 0 if args.quick else 2
    contenders, began = dict(CONTENDERS), time.monotonic()
    if "avx512_bf16" in FLAGS or "amx_bf16" in FLAGS:
        contenders |= IN_BFLOAT16
    if args.quick:
        del contenders[COMPILED]
        contenders = {label: kinds[-1:] for label, kinds in contenders.items()}
    kinds = {"amx_bf16": "amx", "avx512f": "avx512", "avx2": "avx2"}
    kind = next((kinds[f] for f in kinds if f in FLAGS), platform.machine())
    title = f"{kind}, {os.cpu_count()} cores" + ", --quick" * args.quick
    lines = [f"# Speed on {title}", "", *facts(), ""]
    lines += [
        "| script | contender | s/step | range | CPU s | pictures/s | speed | start |",
        "|---|---" + "|---:" * 6 + "|",
    ]

    results = {}
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run([sys.executable, HERE / "check.py", folder]).returncode:
            sys.exit("the contenders do not take the same step: nothing is timed")
        for name in SCRIPTS:
            results[name] = measure(name, contenders, Path(folder), rounds, turn)
            lines += rows(name, contenders, results[name])
            print(*lines[-len(contenders) :], sep="\n", flush=True)
        load = measure("", {"": ["loading"]}, Path(folder), rounds, 0)[""]

    has = "does" if any(f in FLAGS for f in ONEDNN) else "does not"
    speeds = [JPEGS / seconds for seconds in (load.wall, load.most, load.least)]
    lines.append(NOTES.format(", ".join(ONEDNN), has, rounds, JPEGS, *speeds, load.cpu))
    file = HERE / "results" / (kind + "-quick" * args.quick)
    file.with_suffix(".md").write_text("\n".join(lines), "utf-8")
    draw(results, contenders, file.with_suffix(".png"), title)
    minutes = (time.monotonic() - began) / 60
    print(f"{file}.md and .png, after {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
