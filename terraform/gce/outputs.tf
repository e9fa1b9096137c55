# What a caller wants to know.

output "instance" {
  description = "The machine's self link."
  value       = google_compute_instance.machine.self_link
}

output "instance_id" {
  description = "The machine's number."
  value       = google_compute_instance.machine.instance_id
}

output "image" {
  description = "The image's self link."
  value       = google_compute_image.image.self_link
}

output "archive_sha256" {
  description = "SHA-256 of the archive that was sent; `cvmboot image inspect` shows that of the disk in it."
  value       = filesha256(var.image_file)
}

output "address" {
  description = "The address inside the network."
  value       = google_compute_instance.machine.network_interface[0].network_ip
}

output "public_address" {
  description = "The public address; null without one."
  value       = try(google_compute_instance.machine.network_interface[0].access_config[0].nat_ip, null)
}

output "cpu_platform" {
  description = "What the machine runs on: AMD Milan with snp."
  value       = google_compute_instance.machine.cpu_platform
}

output "console" {
  description = "Shows the serial console."
  value       = "gcloud compute instances tail-serial-port-output ${var.name} --zone ${var.zone} --project ${var.project}"
}
