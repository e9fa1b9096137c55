"""The variable services: semantics, authentication, Secure Boot modes, and the file that keeps variables."""
