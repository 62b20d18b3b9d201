"""The UI as a person sees it: a real browser opens the page of a run, and its stages are there.

COGITO_SCREENSHOT=FILE.png keeps the picture.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import find_chromium, open_page
from command import ROOT

from flows.server import stop_server
from tasks.store.home import Home

GREEN = (34, 158, 75)  # a completed task run in Prefect's run graph

FLOW = """
import time
from flows.prefect_api import ui_address
from flows.server import ensure_server
from tasks.store.home import cogito_home
url = ensure_server(cogito_home())
from prefect import flow, task
from prefect.runtime import flow_run
def stage(name, *inputs):
    time.sleep(0.7)
    return name
@flow(name="experiment", flow_run_name="tiny")
def experiment():
    result = []
    for name in ("data", "pretrain", "row"):
        result = [task(stage, name=name, task_run_name=name)(name, *result)]
    return flow_run.id
run_id = experiment()
print(f"{ui_address(url)}/runs/flow-run/{run_id}")
"""

pytestmark = [pytest.mark.prefect, pytest.mark.chromium]


@pytest.fixture
def run_page(tmp_path: Path) -> Iterator[str]:
    """The address of the page of a finished run with three stages."""
    if not find_chromium():
        pytest.skip("no Chromium with chromedriver on this machine")
    home = Home(tmp_path / "home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "COGITO_"))}
    environment = {**kept, "COGITO_HOME": str(home.root), "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", FLOW], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=150
        )
        assert done.returncode == 0, done.stderr
        yield done.stdout.split()[-1]
    finally:
        stop_server(home)


def count_bar_pixels(picture: Path) -> int:
    """The green pixels of the run graph, without the line of the run's own state at its foot."""
    import numpy as np
    from PIL import Image

    graph = np.asarray(Image.open(picture).convert("RGB").crop((272, 150, 1384, 470))).astype(int)
    return int((abs(graph - np.array(GREEN)).max(axis=-1) <= 12).sum())


def test_the_page_of_a_run_shows_its_stages(run_page: str, tmp_path: Path) -> None:
    picture = Path(os.environ.get("COGITO_SCREENSHOT") or tmp_path / "run.png")
    text = open_page(run_page, ["data", "pretrain", "row", "Completed"], picture, 60, click="Task Runs")
    assert {"tiny", "experiment", "data", "pretrain", "row"} <= set(text.splitlines())
    # The run graph is a canvas, of which no text is in the page: look for its three bars, about 2,600 pixels each.
    assert count_bar_pixels(picture) > 3_000
