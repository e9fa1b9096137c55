# From a disk image to running machines: object, snapshot, AMI, instances. A new image replaces the old one only when it is there.

locals {
  imports = var.image_file == null ? 0 : 1
  digest  = var.image_file == null ? "" : filesha256(var.image_file)
  version = substr(local.digest, 0, 12)
  format  = var.image_file == null ? "" : upper(regex("[^.]+$", var.image_file))
  tags    = merge({ Name = var.name }, var.tags)

  choose_subnet = var.subnet_id == null && var.instances > 0 ? 1 : 0
}

resource "aws_s3_object" "image" {
  count = local.imports

  bucket                 = var.bucket
  key                    = "cvmboot/${var.name}-${local.version}.${lower(local.format)}"
  source                 = var.image_file
  source_hash            = local.digest
  checksum_algorithm     = "SHA256"
  server_side_encryption = "AES256"
  tags                   = local.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_ebs_snapshot_import" "image" {
  count = local.imports

  # No description: AWS writes one of its own onto the snapshot, and the next plan would see a difference.
  role_name  = var.import_role
  encrypted  = var.encrypted
  kms_key_id = var.kms_key_id
  tags       = local.tags

  disk_container {
    format = local.format

    user_bucket {
      s3_bucket = var.bucket
      s3_key    = aws_s3_object.image[0].key
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_ami" "image" {
  count = local.imports

  # Names are unique in an account: the digest lets the new image stand beside the old one until that is gone.
  name                = "${var.name}-${local.version}"
  description         = "${var.name}, image SHA-256 ${local.digest}"
  architecture        = "x86_64"
  virtualization_type = "hvm"
  root_device_name    = "/dev/xvda"
  ena_support         = true
  sriov_net_support   = "simple"
  boot_mode           = var.boot_mode
  imds_support        = "v2.0"
  tpm_support         = var.tpm && var.boot_mode == "uefi" ? "v2.0" : null
  uefi_data           = var.uefi_data
  tags                = local.tags

  ebs_block_device {
    device_name           = "/dev/xvda"
    snapshot_id           = aws_ebs_snapshot_import.image[0].id
    volume_type           = "gp3"
    delete_on_termination = true
  }

  lifecycle {
    create_before_destroy = true
  }
}

# Without a subnet the provider sends no word about public addresses, and the default VPC then gives one: a subnet is chosen here.
data "aws_ec2_instance_type_offerings" "zones" {
  count = local.choose_subnet

  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = [var.machine_type]
  }
}

data "aws_subnets" "default" {
  count = local.choose_subnet

  filter {
    name   = "default-for-az"
    values = ["true"]
  }

  filter {
    name   = "availability-zone"
    values = sort(data.aws_ec2_instance_type_offerings.zones[0].locations)
  }
}

resource "aws_instance" "machine" {
  count = var.instances

  ami                                  = local.imports == 1 ? aws_ami.image[0].id : var.image_id
  instance_type                        = var.machine_type
  subnet_id                            = local.choose_subnet == 1 ? one(slice(sort(data.aws_subnets.default[0].ids), 0, min(1, length(data.aws_subnets.default[0].ids)))) : var.subnet_id
  vpc_security_group_ids               = var.security_group_ids
  associate_public_ip_address          = var.public_ip
  instance_initiated_shutdown_behavior = var.on_shutdown
  tags                                 = local.tags
  volume_tags                          = local.tags

  metadata_options {
    http_tokens = "required"
  }

  dynamic "cpu_options" {
    for_each = var.snp ? [true] : []

    content {
      amd_sev_snp = "enabled"
    }
  }

  lifecycle {
    create_before_destroy = true

    precondition {
      condition     = local.choose_subnet == 0 || try(length(data.aws_subnets.default[0].ids), 0) > 0
      error_message = "No default subnet in a zone that offers ${var.machine_type}: give subnet_id, or another machine_type or region."
    }

    postcondition {
      condition     = !var.snp || try(self.cpu_options[0].amd_sev_snp, "") == "enabled"
      error_message = "The instance runs without SEV-SNP though it was asked for: trust it with nothing, and destroy it."
    }
  }
}
