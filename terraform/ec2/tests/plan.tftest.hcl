# terraform test: what is planned of good input, and that bad input is refused, without an account.

mock_provider "aws" {
  mock_data "aws_ec2_instance_type_offerings" {
    defaults = {
      locations = ["us-east-2b", "us-east-2a"]
    }
  }

  mock_data "aws_subnets" {
    defaults = {
      ids = ["subnet-0123456789abcdef2", "subnet-0123456789abcdef1"]
    }
  }
}

variables {
  name       = "app"
  image_file = "tests/app.vmdk"
  bucket     = "my-bucket"
}

run "confidential_by_default" {
  command = plan

  assert {
    condition     = aws_instance.machine[0].cpu_options[0].amd_sev_snp == "enabled"
    error_message = "SEV-SNP is not asked for"
  }
  assert {
    condition     = aws_instance.machine[0].instance_type == "c6a.large"
    error_message = "machine type"
  }
  assert {
    condition     = aws_instance.machine[0].associate_public_ip_address == false
    error_message = "a public address nobody asked for"
  }
  assert {
    condition     = aws_instance.machine[0].metadata_options[0].http_tokens == "required"
    error_message = "IMDSv1 is open"
  }
  assert {
    condition     = aws_instance.machine[0].instance_initiated_shutdown_behavior == "terminate"
    error_message = "a guest that ends goes on costing"
  }
  assert {
    condition     = aws_ami.image[0].boot_mode == "uefi" && aws_ami.image[0].tpm_support == "v2.0" && aws_ami.image[0].imds_support == "v2.0"
    error_message = "firmware"
  }
  assert {
    condition     = aws_ami.image[0].ena_support && aws_ami.image[0].architecture == "x86_64"
    error_message = "hardware"
  }
  assert {
    condition     = aws_ami.image[0].name == "app-${substr(filesha256("tests/app.vmdk"), 0, 12)}"
    error_message = "two images of one name cannot stand side by side"
  }
  assert {
    condition     = aws_ebs_snapshot_import.image[0].disk_container[0].format == "VMDK"
    error_message = "format"
  }
  assert {
    condition     = output.image_file_sha256 == filesha256("tests/app.vmdk")
    error_message = "digest"
  }
}

run "plain_machine" {
  command = plan
  variables {
    snp          = false
    machine_type = "t3.micro"
    public_ip    = true
  }

  assert {
    condition     = aws_instance.machine[0].instance_type == "t3.micro" && aws_instance.machine[0].associate_public_ip_address
    error_message = "options are not passed on"
  }
}

run "unikernel_by_bios" {
  command = plan
  variables {
    snp       = false
    boot_mode = "legacy-bios"
  }

  assert {
    condition     = aws_ami.image[0].boot_mode == "legacy-bios" && aws_ami.image[0].tpm_support == null
    error_message = "a TPM needs UEFI"
  }
}

run "no_public_address_in_the_default_vpc_either" {
  command = plan

  assert {
    condition     = aws_instance.machine[0].subnet_id == "subnet-0123456789abcdef1"
    error_message = "without a subnet the provider leaves the public address to the VPC"
  }
}

run "a_given_subnet_is_taken" {
  command = plan
  variables {
    subnet_id = "subnet-0123456789abcdef9"
  }

  assert {
    condition     = aws_instance.machine[0].subnet_id == "subnet-0123456789abcdef9"
    error_message = "subnet"
  }
}

run "refuses_a_type_that_no_default_subnet_offers" {
  command = plan
  override_data {
    target = data.aws_subnets.default
    values = {
      ids = []
    }
  }
  expect_failures = [aws_instance.machine]
}

run "image_that_is_there" {
  command = plan
  variables {
    image_file = null
    bucket     = null
    image_id   = "ami-0123456789abcdef0"
  }

  assert {
    condition     = length(aws_ami.image) == 0 && aws_instance.machine[0].ami == "ami-0123456789abcdef0"
    error_message = "an image is made though one is given"
  }
}

run "image_only" {
  command = plan
  variables {
    instances = 0
  }

  assert {
    condition     = length(aws_instance.machine) == 0 && length(aws_ami.image) == 1
    error_message = "a machine nobody asked for"
  }
}

run "refuses_snp_on_other_families" {
  command = plan
  variables {
    machine_type = "m5.large"
  }
  expect_failures = [var.snp]
}

run "refuses_snp_on_a_newer_family" {
  command = plan
  variables {
    machine_type = "m7a.large"
  }
  expect_failures = [var.snp]
}

run "refuses_snp_by_bios" {
  command = plan
  variables {
    boot_mode = "legacy-bios"
  }
  expect_failures = [var.snp]
}

run "refuses_arm" {
  command = plan
  variables {
    snp          = false
    machine_type = "m6g.large"
  }
  expect_failures = [var.machine_type]
}

run "refuses_a_name_that_is_none" {
  command = plan
  variables {
    name = "My App"
  }
  expect_failures = [var.name]
}

run "refuses_file_and_image" {
  command = plan
  variables {
    image_id = "ami-0123456789abcdef0"
  }
  expect_failures = [var.image_file]
}

run "refuses_a_file_without_a_bucket" {
  command = plan
  variables {
    bucket = null
  }
  expect_failures = [var.bucket]
}

run "refuses_a_file_that_aws_does_not_import" {
  command = plan
  variables {
    image_file = "tests/app.qcow2"
  }
  expect_failures = [var.image_file]
}

run "refuses_a_key_without_encryption" {
  command = plan
  variables {
    kms_key_id = "alias/mine"
  }
  expect_failures = [var.kms_key_id]
}

run "refuses_uefi_data_that_is_none" {
  command = plan
  variables {
    uefi_data = "bm9uZQ=="
  }
  expect_failures = [var.uefi_data]
}

run "refuses_an_unknown_boot_mode" {
  command = plan
  variables {
    snp       = false
    boot_mode = "bios"
  }
  expect_failures = [var.boot_mode]
}

run "refuses_another_shutdown_behaviour" {
  command = plan
  variables {
    on_shutdown = "hibernate"
  }
  expect_failures = [var.on_shutdown]
}

run "notices_a_machine_that_is_not_confidential" {
  command = apply

  override_resource {
    target = aws_instance.machine
    values = {
      cpu_options = [{ amd_sev_snp = "disabled", core_count = 1, threads_per_core = 2 }]
    }
  }
  variables {
    snp = false
  }

  assert {
    condition     = !output.confidential[0]
    error_message = "a machine is called confidential that is not"
  }
}
