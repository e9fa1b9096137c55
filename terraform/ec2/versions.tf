# The versions that the tests use: validations look at other variables (Terraform 1.9), aws_ami has uefi_data (5.x).
terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80"
    }
  }
}
