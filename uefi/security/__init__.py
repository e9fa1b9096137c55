"""Signatures: EFI_SIGNATURE_LIST, PKCS#7 SignedData, and whether Secure Boot lets an image run."""
