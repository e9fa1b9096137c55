# What other modules, and a verifier of the machine's reports, want to know.

output "image_id" {
  description = "The AMI."
  value       = local.imports == 1 ? aws_ami.image[0].id : var.image_id
}

output "image_file_sha256" {
  description = "SHA-256 of image_file; null with image_id."
  value       = local.imports == 1 ? local.digest : null
}

output "snapshot_id" {
  description = "The imported snapshot; null with image_id."
  value       = one(aws_ebs_snapshot_import.image[*].id)
}

output "instance_ids" {
  description = "The machines."
  value       = aws_instance.machine[*].id
}

output "private_ips" {
  description = "Their addresses in the VPC."
  value       = aws_instance.machine[*].private_ip
}

output "public_ips" {
  description = "Their public addresses, empty without public_ip."
  value       = var.public_ip ? aws_instance.machine[*].public_ip : []
}

output "confidential" {
  description = "Whether EC2 says of each machine that it runs as an SEV-SNP guest."
  value       = [for machine in aws_instance.machine : try(machine.cpu_options[0].amd_sev_snp, "") == "enabled"]
}
