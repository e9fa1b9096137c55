"""Collateral: the certificates and CRLs that a report's verification needs, from AMD's KDS, a cache, or a bundle."""
