"""The Helm chart, rendered by Helm's own library and checked against Kubernetes' schemas.

Where `helm-python-sdk` and `kubernetes-validate` are not installed it is left out.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
kubernetes = pytest.importorskip(
    "kubernetes_validate", reason="kubernetes-validate is not installed"
)

CHART = Path(__file__).parents[2] / "docker" / "helm" / "llmemb"
OLDEST, NEWEST = "1.28", "1.37"  # of Kubernetes
LEAST: dict[str, Any] = {
    "redis": {"url": "redis://valkey:6379/0"},
    "keys": {"secret": "our-keys"},
    "bundle": {"claim": "our-bundles"},
}
MOST: dict[str, Any] = {
    "image": {"repository": "registry.example.com/llmemb", "tag": "gpu", "pullSecrets": ["ours"]},
    "open": True,
    "redis": {"secret": {"name": "our-redis"}},
    "bundle": {
        "name": "next",
        "pull": {"repository": "shop/bundle", "tokenSecret": {"name": "our-token"}},
    },
    "baseModel": "/bundles/base",
    "modelsClaim": "our-models",
    "settings": {"max_body_bytes": 10485760, "batch_window_ms": 2.5, "traces": False},
    "gpu": {"enabled": True},
    "nodeSelector": {"zone": "a"},
    "tolerations": [{"key": "ours", "operator": "Exists"}],
    "podAnnotations": {"owner": "us"},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "keySecret": {"name": "our-key"}},
}


def rendered(values: dict[str, Any]) -> dict[str, Any]:
    """Return what the chart makes of values: manifests by kind."""
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="shop", namespace="prod")
    manifests = [yaml.safe_load(text) for name, text in files.items() if name.endswith(".yaml")]
    return {one["kind"]: one for one in manifests if one}


def pod(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = rendered(values)["Deployment"]["spec"]["template"]["spec"]
    return found


def environment(values: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod(values)["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_helm_finds_nothing_wrong() -> None:
    found = helm.lint(str(CHART))
    assert found["errors"] == []
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_kubernetes_takes_what_it_makes(values: dict[str, Any], version: str) -> None:
    manifests = rendered(values)
    assert {"Deployment", "Service", "PodDisruptionBudget"} <= manifests.keys()
    for kind, manifest in manifests.items():
        if kind not in ("ScaledObject", "ServiceMonitor"):  # of other projects
            kubernetes.validate(manifest, version, strict=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bundle": {}}, "bundle.claim"),
        ({"bundle": {"claim": "a", "pull": {"repository": "b/c"}}}, "bundle.claim"),
        ({"redis": {}}, "redis.url"),
        ({"keys": {}}, "keys.secret"),
        ({"open": True}, "keys.secret"),
        ({"replicas": "two"}, "replicas"),
        ({"replica": 2}, "replica"),
        ({"settings": {"LLMEMB_THREADS": 2}}, "LLMEMB_THREADS"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmError, match=named):
        rendered(LEAST | change)


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_its_environment_is_settings_of_the_service(values: dict[str, Any]) -> None:
    names = environment(values).keys()
    assert {name.removeprefix("LLMEMB_").lower() for name in names} <= Settings.model_fields.keys()


def test_settings_arrive_as_they_are() -> None:
    found = environment(MOST)
    assert found["LLMEMB_MAX_BODY_BYTES"] == "10485760"
    assert found["LLMEMB_BATCH_WINDOW_MS"] == "2.5"
    assert found["LLMEMB_TRACES"] == "false"


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_nothing_runs_as_root_or_writes_its_image(values: dict[str, Any]) -> None:
    spec = pod(values)
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in spec["containers"] + spec.get("initContainers", []):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
    (mount,) = (one for one in spec["containers"][0]["volumeMounts"] if one["name"] == "bundles")
    assert mount["readOnly"] is True


def test_a_pod_may_take_as_long_to_stop_as_its_service_does() -> None:
    shutdown = {"noticeSeconds": 7, "finishSeconds": 60}
    spec = pod(LEAST | {"shutdown": shutdown})
    (container,) = spec["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert environment(LEAST | {"shutdown": shutdown})["LLMEMB_SHUTDOWN_SECONDS"] == "60"
    assert spec["terminationGracePeriodSeconds"] > 67


def test_a_gpu_is_asked_for_where_there_are_some() -> None:
    (container,) = pod(MOST)["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod(MOST)["nodeSelector"] == {"zone": "a", "nvidia.com/gpu.present": "true"}
    assert [one["key"] for one in pod(MOST)["tolerations"]] == ["ours", "nvidia.com/gpu"]
    assert "nodeSelector" not in pod(LEAST)


def test_the_queue_of_this_release_alone_decides_how_many_run() -> None:
    manifests = rendered(MOST)
    (trigger,) = manifests["ScaledObject"]["spec"]["triggers"]
    service = manifests["Service"]["metadata"]["name"]
    assert trigger["metadata"]["query"] == (
        f'sum(llmemb_waiting_items{{namespace="prod", service="{service}"}})'
    )
    assert "replicas" not in manifests["Deployment"]["spec"]  # else each upgrade would reset it
