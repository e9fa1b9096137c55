"""Work for many processes or machines: what `attest verify --batch` and `matrix` have in common.

chunk     records that are worked on together, and what a crew is
local     a crew of processes of this machine
member    the script that such a process runs
life      what its main loop has in common
cluster   a crew on a Dask scheduler
dealer    deals records out, redoes what got lost
journal   the output: a line for each record, and what of it is finished already
"""
