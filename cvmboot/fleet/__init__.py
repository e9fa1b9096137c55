"""`cvmboot attest verify --batch`: many records of evidence, judged by many processes or by a cluster, one JSON line for each.

records     where they come from: a folder, JSON lines, a table
loading     what a record says: evidence, certificates, expected values; its digest
judge       the verdict on a record, and its line
worker, crew, cluster   who judges: processes of this machine, or a Dask cluster
collector   the one place that asks KDS
journal     the output, and what of it is finished already
batch       deals records out, redoes what got lost
command     the command line
"""
