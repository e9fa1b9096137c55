# What a user of the module says; what AWS would refuse is refused here, at plan time.

variable "name" {
  description = "Name of the image and the instance: lower-case letters, digits and hyphens, first a letter."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", var.name))
    error_message = "name: wanted lower-case letters, digits and hyphens, first a letter, at most 40 characters."
  }
}

variable "image_file" {
  description = "A disk that `cvmboot image build` made (.vmdk, .vhd or .raw): uploaded to `bucket` and imported. Or give image_id."
  type        = string
  default     = null

  validation {
    condition     = var.image_file == null || can(regex("\\.(vmdk|vhd|raw)$", var.image_file))
    error_message = "image_file: wanted a .vmdk, .vhd or .raw file, as `cvmboot image build -o disk.vmdk` makes them."
  }

  validation {
    condition     = (var.image_file == null) != (var.image_id == null)
    error_message = "image_file, image_id: give exactly one of them."
  }
}

variable "image_id" {
  description = "An AMI that is there, such as one that `cvmboot deploy ec2 --image-only` made. Or give image_file."
  type        = string
  default     = null

  validation {
    condition     = var.image_id == null || can(regex("^ami-[0-9a-f]{8,17}$", var.image_id))
    error_message = "image_id: wanted an id such as ami-0123456789abcdef0."
  }
}

variable "bucket" {
  description = "The bucket for image_file, private and in the provider's region. The role vmimport must be able to read it."
  type        = string
  default     = null

  validation {
    condition     = (var.bucket == null) == (var.image_file == null)
    error_message = "bucket: needed with image_file, and only with it."
  }
}

variable "import_role" {
  description = "The role by which AWS reads the bucket."
  type        = string
  default     = "vmimport"
}

variable "boot_mode" {
  description = "uefi for EFI applications; legacy-bios for images of ELF unikernels."
  type        = string
  default     = "uefi"

  validation {
    condition     = contains(["uefi", "legacy-bios"], var.boot_mode)
    error_message = "boot_mode: wanted uefi or legacy-bios."
  }
}

variable "tpm" {
  description = "A TPM 2.0 (NitroTPM), with boot_mode uefi."
  type        = bool
  default     = true
}

variable "uefi_data" {
  description = "UEFI variables with Secure Boot keys, as `cvmboot deploy uefi-data DIR` writes them."
  type        = string
  default     = null

  validation {
    condition     = var.uefi_data == null || (startswith(coalesce(var.uefi_data, "-"), "QU1aTlVFRk") && length(coalesce(var.uefi_data, "-")) <= 64000)
    error_message = "uefi_data: wanted at most 64,000 characters that begin with QU1aTlVFRk (AMZNUEFI)."
  }

  validation {
    condition     = var.uefi_data == null || (var.boot_mode == "uefi" && var.image_file != null)
    error_message = "uefi_data: is for boot_mode uefi and for an image that is made here (image_file)."
  }
}

variable "snp" {
  description = "An SEV-SNP confidential VM. Cannot be changed after the start: the instance is replaced."
  type        = bool
  default     = true

  validation {
    condition     = !var.snp || can(regex("^(m6a|c6a|r6a)\\.", var.machine_type))
    error_message = "snp: SEV-SNP needs a machine_type of m6a, c6a or r6a."
  }

  validation {
    condition     = !var.snp || var.boot_mode == "uefi"
    error_message = "snp: SEV-SNP needs boot_mode uefi."
  }
}

variable "machine_type" {
  description = "Instance type; with snp one of m6a, c6a, r6a."
  type        = string
  default     = "c6a.large"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]*\\.[a-z0-9-]+$", var.machine_type))
    error_message = "machine_type: wanted a type such as c6a.large."
  }

  validation {
    condition     = !can(regex("^[a-z]+[0-9]+[a-z]*g[a-z]*\\.", var.machine_type))
    error_message = "machine_type: this is an Arm machine, and images are for x86-64."
  }
}

variable "subnet_id" {
  description = "Default: the default VPC's."
  type        = string
  default     = null
}

variable "security_group_ids" {
  description = "Default: the VPC's default group."
  type        = list(string)
  default     = null
}

variable "public_ip" {
  description = "Whether the instance gets a public address."
  type        = bool
  default     = false
}

variable "on_shutdown" {
  description = "What a guest that powers off brings about: terminate (no more cost) or stop."
  type        = string
  default     = "terminate"

  validation {
    condition     = contains(["terminate", "stop"], var.on_shutdown)
    error_message = "on_shutdown: wanted terminate or stop."
  }
}

variable "encrypted" {
  description = "Encrypt snapshot and disk."
  type        = bool
  default     = false
}

variable "kms_key_id" {
  description = "Key for encrypted; default the account's EBS key."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_id == null || var.encrypted
    error_message = "kms_key_id: only with encrypted = true."
  }
}

variable "instances" {
  description = "How many machines; 0 makes the image only."
  type        = number
  default     = 1

  validation {
    condition     = var.instances >= 0 && var.instances <= 100 && floor(var.instances) == var.instances
    error_message = "instances: wanted a whole number from 0 to 100."
  }
}

variable "tags" {
  description = "Tags for everything that is made."
  type        = map(string)
  default     = {}
}
