"""EFI device paths: binary nodes, whole paths, and their text (UEFI 2.10, chapter 10)."""
