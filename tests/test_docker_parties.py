"""Compose and Kubernetes: what each party's containers may do, see and reach."""

import re
from pathlib import Path
from typing import Any

import pytest

from cdtl_core import __version__
from cdtl_core.deploy.link import NODE_FOLDERS
from tests.test_docker import (
    COMPOSE,
    DOCKER,
    FILES,
    HOSPITAL,
    MANIFESTS,
    NODES,
    POD,
    PUBLIC,
    SERVICES,
    SITES,
    STAGES,
    UID,
    instruction,
)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_of_compose_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"][0].startswith("/tmp:")
    assert service["pids_limit"] > 0
    assert service["mem_limit"] == service["memswap_limit"]
    assert not {"privileged", "user", "ports", "cap_add", "pid", "env_file"} & set(service)
    assert service["image"].endswith(f":{__version__}")
    assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DOCKER / "Dockerfile"
    assert service["build"]["target"] in STAGES


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_asked_for_its_health_as_its_image_says(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    own = ["--part", "node"] if name in NODES else []
    assert check["test"] == ["CMD", *instruction(SERVICES[name]["build"]["target"], "HEALTHCHECK"), *own]
    assert check["test"][4] in SERVICES[name]["command"]
    assert check["test"][4].startswith("/state/")


def test_a_site_reaches_only_the_coordinator() -> None:
    assert len(SITES) == 3
    for site in SITES:
        networks = SERVICES[site]["networks"]
        assert len(networks) == 1
        assert COMPOSE["networks"][networks[0]] == {"internal": True}
        assert {name for name, service in SERVICES.items() if networks[0] in service.get("networks", ())} == {
            "coordinator",
            site,
        }
        assert SERVICES[site]["depends_on"] == {"coordinator": {"condition": "service_healthy"}}
    assert SERVICES["coordinator"]["sysctls"] == {"net.ipv4.ip_forward": "0"}


def test_images_of_patients_are_read_only_and_no_party_sees_another_partys_files() -> None:
    sources: list[str] = []
    for name, service in SERVICES.items():
        if name in NODES:
            continue
        mounts = {mount["target"]: mount for mount in service["volumes"]}
        assert set(mounts) == {"/state", "/desk"} | ({"/data"} if name in SITES else set())
        assert mounts["/state"]["type"] == "volume"
        assert mounts["/state"]["source"] in COMPOSE["volumes"]
        binds = [mount for mount in mounts.values() if mount["type"] == "bind"]
        assert all(mount["read_only"] is True and mount["bind"] == {"create_host_path": False} for mount in binds)
        sources += [mount["source"] for mount in mounts.values()]
    assert len(sources) == len(set(sources))


@pytest.mark.parametrize("name", NODES)
def test_a_node_has_no_network_and_of_its_site_only_what_the_code_writes_and_the_link(name: str) -> None:
    service, site = SERVICES[name], name.removesuffix("-node")
    assert service["network_mode"] == "none"
    assert "networks" not in service
    assert service["command"] == ["site", "start", "/state/site", "--part", "node"]
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert mounts.pop("/data") == SERVICES[site]["volumes"][2]
    for place, mount in mounts.items():
        assert (mount["type"], mount["source"]) == ("volume", site)
        assert f"/state/{mount['volume']['subpath']}" == place
    assert mounts.pop("/state/site/link")["read_only"] is True
    assert set(mounts) == {f"/state/site/{folder}" for folder in (*NODE_FOLDERS, "node")}


def test_a_hospitals_node_on_kubernetes_has_no_way_in_or_out_and_no_key() -> None:
    pods = {one["metadata"]["name"]: one["spec"]["template"] for one in HOSPITAL if one["kind"] == "StatefulSet"}
    policies = {one["metadata"]["name"]: one["spec"] for one in HOSPITAL if one["kind"] == "NetworkPolicy"}
    for name, pod in pods.items():
        assert policies[name]["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
        assert policies[name]["policyTypes"] == ["Ingress", "Egress"]
        assert policies[name]["ingress"] == []
        context = pod["spec"]["containers"][0]["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
        assert pod["spec"]["securityContext"]["runAsUser"] == UID
        assert pod["spec"]["automountServiceAccountToken"] is False
    assert policies["node"]["egress"] == []
    mounts = {mount["mountPath"]: mount for mount in pods["node"]["spec"]["containers"][0]["volumeMounts"]}
    kept = {f"/state/site/{folder}" for folder in (*NODE_FOLDERS, "node")}
    assert set(mounts) == kept | {"/state/site/link", "/data", "/tmp"}
    assert mounts["/state/site/link"]["readOnly"] is mounts["/data"]["readOnly"] is True
    assert all(mounts[place]["subPath"] == place.removeprefix("/state/") for place in kept)
    near = pods["node"]["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert near["labelSelector"]["matchLabels"] == pods["filter"]["metadata"]["labels"]


def test_only_the_public_file_opens_a_port_and_only_the_gateways() -> None:
    assert set(PUBLIC["services"]) == {"coordinator"}
    assert PUBLIC["services"]["coordinator"]["ports"] == ["8443:8443"]
    assert not [name for name in PUBLIC["networks"] if name in COMPOSE["networks"]]


@pytest.mark.parametrize("container", POD["initContainers"] + POD["containers"], ids=lambda one: one["name"])
def test_the_pod_is_locked_down(container: dict[str, Any]) -> None:
    pod = POD["securityContext"]
    assert (pod["runAsNonRoot"], pod["runAsUser"], pod["fsGroup"]) == (True, UID, UID)
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["fsGroupChangePolicy"] == "OnRootMismatch"
    assert POD["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/state", "/tmp"}
    assert container["image"] == f"cdtl-coordinator:{__version__}"
    assert "memory" in container["resources"]["limits"]


def test_the_pod_is_one_keeps_its_volume_and_is_probed_over_tls() -> None:
    spec, container = MANIFESTS["StatefulSet"]["spec"], POD["containers"][0]
    assert spec["replicas"] == 1
    claimed = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    given = claimed | {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == given
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "gateway", "scheme": "HTTPS"}


def test_into_the_pod_leads_the_gateways_port_only_and_nothing_leads_out() -> None:
    labels = MANIFESTS["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    policy, service = MANIFESTS["NetworkPolicy"]["spec"], MANIFESTS["Service"]["spec"]
    assert policy["podSelector"]["matchLabels"] == service["selector"] == labels
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"ports": [{"port": 8443, "protocol": "TCP"}]}]
    assert policy["egress"] == []
    assert [port["port"] for port in service["ports"]] == [8443]
    assert POD["containers"][0]["ports"] == [{"name": "gateway", "containerPort": 8443}]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_a_registry_an_index_or_a_secret(path: Path) -> None:
    text = path.read_text()
    hosts = set(re.findall(r"\b(?:[a-z0-9-]+\.)+(?:io|com|org|net|dev|cloud|ai)\b", text))
    assert {host for host in hosts if not host.endswith((".k8s.io", "kubernetes.io", "example.org"))} == set()
    assert not re.search(r"https?://", text)
    assert not re.search(r"(?i)(password|passwd|secret)\s*[:=]\s*\S", text)
