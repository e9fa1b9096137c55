"""The files that a disk can lie in: raw, GCE's tar.gz, VMDK, VHD, qcow2. Each format one reader and one writer."""
