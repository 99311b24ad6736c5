"""What ``deploy/`` holds is true of the product, and the programs that it is for take it."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml

from relay.answers import pages
from relay.config import Timeouts
from relay.reading.configfile import parse_config
from tools.rooms import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEPLOY = ROOT / "deploy"
SERVICE = (DEPLOY / "passthrough.service").read_text()
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
TIMEOUTS = Timeouts()
MANIFESTS = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def setting(name: str, text: str = SERVICE) -> str:
    found = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    assert len(found) == 1, name
    return str(found[0])


def test_the_unit_is_shut_tight() -> None:
    need("systemd-analyze")
    ran = run("systemd-analyze", "security", "--offline=true", "--threshold=20", str(DEPLOY / "passthrough.service"))
    if "Unknown" in ran.stderr or "unrecognized" in ran.stderr:
        pytest.skip("this systemd-analyze cannot look at files")
    assert ran.returncode == 0, ran.stdout
    found = re.search(r"Overall exposure level for passthrough.service: ([\d.]+)", ran.stdout)
    assert found is not None
    assert float(found[1]) < 2.0


def test_systemd_reads_every_line_of_both_units(tmp_path: Path) -> None:
    need("systemd-analyze")
    for name in ("passthrough.service", "passthrough.socket"):
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", (DEPLOY / name).read_text(), flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
    ran = run("systemd-analyze", "verify", *(str(path) for path in tmp_path.iterdir()))
    assert [line for line in ran.stderr.splitlines() if "passthrough" in line] == []


def test_the_unit_waits_for_a_drain_and_gives_up_on_a_bad_file() -> None:
    assert int(setting("TimeoutStopSec")) > TIMEOUTS.drain
    assert setting("RestartPreventExitStatus") == "2"
    assert setting("Type") == "notify"
    assert setting("ExecReload") == "kill -HUP $MAINPID"
    assert setting("KillMode") == "mixed"


def test_the_container_runs_as_nobody_and_copies_all_of_the_product() -> None:
    assert re.search(r"^USER 65534:65534$", CONTAINERFILE, re.MULTILINE)
    assert "slim" in setting("ARG BASE", CONTAINERFILE)
    copied = [
        name for line in re.findall(r"^COPY (?!--)(.+) \S+$", CONTAINERFILE, re.MULTILINE) for name in line.split()
    ]
    assert {"passthrough.py", "router.py", "relay", "pyproject.toml", "README.md", "LICENSE"} == set(copied)
    assert all((ROOT / name).exists() for name in copied)


def test_the_configuration_of_the_cluster_is_served() -> None:
    secrets = MANIFESTS["Secret"]["stringData"]

    def read_file(name: str) -> str:
        folder, _, key = name.rpartition("/")
        assert folder == mounted("keys")
        return str(secrets[key])

    config = parse_config(MANIFESTS["ConfigMap"]["data"]["config.yaml"], "config.yaml", {}, read_file)
    assert config.warnings == ()
    assert [deployment.id for deployment in config.deployments] == ["openai-1", "openai-2"]
    assert config.listener.host == "0.0.0.0"
    assert config.clients[0].digest is not None


def mounted(volume: str) -> str:
    return str({one["name"]: one["mountPath"] for one in CONTAINER["volumeMounts"]}[volume])


def test_the_pod_may_write_only_where_it_has_to() -> None:
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (POD["securityContext"]["runAsNonRoot"], POD["securityContext"]["runAsUser"]) == (True, 65534)
    kinds = {one["name"]: "emptyDir" in one for one in POD["volumes"]}
    writable = {one["mountPath"] for one in CONTAINER["volumeMounts"] if kinds[one["name"]]}
    assert writable == {"/tmp", setting(".* STATE_DIRECTORY", CONTAINERFILE.replace(" PYTHON", "\nPYTHON"))}
    assert {one["name"] for one in CONTAINER["volumeMounts"]} == kinds.keys()


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_probes_ask_pages_that_are_there(probe: str) -> None:
    path = CONTAINER[probe]["httpGet"]["path"].encode()
    assert path == pages.READY_PATH if probe == "readinessProbe" else path in pages.LIVE_PATHS


def test_a_pod_has_time_for_a_drain_and_one_always_serves() -> None:
    assert POD["terminationGracePeriodSeconds"] > TIMEOUTS.drain + int(
        CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1]
    )
    budget: dict[str, Any] = MANIFESTS["PodDisruptionBudget"]["spec"]
    assert budget["minAvailable"] < MANIFESTS["Deployment"]["spec"]["replicas"]
    assert budget["selector"] == MANIFESTS["Deployment"]["spec"]["selector"]


def test_nginx_takes_its_snippet(tmp_path: Path) -> None:
    need("nginx")
    snippet = certified((DEPLOY / "nginx.conf").read_text(), r"/etc/nginx/(\S+)(?=;)", tmp_path)
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off;\n{snippet} }}"
    )
    ran = run("nginx", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"))
    assert ran.returncode == 0, ran.stderr
    assert "warn" not in ran.stderr


def test_haproxy_takes_its_snippet(tmp_path: Path) -> None:
    need("haproxy")
    (tmp_path / "haproxy.cfg").write_text(
        certified((DEPLOY / "haproxy.cfg").read_text(), r"/etc/haproxy/(\S+)", tmp_path)
    )
    ran = run("haproxy", "-c", "-f", str(tmp_path / "haproxy.cfg"))
    assert ran.returncode == 0, ran.stdout + ran.stderr


def certified(text: str, names: str, folder: Path) -> str:
    """The snippet with a certificate that exists, in the places of those that it names."""
    certificate = trustme.CA().issue_cert("openai.example.com")
    for name in re.findall(names, text):
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / name))
    return re.sub(names, lambda found: str(folder / found[1]), text)


@pytest.mark.parametrize(("file", "names"), [("nginx.conf", "proxy_read_timeout"), ("haproxy.cfg", "timeout server")])
def test_whoever_stands_in_front_is_more_patient_than_we(file: str, names: str) -> None:
    found = re.search(rf"{names}\s+(\d+)s", (DEPLOY / file).read_text())
    assert found is not None
    assert int(found[1]) > max(TIMEOUTS.response_head, TIMEOUTS.stream_idle)
