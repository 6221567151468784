"""Each script as a notebook, in a Jupyter kernel: cell by cell, and pasted whole."""

import asyncio
import re
import shutil
import subprocess
import sys
import threading
import time

import nbformat
import pytest
from conftest import ROOT, SCRIPTS
from nbclient import NotebookClient
from test_scripts import SHAPES


HELPERS = ["utils.py", "disk.py", "fast.py", "results.py"]


def cells_of(source):
    """The cells of a script, as editors read them from its # %% lines."""
    cells = []
    for part in re.split(r"(?m)^(?=# %%)", source)[1:]:
        title, text = part.split("\n", 1)
        new = nbformat.v4.new_code_cell
        if "[markdown]" in title:
            new, text = nbformat.v4.new_markdown_cell, text.strip().strip('"')
        cells.append(new(text))
    return cells


def interrupt_when(path, client):
    """In the background: what the stop button does, once the file is there."""

    def wait():
        deadline = time.monotonic() + 240
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        asyncio.run(client.km.interrupt_kernel())

    threading.Thread(target=wait, daemon=True).start()


def printed(cell):
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


def shown(cell):
    """Kinds of what the cell shows besides text that it printed."""
    return [
        sorted(out.data) for out in cell.outputs if out.output_type == "display_data"
    ]


@pytest.mark.parametrize("name", SCRIPTS)
def test_cell_by_cell_and_pasted_whole(name, folder, tmp_path):
    for helper in HELPERS:
        shutil.copy(ROOT / helper, tmp_path)
    source = (ROOT / f"{name}.py").read_text("utf-8")
    options = ["--images", folder, "--steps", 3, "--out", "mine", *SHAPES[name][2]]
    code = nbformat.v4.new_code_cell
    last = f"main({[str(option) for option in options]})"
    *cells, end = cells_of(source)
    assert end.source.split() == ["if", "__name__", "==", '"__main__":', "main()"]
    mistake = "main(['--steps', '0'])"
    cells = [*cells, code(last), code(mistake), code(source)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    out = tmp_path / "runs" / name
    interrupt_when(out / "samples" / "step_000001.png", client)
    client.execute()  # raises what a cell raises

    last, mistake, pasted = cells[-3:]
    assert "done at step 3" in printed(last)
    assert (tmp_path / "mine" / "generator.keras").exists()
    assert printed(mistake).count("\n") == 1 and "0 is not from 1" in printed(mistake)
    assert "toy pictures" in printed(pasted) and "stopped at step" in printed(pasted)
    assert (out / "generator.keras").exists()
    for cell in (last, pasted):  # a bar and one sheet, whose newest is left
        assert shown(cell) == [["text/plain"], ["image/png", "text/plain"]]
    bar = next(o for o in last.outputs if o.output_type == "display_data")
    assert "=" * 40 in bar.data["text/plain"] and "step 3/3" in bar.data["text/plain"]


@pytest.mark.parametrize("copied", [0, 1, 3])
@pytest.mark.parametrize("name", SCRIPTS)
def test_without_helpers_the_error_says_what_to_copy(name, copied, tmp_path):
    for file in (f"{name}.py", *HELPERS[:copied]):
        shutil.copy(ROOT / file, tmp_path)
    result = subprocess.run(
        [sys.executable, f"{name}.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "copy utils.py, disk.py, fast.py and results.py beside" in result.stderr
