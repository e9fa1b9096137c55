# What the module takes. Each is checked here, before Google sees anything.

variable "project" {
  description = "The project's id."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project's id has 6 to 30 lower-case letters, digits and hyphens, first a letter."
  }
}

variable "zone" {
  description = "Where the machine runs; with snp it must have AMD Milan: gcloud compute zones describe ZONE."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+-[a-z]$", var.zone))
    error_message = "A zone is called such as europe-west4-a."
  }
}

variable "name" {
  description = "Of machine, image and bucket; the bucket gets the project in front, which makes it unique."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", var.name))
    error_message = "A name has at most 40 lower-case letters, digits and hyphens, first a letter."
  }
}

variable "image_file" {
  description = "The archive that `cvmboot image build app.efi -o app.tar.gz` made."
  type        = string

  validation {
    condition     = endswith(var.image_file, ".tar.gz")
    error_message = "Compute Engine imports disk.raw in a tar.gz: cvmboot image build app.efi -o app.tar.gz."
  }
}

variable "uefi" {
  description = "Whether the image boots by UEFI; false for the BIOS images that `image build app.elf` makes."
  type        = bool
  default     = true
}

variable "snp" {
  description = "An SEV-SNP confidential VM: N2D on AMD Milan, ended and not moved when its host needs care."
  type        = bool
  default     = true

  validation {
    condition     = !var.snp || var.uefi
    error_message = "SEV-SNP needs UEFI: uefi = true, or snp = false."
  }
}

variable "machine_type" {
  description = "With snp an N2D type."
  type        = string
  default     = "n2d-standard-2"

  validation {
    condition     = can(regex("^[a-z][a-z0-9]*-[a-z0-9-]+$", var.machine_type))
    error_message = "A machine type is called such as n2d-standard-2."
  }

  validation {
    condition     = !var.snp || startswith(var.machine_type, "n2d-")
    error_message = "SEV-SNP is there on N2D machine types only, such as n2d-standard-2."
  }
}

variable "nic" {
  description = "The network card: GVNIC or VIRTIO_NET."
  type        = string
  default     = "GVNIC"

  validation {
    condition     = contains(["GVNIC", "VIRTIO_NET"], var.nic)
    error_message = "The network card is GVNIC or VIRTIO_NET."
  }
}

variable "network" {
  description = "The network's name or self link."
  type        = string
  default     = "default"
}

variable "subnetwork" {
  description = "The subnetwork's name or self link; null for the network's own in the region."
  type        = string
  default     = null
}

variable "public" {
  description = "Whether the machine gets a public address."
  type        = bool
  default     = false
}

variable "spot" {
  description = "A Spot VM: cheaper, and deleted when Google needs its place."
  type        = bool
  default     = false
}

variable "max_run_seconds" {
  description = "Delete the machine after so many seconds, 30 to 120 days; null to let it run."
  type        = number
  default     = null

  validation {
    condition     = var.max_run_seconds == null ? true : var.max_run_seconds >= 30 && var.max_run_seconds <= 10368000
    error_message = "The run time is 30 to 10368000 seconds (120 days)."
  }
}

variable "disk_size_gb" {
  description = "Of the boot disk; at least the image's size, and 10."
  type        = number
  default     = 10

  validation {
    condition     = var.disk_size_gb >= 10 && floor(var.disk_size_gb) == var.disk_size_gb
    error_message = "A boot disk has at least 10 whole GiB."
  }
}

variable "disk_type" {
  description = "Of the boot disk."
  type        = string
  default     = "pd-balanced"
}

variable "secure_boot" {
  description = "Whether firmware refuses applications that db does not allow."
  type        = bool
  default     = false

  validation {
    condition     = !var.secure_boot || var.uefi
    error_message = "Secure Boot needs UEFI."
  }
}

variable "secure_boot_keys" {
  description = "Keys for the firmware, each base64 of a certificate in DER (dbx: of EFI_SIGNATURE_LISTs); null for Google's."
  type = object({
    pk   = string
    keks = list(string)
    dbs  = list(string)
    dbxs = optional(list(string), [])
  })
  default = null

  validation {
    condition     = var.secure_boot_keys == null ? true : var.uefi && length(var.secure_boot_keys.keks) > 0 && length(var.secure_boot_keys.dbs) > 0
    error_message = "Secure Boot keys need UEFI, a KEK and a db beside the PK."
  }
}

variable "serial_input" {
  description = "Whether `gcloud compute connect-to-serial-port` may write to the machine's console."
  type        = bool
  default     = true
}

variable "labels" {
  description = "Further labels."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for key, value in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", key)) && can(regex("^[a-z0-9_-]{0,63}$", value))
    ])
    error_message = "Labels are lower-case letters, digits, hyphens and underscores, at most 63."
  }
}
