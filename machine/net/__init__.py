"""Networks that a machine's network devices are plugged into: back ends, and what wraps them."""
