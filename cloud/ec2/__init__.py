"""Amazon EC2: EBS direct uploads, images, instances."""
