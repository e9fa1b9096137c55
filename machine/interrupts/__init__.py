"""Interrupt controllers: the 8259 pair, the local and I/O APICs, and the wiring between them."""
