"""GDB's remote serial protocol over a machine (GDB manual, appendix E)."""
