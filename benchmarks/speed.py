"""How fast are the scripts, beside what one would use instead? One command:

    python benchmarks/speed.py            # about 20 minutes on two cores
    python benchmarks/speed.py --quick    # about five minutes

README.md beside this explains the contenders, how they are timed, and the table.
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

from contender import JPEGS, SCRIPTS, main as contender

HERE, SPAWN = Path(__file__).parent, multiprocessing.get_context("spawn")
OURS, COMPILED = "ours", "PyTorch compiled"
CONTENDERS = {  # label: kinds for contender.py, the fastest of which counts
    "stock Keras as installed": ["keras-stock"],
    OURS: ["keras"],
    "ours, --fast": ["keras-fast"],
    "PyTorch eager": ["torch", "torch-channels_last"],
    "PyTorch eager, lean": ["torch-lean", "torch-lean-channels_last"],
    COMPILED: ["torch-lean-channels_last-compiled"],
    "ours, --bfloat16": ["keras-bfloat16"],
    "PyTorch lean, bfloat16": ["torch-lean-bfloat16-channels_last"],
}
HEAD = """
| script | contender | s/step | least–most | CPU s | pictures/s | speed | start |
|---|---|---:|---:|---:|---:|---:|---:|"""
NOTES = """
Medians of {} rounds; [README.md](../README.md) explains the columns. TensorFlow, as
installed, uses oneDNN on Linux if the processor has one of {}:
this one, by /proc/cpuinfo, has {}.

Loading {:,} JPEGs of 300×200 with utils.load_images() to 64×64: {:,.0f} a second
({:,.0f}–{:,.0f}), {:.2f} s of CPU time.
"""
ONEDNN = "avx512_vnni avx512_bf16 avx_vnni amx_tile amx_int8 amx_bf16"
INFO = {"model name": platform.machine(), "flags": ""}  # of the processor
if os.path.exists("/proc/cpuinfo"):
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        INFO[line.split("\t")[0]] = line.partition(": ")[2]
FLAGS = INFO["flags"].split()
STOCK = " ".join(flag for flag in ONEDNN.split() if flag in FLAGS) or "none"


class Worker:
    """A contender: a process that takes steps when told to; ready after its first."""

    def __init__(self, kind, name, folder):
        one_dnn = "stock" not in kind or STOCK != "none"
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "01"[one_dnn]
        self.kind, self.rounds, began = kind, [], time.monotonic()
        self.pipe, end = SPAWN.Pipe()
        args = end, kind, name, folder
        self.process = SPAWN.Process(target=contender, args=args, daemon=True)
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
        cells = ["needs a C++ compiler", *[""] * 5]
        if label in found:
            w, speed = found[label], f"{found[OURS].wall / found[label].wall:.2f}"
            cells = f"{w.wall:.3f}", f"{w.least:.3f}–{w.most:.3f}", f"{w.cpu:.2f}"
            cells += f"{SCRIPTS[name][1] / w.wall:.1f}", speed, f"{w.start:.1f} s"
            label += ", channels_last" * ("channels_last" in w.kind)
        yield f"| {name} | {label} | {' | '.join(cells)} |"


def draw(results, contenders, file, title):
    """Bars: speed relative to ours. (A label with _ in front is not in the legend.)"""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes, width = figure.subplots(), 0.85 / len(contenders)
    for i, label in enumerate(contenders):
        for n, found in enumerate(results.values()):
            if label in found:
                x, w, ours = n + width * i - 0.37, found[label], found[OURS].wall
                axes.bar(x, ours / w.wall, width, color=f"C{i}", label="_" * n + label)
                axes.vlines(x, ours / w.most, ours / w.least, "black", linewidth=0.7)
    axes.axhline(1, color="gray", linewidth=0.5)
    axes.set_xticks(range(len(results)), results)
    axes.set(title=title, ylabel="speed, ours = 1")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
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
    yield f"- python {platform.python_version()}, {', '.join(versions)}; git {commit}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="about five minutes")
    parser.add_argument("--rounds", type=int, help="default: 5, with --quick 2")
    args = parser.parse_args()
    rounds, turn = args.rounds or (2 if args.quick else 5), 0 if args.quick else 2
    names = ["shoe_gan", "dcgan256"] if args.quick else [*SCRIPTS]
    began, contenders, results = time.monotonic(), CONTENDERS, {}
    if not {"avx512_bf16", "amx_bf16"} & {*FLAGS}:
        contenders = {k: v for k, v in contenders.items() if "bfloat16" not in k}
    if args.quick:
        contenders = {k: v[-1:] for k, v in contenders.items() if k != COMPILED}
    kinds = {"amx_bf16": "amx", "avx512f": "avx512", "avx2": "avx2"}
    kind = next((kinds[f] for f in kinds if f in FLAGS), platform.machine())
    title = f"{kind}, {os.cpu_count()} cores" + ", --quick" * args.quick
    lines = [f"# Speed on {title}", "", *facts(), HEAD]

    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with tempfile.TemporaryDirectory() as folder:
        check = [sys.executable, HERE / "check.py", folder, *names]
        if subprocess.run(check).returncode:
            sys.exit("the contenders do not take the same step: nothing is timed")
        for name in names:
            results[name] = measure(name, contenders, Path(folder), rounds, turn)
            lines += rows(name, contenders, results[name])
            print(*lines[-len(contenders) :], sep="\n", flush=True)
        load = measure("", {"": ["loading"]}, Path(folder), rounds, 0)[""]

    speeds = [JPEGS / seconds for seconds in (load.wall, load.most, load.least)]
    lines.append(NOTES.format(rounds, ONEDNN, STOCK, JPEGS, *speeds, load.cpu))
    file = HERE / "results" / (kind + "-quick" * args.quick)
    file.with_suffix(".md").write_text("\n".join(lines), "utf-8")
    draw(results, contenders, file.with_suffix(".png"), title)
    print(f"{file}.md and .png, after {(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
