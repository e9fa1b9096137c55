"""Figures of cvmboot beside QEMU and OVMF, measured in one run: `make bench` or `python -m benchmarks`."""
