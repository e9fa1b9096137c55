"""SEV-SNP without a machine: attestation reports, certificates, verification, and the emulated platform that signs.

Everything here works on bytes and knows nothing else of this project; `sev.guest` is the half that a running guest talks to.
"""
