"""terraform/gce: format, attributes that the provider knows, and variables that Terraform itself refuses.

There is no google provider where this is tested. So the attributes are held against a list written from the documentation
of hashicorp/google 6.36.0, and the variables' rules are run by Terraform in a folder without the resources.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest
from clouds import needs

MODULE = Path(__file__).parents[2] / "terraform" / "gce"
FILES = sorted(MODULE.rglob("*.tf"))
BUFFER: dict[str, Any] = {"content": None, "file_type": None}
KNOWN: dict[str, dict[str, Any]] = {
    "google_storage_bucket": {
        "project": None, "name": None, "location": None, "uniform_bucket_level_access": None,
        "public_access_prevention": None, "force_destroy": None, "labels": None, "storage_class": None,
        "soft_delete_policy": {"retention_duration_seconds": None},
    },
    "google_storage_bucket_object": {
        "bucket": None, "name": None, "source": None, "content": None, "content_type": None, "metadata": None,
    },
    "google_compute_image": {
        "project": None, "name": None, "description": None, "family": None, "labels": None, "disk_size_gb": None,
        "storage_locations": None, "raw_disk": {"source": None, "container_type": None, "sha1": None},
        "guest_os_features": {"type": None},
        "shielded_instance_initial_state": {"pk": BUFFER, "keks": BUFFER, "dbs": BUFFER, "dbxs": BUFFER},
    },
    "google_compute_instance": {
        "project": None, "zone": None, "name": None, "machine_type": None, "min_cpu_platform": None, "labels": None,
        "metadata": None,
        "boot_disk": {
            "auto_delete": None,
            "initialize_params": {"image": None, "size": None, "type": None, "labels": None},
        },
        "network_interface": {
            "network": None, "subnetwork": None, "nic_type": None,
            "access_config": {"nat_ip": None, "network_tier": None},
        },
        "scheduling": {
            "on_host_maintenance": None, "automatic_restart": None, "preemptible": None, "provisioning_model": None,
            "instance_termination_action": None, "max_run_duration": {"seconds": None, "nanos": None},
        },
        "confidential_instance_config": {"confidential_instance_type": None, "enable_confidential_compute": None},
        "shielded_instance_config": {
            "enable_secure_boot": None, "enable_vtpm": None, "enable_integrity_monitoring": None,
        },
        "service_account": {"email": None, "scopes": None},
    },
}  # fmt: skip
"""Arguments of the resources in hashicorp/google 6.36.0; a block has a table of its own."""
META = {"lifecycle", "depends_on", "count", "for_each", "provider", "timeouts"}


def bare(name: str) -> str:
    return name.strip('"')


def load(path: Path) -> dict[str, Any]:
    with path.open() as file:
        plain: dict[str, Any] = hcl2.load(file)
    return plain


def resources() -> dict[str, dict[str, Any]]:
    found = {}
    for block in load(MODULE / "main.tf")["resource"]:
        ((kind, named),) = [(name, value) for name, value in block.items() if not name.startswith("__")]
        ((_, body),) = [(name, value) for name, value in named.items() if not name.startswith("__")]
        found[bare(kind)] = body
    return found


def flatten(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """(name, value) of what a block holds, with what its dynamic blocks hold."""
    found = []
    for name, value in body.items():
        if name.startswith("__"):
            continue
        if name == "dynamic":
            for block in value:
                ((kind, inner),) = [(key, one) for key, one in block.items() if not key.startswith("__")]
                found.append((bare(kind), inner["content"]))
        else:
            found.append((bare(name), value))
    return found


def unknown(body: dict[str, Any], known: dict[str, Any], where: str) -> list[str]:
    wrong = []
    for name, value in flatten(body):
        if name in META:
            continue
        if name not in known:
            wrong.append(f"{where}.{name}")
        elif known[name] is not None:
            for block in value:
                wrong += unknown(block, known[name], f"{where}.{name}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            wrong.append(f"{where}.{name} is no block")
    return wrong


def test_the_module_uses_only_what_the_provider_knows() -> None:
    found = resources()
    assert set(found) == set(KNOWN)
    assert [one for kind, body in found.items() for one in unknown(body, KNOWN[kind], kind)] == []


def test_the_check_finds_a_wrong_attribute_and_a_wrong_block() -> None:
    body = {"name": '"x"', "nme": '"x"', "scheduling": [{"preemptable": True}], "labels": [{"a": 1}]}
    assert unknown(body, KNOWN["google_compute_instance"], "i") == [
        "i.nme",
        "i.scheduling.preemptable",
        "i.labels is no block",
    ]


def test_what_snp_needs_is_in_the_resource() -> None:
    machine = dict(flatten(resources()["google_compute_instance"]))
    (scheduling,) = machine["scheduling"]
    assert (
        '"TERMINATE"' in scheduling["on_host_maintenance"]
        and "var.snp || var.spot" in scheduling["on_host_maintenance"]
    )
    assert '"AMD Milan"' in machine["min_cpu_platform"]
    (confidential,) = machine["confidential_instance_config"]
    assert "confidential_instance_type" in confidential and "enable_confidential_compute" not in confidential
    assert "service_account" not in machine


def test_the_features_are_those_of_the_command_line() -> None:
    from cloud.gce.image import COMMON_FEATURES, UEFI_FEATURES

    (block,) = load(MODULE / "main.tf")["locals"]
    for feature in (*COMMON_FEATURES, *UEFI_FEATURES):
        assert f'"{feature}"' in block["features"]


def test_every_variable_and_output_is_described_and_used() -> None:
    text = (MODULE / "main.tf").read_text() + (MODULE / "outputs.tf").read_text()
    for file, kind in (("variables.tf", "variable"), ("outputs.tf", "output")):
        for block in load(MODULE / file)[kind]:
            ((name, body),) = [(bare(name), value) for name, value in block.items() if not name.startswith("__")]
            assert body["description"]
            assert kind == "output" or f"var.{name}" in text, name


def test_the_example_gives_only_variables_that_are_there() -> None:
    (block,) = load(MODULE / "examples" / "confidential" / "main.tf")["module"]
    given = {bare(name) for name in block['"machine"'] if not name.startswith("__")} - {"source"}
    known = {bare(name) for block in load(MODULE / "variables.tf")["variable"] for name in block}
    assert given <= known


def test_the_format_is_terraforms() -> None:
    command = [needs("terraform"), "fmt", "-check", "-diff", "-recursive", str(MODULE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stdout


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_CLI_CONFIG_FILE": os.devnull}


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's variables alone: Terraform checks them without a provider."""
    folder = tmp_path_factory.mktemp("variables")
    shutil.copy(MODULE / "variables.tf", folder)
    command = [needs("terraform"), "init", "-input=false", "-no-color"]
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


GOOD: dict[str, Any] = {"project": "my-project", "zone": "europe-west4-a", "name": "app", "image_file": "app.tar.gz"}
KEYS = {"pk": "AA==", "keks": ["AA=="], "dbs": ["AA=="]}


def plan(folder: Path, values: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    (folder / "test.tfvars.json").write_text(json.dumps(values))
    command = [needs("terraform"), "plan", "-input=false", "-no-color", "-refresh=false", "-var-file=test.tfvars.json"]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"machine_type": "n2d-highcpu-4", "nic": "VIRTIO_NET", "spot": True, "max_run_seconds": 30},
        {"snp": False, "machine_type": "e2-small", "uefi": False},
        {"secure_boot": True, "secure_boot_keys": KEYS, "max_run_seconds": 10368000},
    ],
)
def test_variables_that_fit(variables: Path, more: dict[str, Any]) -> None:
    done = plan(variables, GOOD | more)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"machine_type": "e2-small"}, "N2D machine types only"),
        ({"machine_type": "n2-standard-2"}, "N2D machine types only"),
        ({"uefi": False}, "SEV-SNP needs UEFI"),
        ({"uefi": False, "snp": False, "secure_boot": True}, "Secure Boot needs UEFI"),
        ({"secure_boot_keys": KEYS | {"keks": []}}, "a KEK and a db"),
        ({"max_run_seconds": 29}, "30 to 10368000 seconds"),
        ({"max_run_seconds": 10368001}, "30 to 10368000 seconds"),
        ({"nic": "virtio"}, "GVNIC or VIRTIO_NET"),
        ({"zone": "europe-west4"}, "such as europe-west4-a"),
        ({"name": "App"}, "lower-case letters"),
        ({"name": "a" * 41}, "at most 40"),
        ({"project": "x"}, "6 to 30"),
        ({"image_file": "disk.raw"}, "disk.raw in a tar.gz"),
        ({"disk_size_gb": 1}, "at least 10"),
        ({"labels": {"Bad": "x"}}, "Labels are lower-case"),
    ],
)
def test_variables_that_do_not_fit_are_refused_by_terraform(
    variables: Path, more: dict[str, Any], message: str
) -> None:
    done = plan(variables, GOOD | more)
    assert done.returncode != 0 and message in " ".join(done.stderr.replace("│", " ").split())
