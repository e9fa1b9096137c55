"""Snapshots: a machine's state in a file, and machines that go on from there."""
