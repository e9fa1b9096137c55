"""A stand-in for AWS: moto's server, and over it what moto drops, does not know or does not refuse (see each module).

It refuses what AWS refuses, and what was sent can be read back. For tests and benchmarks; it holds no line of the program's own.
"""
