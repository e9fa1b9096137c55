# A go-boot machine with SEV-SNP that ends by itself after eight hours:
#   cvmboot image build go-boot.efi -o go-boot.tar.gz
#   terraform init && terraform apply -var project=my-project

variable "project" {
  description = "The project's id."
  type        = string
}

provider "google" {
  project = var.project
}

module "machine" {
  source = "../.."

  project         = var.project
  zone            = "europe-west4-a"
  name            = "go-boot"
  image_file      = "${path.module}/go-boot.tar.gz"
  snp             = true
  max_run_seconds = 8 * 3600
}

output "console" {
  description = "Shows the serial console."
  value       = module.machine.console
}
