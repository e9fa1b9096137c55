"""Evidence: the report in a file, and the certificates, CRLs and runtime data that came with it, whatever form they are in.

evidence = read_evidence(data)            # sev.evidence.read lists the forms; MalformedReport if there is none, or two
evidence.report                            # 1184 bytes
add_certificates(evidence, other)          # collateral from another file
"""

from sev.evidence.finds import LARGEST, Evidence, RuntimeData
from sev.evidence.read import add_certificates, read_evidence

__all__ = ["LARGEST", "Evidence", "RuntimeData", "add_certificates", "read_evidence"]
