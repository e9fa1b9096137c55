"""Boards: which devices a machine has and where they answer."""
