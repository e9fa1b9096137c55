"""`cvmboot matrix`: many boots at once, each held against what it should show.

keys        what may stand in a file, and what it means
reading     a TOML file, checked
expansion   cases of axes: what is combined, left out, added, and its name
case        one case, and the record that goes to whoever plays it
contents    files of cases: their digests and bytes
play        boots a case's machine and follows its script
worker, cluster   who plays: a process of this machine, or the workers of a Dask cluster
run         deals cases out and keeps their results
report, table, junit   what people and CI servers are shown
schema      the JSON Schema of the file
command     the command line
"""
