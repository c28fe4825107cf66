"""The notebook of the documentation runs from top to bottom, and is kept without what it printed."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from service_process import Serve

ROOT = Path(__file__).parents[2]


def test_the_notebook_runs(
    serve: Serve, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service = serve()
    monkeypatch.setenv("LLMEMB_BUNDLE", str(tiny_bundle))
    monkeypatch.setenv("LLMEMB_URL", str(service.client.base_url))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'clients/python'}", prepend=os.pathsep)
    notebook = nbformat.read(ROOT / "docs/notebook.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    printed, vector, nearest, plot, recommended = (cell.outputs[-1] for cell in cells)
    assert "40 items, vectors of 16 dimensions" in printed.text
    assert vector.data["text/plain"] == "(1, 16)"
    assert nearest.text.count("Film number") == 5
    assert "image/png" in plot.data
    assert recommended.text.count("Film number") == 5
