"""Google Compute Engine: a bucket and an archive, an image of it, an instance; all private, all labelled."""
