# cvmboot image build app.efi -o app.vmdk
# terraform init && terraform apply -var bucket=my-bucket

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80"
    }
  }
}

provider "aws" {
  region = "us-east-2"
}

variable "bucket" {
  description = "A private bucket in us-east-2 that the role vmimport may read."
  type        = string
}

module "app" {
  source = "../.."

  name         = "app"
  image_file   = "${path.module}/app.vmdk"
  bucket       = var.bucket
  snp          = true
  machine_type = "c6a.large"
}

output "instance_ids" {
  value = module.app.instance_ids
}

output "confidential" {
  value = module.app.confidential
}
