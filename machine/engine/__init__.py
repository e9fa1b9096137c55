"""CPU engines: who executes guest instructions."""
