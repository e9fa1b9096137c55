# The attributes used are those of hashicorp/google 6.36.0; tests/cloud/test_terraform_gce.py has the list.
terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.36.0, < 8.0.0"
    }
  }
}
