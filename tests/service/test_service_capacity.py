"""What a deployment needs: more of everything where more is asked, and a word on what breaks."""

import json
import math
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from llmemb.cli import build_app
from service.capacity import BUSY, Constants, Workload, cost, plan
from service.live_items import RECENT, RECENT_SHARE

ROOT = Path(__file__).parents[2]
CONSTANTS = Constants.measured()
SMALL = Workload(items=10_000, rps=10, new_items_per_second=0, dim=64)

workloads = st.builds(
    Workload,
    items=st.integers(1, 10**9),
    rps=st.floats(0, 1e6),
    new_items_per_second=st.floats(0, 1e3),
    dim=st.integers(1, 1024),
)


@given(workloads)
def test_every_workload_has_a_plan(workload: Workload) -> None:
    found = plan(workload, CONSTANTS)
    assert found.replicas is None or found.replicas >= 2
    assert found.reload_bytes > found.replica_bytes > 0
    assert min(found.cores, found.gpus, found.redis_bytes, found.network_bits_per_second) >= 0


def test_twice_the_requests_take_twice_the_cores() -> None:
    one, two = (plan(Workload(10_000, rps, 0, 64), CONSTANTS) for rps in (1000, 2000))
    assert two.cores == pytest.approx(2 * one.cores)
    assert two.network_bits_per_second == 2 * one.network_bits_per_second
    each = cost(CONSTANTS.recommend_seconds, 10_000, 64)
    assert one.replicas == math.ceil(1000 * each / BUSY)


def test_indexes_are_built_anew_after_as_many_changes_as_in_the_service() -> None:
    found = plan(Workload(1_000_000, 10, 5, 128), CONSTANTS)
    assert found.rebuild_every_seconds == max(RECENT, RECENT_SHARE * 1_000_000) / 5
    assert plan(SMALL, CONSTANTS).rebuild_every_seconds is None


def test_what_does_not_hold_at_a_size_is_named() -> None:
    assert plan(SMALL, CONSTANTS).limits == {}
    found = plan(Workload(10**9, 1e6, 1000, 128), CONSTANTS)
    assert found.replicas is None
    assert set(found.limits) == {"search", "memory", "changes", "Redis"}
    assert "Milvus" in found.limits["search"]


def test_the_command_tells_people_and_programs() -> None:
    command = ["capacity", "--items", "10000", "--rps", "100"]
    shown = CliRunner().invoke(build_app(), command)
    assert shown.exit_code == 0
    assert "replicas" in shown.stdout
    told = CliRunner().invoke(build_app(), [*command, "--json"])
    assert json.loads(told.stdout)["replicas"] == 2


def test_the_command_refuses_what_is_no_workload() -> None:
    shown = CliRunner().invoke(build_app(), ["capacity", "--items", "0", "--rps", "100"])
    assert shown.exit_code == 2
    assert "--items" in shown.stderr


def test_predictions_are_within_a_fifth_of_what_was_measured() -> None:
    kept = json.loads((ROOT / "benchmarks/results/capacity.json").read_text())
    for where, figures in kept["predictions"].items():
        items, width = (int(part.split()[0].replace(",", "")) for part in where.split(", "))
        for name, one in figures.items():
            constant = getattr(CONSTANTS, name)
            value = constant if isinstance(constant, float) else cost(constant, items, width)
            assert value == pytest.approx(one["predicted"]), "capacity.json is of another run"
            assert value == pytest.approx(one["measured"], rel=0.2), (where, name)


def test_the_page_is_of_these_figures() -> None:
    page = runpy.run_path(str(ROOT / "docs/capacity_page.py"))["page"]()
    assert (ROOT / "docs/capacity.md").read_text() == page, "run `python docs/capacity_page.py`"
