"""`cvmboot attest verify --batch`: many records of evidence, judged by many processes or by a cluster, one JSON line for each.

records     where they come from: a folder, JSON lines, a table
loading     what a record says: evidence, certificates, expected values; its digest
judge       the verdict on a record, and its line
worker, cluster   who judges: a process of this machine, or the workers of a Dask cluster
collector   the one place that asks KDS
batch       which records are dealt, and what becomes of the replies
command     the command line

Processes, cluster, dealing and the output are `cvmboot.crew`'s, which knows nothing of evidence.
"""
