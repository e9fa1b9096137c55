"""A stand-in for Google Cloud over real sockets: Compute Engine, Cloud Storage and the OAuth 2.0 token endpoint.

Every request is held against the official discovery documents (module discovery), then against rules that no document has
(module rules). It keeps state, operations take their time, and it can be told to fail, to break off, or to kill its client.
"""
