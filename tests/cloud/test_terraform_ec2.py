"""terraform/ec2: formatted, valid, its own tests pass, and it makes and removes a machine at the stand-in for AWS."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from clouds import ROOT
from test_ec2_deploy import NOTHING, everything
from test_ec2_killed import BUCKET

from images.build import build

if TYPE_CHECKING:
    from strict_aws.world import World

MODULE = ROOT / "terraform" / "ec2"
PROVIDER = "registry.terraform.io/hashicorp/aws"
Terraform = Callable[..., "subprocess.CompletedProcess[str]"]


def mirror() -> Path:
    """A folder with the provider, as `terraform init -plugin-dir` takes it; skips the test where there is none."""
    named = os.environ.get("CVMBOOT_TERRAFORM_PLUGINS")
    usual = [
        Path.home() / ".terraform.d" / "plugins",
        Path("/usr/local/share/terraform/plugins"),
        *Path("/opt").glob("*"),
    ]
    for folder in [Path(named)] if named else usual:
        if (folder / PROVIDER).is_dir():
            return folder
    pytest.skip("no Terraform provider hashicorp/aws in a local mirror (CVMBOOT_TERRAFORM_PLUGINS names one)")


@pytest.fixture
def terraform(tmp_path: Path, tool: Callable[[str], str]) -> Terraform:
    """Run Terraform in a copy of the folder above the module, never reaching for a registry."""
    program = tool("terraform")
    config = tmp_path / "terraform.rc"
    config.write_text("disable_checkpoint = true\n")
    folder = tmp_path / "terraform"
    shutil.copytree(MODULE.parent, folder)

    def run(*words: str, where: str = "ec2") -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "TF_CLI_CONFIG_FILE": str(config), "TF_IN_AUTOMATION": "1", "TF_INPUT": "0"}
        command = [program, *words, *(["-no-color"] if words[0] != "fmt" else [])]
        return subprocess.run(
            command, cwd=folder / where, env=environment, capture_output=True, text=True, timeout=110, check=False
        )

    return run


def good(ran: "subprocess.CompletedProcess[str]") -> str:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_it_is_formatted(terraform: Terraform) -> None:
    assert good(terraform("fmt", "-check", "-recursive", "-diff")) == ""


@pytest.mark.slow
def test_it_is_valid_and_so_is_its_example(terraform: Terraform) -> None:
    plugins = mirror()
    for where in ("ec2", "ec2/examples/snp"):
        good(terraform("init", "-backend=false", f"-plugin-dir={plugins}", where=where))
        report = json.loads(good(terraform("validate", "-json", where=where)))
        assert report["valid"] and not report["diagnostics"]


@pytest.mark.slow
def test_its_own_tests_pass(terraform: Terraform) -> None:
    good(terraform("init", "-backend=false", f"-plugin-dir={mirror()}"))
    ran = good(terraform("test"))
    assert "0 failed" in ran and int(ran.rpartition("Success! ")[2].partition(" ")[0]) >= 21


ROOT_MODULE = """
terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

provider "aws" {
  region                      = "us-east-2"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}

module "app" {
  source       = "../ec2"
  name         = "app"
  image_file   = "%s"
  bucket       = "%s"
  machine_type = "%s"
  snp          = %s
}

output "confidential" {
  value = module.app.confidential
}

output "image_id" {
  value = module.app.image_id
}
"""


@pytest.fixture
def project(tmp_path: Path, terraform: Terraform, application: Path, world: "World") -> Callable[..., None]:
    """A root module that deploys an image of the application."""
    boto3.client("s3", region_name="us-east-2").create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-east-2"}
    )
    image = tmp_path / "app.vmdk"

    def write(program: Path = application, machine_type: str = "c6a.large", snp: str = "true") -> None:
        build(program, image, size=70 << 20, force=True)
        folder = tmp_path / "terraform" / "project"
        folder.mkdir(exist_ok=True)
        (folder / "main.tf").write_text(ROOT_MODULE % (image, BUCKET, machine_type, snp))

    write()
    good(terraform("init", f"-plugin-dir={mirror()}", where="project"))
    return write


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_apply_makes_a_confidential_machine_replaces_it_and_destroy_leaves_nothing(
    terraform: Terraform, project: Callable[..., None], world: "World"
) -> None:
    good(terraform("apply", "-auto-approve", where="project"))
    outputs = json.loads(good(terraform("output", "-json", where="project")))
    assert outputs["confidential"]["value"] == [True]
    assert [len(things) for things in everything().values()] == [1, 1, 1, 1, 1]
    ec2: Any = boto3.client("ec2", region_name="us-east-2")
    image = ec2.describe_images(Owners=["self"])["Images"][0]
    wanted = {"BootMode": "uefi", "TpmSupport": "v2.0", "ImdsSupport": "v2.0", "EnaSupport": True, "Public": False}
    assert wanted.items() <= image.items() and image["ImageId"] == outputs["image_id"]["value"]
    instance = ec2.describe_instances()["Reservations"][0]["Instances"][0]
    assert instance["CpuOptions"]["AmdSevSnp"] == "enabled" and "PublicIpAddress" not in instance

    again = good(terraform("plan", "-detailed-exitcode", where="project"))
    assert "No changes" in again

    project(ROOT / "samples" / "built" / "everything.efi")
    world.requests.clear()
    good(terraform("apply", "-auto-approve", where="project"))
    operations = [request.operation for request in world.requests]
    assert operations.index("RunInstances") < operations.index("TerminateInstances")
    assert operations.index("RegisterImage") < operations.index("DeregisterImage")
    assert [len(things) for things in everything().values()] == [1, 1, 1, 1, 1]

    good(terraform("destroy", "-auto-approve", where="project"))
    assert everything() == NOTHING


@pytest.mark.slow
def test_a_machine_that_is_not_confidential_though_asked_for_fails_the_apply(
    terraform: Terraform, project: Callable[..., None], world: "World"
) -> None:
    world.without_snp = True
    ran = terraform("apply", "-auto-approve", where="project")
    assert ran.returncode == 1 and "without SEV-SNP" in ran.stderr.replace("\n", " ")


@pytest.mark.slow
def test_bad_input_is_refused_before_anything_is_asked(
    terraform: Terraform, project: Callable[..., None], world: "World"
) -> None:
    project(machine_type="m5.large")
    world.requests.clear()
    ran = terraform("plan", where="project")
    assert ran.returncode == 1 and "SEV-SNP needs a machine_type of m6a, c6a or r6a" in ran.stderr
    assert not [request for request in world.requests if request.operation.startswith(("Run", "Reg", "Imp", "Put"))]
