"""Each script as a notebook, in a Jupyter kernel: cell by cell, and pasted whole."""

import asyncio
import re
import shutil
import threading
import time

import nbformat
import pytest
from conftest import QUICK, ROOT, SCRIPTS
from nbclient import NotebookClient

CODE = nbformat.v4.new_code_cell


def cells_of(source):
    """The code cells of a script, as editors read them from its # %% lines."""
    _, *parts = re.split(r"(?m)^# %%(.*)\n", source)  # title, text, title, text ...
    cells = zip(parts[::2], parts[1::2])
    return [CODE(text) for title, text in cells if "[markdown]" not in title]


def interrupt_when(path, client):
    """In the background: what the stop button does, once the file is there."""

    def wait():
        while not path.exists():
            time.sleep(0.05)
        asyncio.run(client.km.interrupt_kernel())

    threading.Thread(target=wait, daemon=True).start()


def printed(cell):
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_cell_by_cell(name, folder, tmp_path):
    """And the first of them pasted whole, until somebody presses the stop button."""
    shutil.copy(ROOT / "utils.py", tmp_path)
    source = (ROOT / f"{name}.py").read_text("utf-8")
    options = ["--images", folder, "--steps", 2, "--out", "mine", *QUICK[name]]
    *cells, start = cells_of(source)
    assert start.source.split() == ["if", "__name__", "==", '"__main__":', "main()"]
    last = CODE(f"main({[str(option) for option in options]})")
    mistake = CODE("main(['--steps', '0'])")
    pasted = [CODE(source)] * (name == SCRIPTS[0])
    notebook = nbformat.v4.new_notebook(cells=[*cells, last, mistake, *pasted])
    where = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=300, resources=where)
    out = tmp_path / "runs" / name
    if pasted:
        interrupt_when(out / "samples" / "step_0000001.png", client)
    client.execute()  # raises what a cell raises

    assert "2/2" in printed(last) and printed(last).endswith("done\n")
    assert (tmp_path / "mine" / "generator.keras").exists()
    assert printed(mistake).count("\n") == 1 and "0 is not from 1" in printed(mistake)
    for cell in (last, *pasted):  # one sheet, the newest
        kinds = [o for o in cell.outputs if o.output_type == "display_data"]
        assert [sorted(o.data) for o in kinds] == [["image/png", "text/plain"]]
    for cell in pasted:
        assert "toys" in printed(cell) and "stopped" in printed(cell)
        assert (out / "generator.keras").exists()
