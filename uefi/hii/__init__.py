"""Human interface infrastructure: packages, strings and the database that holds them (UEFI 2.10, chapters 33, 34)."""
