# Bucket, archive, image, machine: private, labelled, and confidential when asked.

locals {
  region = join("-", slice(split("-", var.zone), 0, 2))
  labels = merge(var.labels, { cvmboot = "terraform", cvmboot-name = var.name })
  # Other bytes are another object and another image: the machine is made anew of it.
  digest   = substr(filesha256(var.image_file), 0, 16)
  features = concat(["GVNIC", "VIRTIO_SCSI_MULTIQUEUE"], var.uefi ? ["UEFI_COMPATIBLE", "SEV_CAPABLE", "SEV_SNP_CAPABLE"] : [])
  bounded  = var.max_run_seconds != null
}

resource "google_storage_bucket" "archive" {
  project                     = var.project
  name                        = "${var.project}-${var.name}"
  location                    = local.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true
  labels                      = local.labels

  soft_delete_policy {
    retention_duration_seconds = 0
  }
}

resource "google_storage_bucket_object" "archive" {
  bucket       = google_storage_bucket.archive.name
  name         = "${var.name}-${local.digest}.tar.gz"
  source       = var.image_file
  content_type = "application/gzip"
}

resource "google_compute_image" "image" {
  project           = var.project
  name              = "${var.name}-${local.digest}"
  labels            = local.labels
  storage_locations = [local.region]

  raw_disk {
    source = "https://storage.googleapis.com/${google_storage_bucket.archive.name}/${google_storage_bucket_object.archive.name}"
  }

  dynamic "guest_os_features" {
    for_each = local.features
    content {
      type = guest_os_features.value
    }
  }

  dynamic "shielded_instance_initial_state" {
    for_each = var.secure_boot_keys == null ? [] : [var.secure_boot_keys]
    content {
      pk {
        content   = shielded_instance_initial_state.value.pk
        file_type = "X509"
      }
      dynamic "keks" {
        for_each = shielded_instance_initial_state.value.keks
        content {
          content   = keks.value
          file_type = "X509"
        }
      }
      dynamic "dbs" {
        for_each = shielded_instance_initial_state.value.dbs
        content {
          content   = dbs.value
          file_type = "X509"
        }
      }
      dynamic "dbxs" {
        for_each = shielded_instance_initial_state.value.dbxs
        content {
          content   = dbxs.value
          file_type = "BIN"
        }
      }
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_compute_instance" "machine" {
  project          = var.project
  zone             = var.zone
  name             = var.name
  machine_type     = var.machine_type
  min_cpu_platform = var.snp ? "AMD Milan" : null
  labels           = local.labels

  metadata = {
    serial-port-enable         = tostring(var.serial_input)
    serial-port-logging-enable = "true"
  }

  boot_disk {
    auto_delete = true
    initialize_params {
      image  = google_compute_image.image.self_link
      size   = var.disk_size_gb
      type   = var.disk_type
      labels = local.labels
    }
  }

  network_interface {
    network    = var.subnetwork == null ? var.network : null
    subnetwork = var.subnetwork
    nic_type   = var.nic

    dynamic "access_config" {
      for_each = var.public ? [1] : []
      content {}
    }
  }

  # No service_account block: the guest has no identity in the cloud.

  scheduling {
    on_host_maintenance         = var.snp || var.spot ? "TERMINATE" : "MIGRATE"
    automatic_restart           = !var.spot
    preemptible                 = var.spot
    provisioning_model          = var.spot ? "SPOT" : "STANDARD"
    instance_termination_action = var.spot || local.bounded ? "DELETE" : null

    dynamic "max_run_duration" {
      for_each = local.bounded ? [var.max_run_seconds] : []
      content {
        seconds = max_run_duration.value
      }
    }
  }

  dynamic "confidential_instance_config" {
    for_each = var.snp ? ["SEV_SNP"] : []
    content {
      # enable_confidential_compute alone would mean plain SEV.
      confidential_instance_type = confidential_instance_config.value
    }
  }

  dynamic "shielded_instance_config" {
    for_each = var.uefi ? [1] : []
    content {
      enable_secure_boot          = var.secure_boot
      enable_vtpm                 = true
      enable_integrity_monitoring = true
    }
  }

  lifecycle {
    precondition {
      condition     = !var.snp || (startswith(var.machine_type, "n2d-") && var.uefi)
      error_message = "SEV-SNP needs an N2D machine type and UEFI."
    }
  }
}
